"""What fixes the shape of a CoAtNet, and the layers that it makes of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import keras

from coatnet_tf.layers import MBConv, MBConvConfig, TransformerBlock, TransformerConfig, common, pooling
from coatnet_tf.layers.options import Options, PositiveInt, Rate, Requirement, Strides, make
from coatnet_tf.network import ImageShape, Network, Preprocessing, classifier_layers

Head = Literal["pool_norm_hidden", "norm_pool", "pool"]
RESERVED_NAMES = ("stem", "head", "image", "preprocessing", "predictions")  # of other layers
LAYOUT_LETTERS = {"C": "mbconv", "T": "transformer"}
STEM_STRIDES = (1, 2, 4, 8, 16, 32)


def _is_initializer_name(value: Any) -> bool:
    try:
        return isinstance(value, str) and keras.initializers.get(value) is not None
    except ValueError:
        return False


InitializerName = Annotated[
    str, Requirement("the name of a Keras initializer, such as lecun_normal,", _is_initializer_name)
]
StageName = Annotated[
    str,
    Requirement(
        f"a lower-case letter, then letters and digits, and none of {', '.join(RESERVED_NAMES)}",
        lambda x: isinstance(x, str) and bool(re.fullmatch("[a-z][a-z0-9]*", x)) and x not in RESERVED_NAMES,
    ),
]
StemStride = Annotated[
    int, Requirement(f"one of {', '.join(map(str, STEM_STRIDES))}", lambda x: x in STEM_STRIDES and x is not True)
]


@dataclasses.dataclass(frozen=True)
class StageConfig(Options):
    """A run of equal blocks: one cell of the paper's tables, e.g. `L5 D384`.

    Consecutive runs with the same `name` are one stage of the paper, as S3 of CoAtNet-6 and -7,
    which begins with MBConv blocks and goes on with Transformer blocks.

    Args:
        name: Stage name, a prefix of the layers' names (`"s3"`).
        block: `"mbconv"` or `"transformer"`.
        depth: Number of blocks (L).
        width: Number of output channels of each block (D).
        stride: 2 if the first block halves the resolution, else 1.

    Raises:
        ValueError: If a field is out of its range.
    """

    name: StageName
    block: Literal["mbconv", "transformer"]
    depth: PositiveInt
    width: PositiveInt
    stride: Strides = 2

    def _where(self) -> str:
        return f"Stage {self.name!r}: "


@dataclasses.dataclass(frozen=True)
class StemConfig(Options):
    """S0: convolutions, all but the last with a norm and an activation, which are those of the MBConv blocks.

    Args:
        stem_depth: Number of convolutions.
        stem_width: Channels of all, or of each convolution.
        stem_stride: Stride of the first convolution: 1, which suits small images, 2, or more for patches.
        stem_kernel_size: Kernel of the convolutions, at least the stride. One convolution with a kernel as large as its
            stride is the stem of ViT (Figure 1).
        stem_bias: Whether the convolutions have a bias.

    Raises:
        ValueError: If a field is out of its range, or the fields do not fit together.
    """

    stem_depth: PositiveInt
    stem_width: PositiveInt | tuple[PositiveInt, ...]
    stem_stride: StemStride = 2
    stem_kernel_size: PositiveInt = 3
    stem_bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.widths) != self.stem_depth:
            raise ValueError(
                f"stem_width must be a positive integer, or one for each of the {self.stem_depth} convolutions of "
                f"stem_depth; got {self.stem_width!r}."
            )
        if self.stem_stride > self.stem_kernel_size:
            raise ValueError(
                f"stem_stride must be at most the stem_kernel_size of {self.stem_kernel_size}, or pixels would be left "
                f"out; got {self.stem_stride!r}."
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each convolution."""
        return self.stem_width if isinstance(self.stem_width, tuple) else (self.stem_width,) * self.stem_depth

    def layers(self, mbconv: MBConvConfig, initializer: Any, dtype: Any = None) -> list[keras.layers.Layer]:
        """The unbuilt layers `stem_conv01`, `stem_norm01`, ..., with norms and activations of the MBConv blocks."""
        layers = []
        for number, width in enumerate(self.widths, start=1):
            strides = self.stem_stride if number == 1 else 1
            centred = self.stem_kernel_size > strides > 1 and mbconv.padding == "centred"
            if centred:
                layers.append(
                    pooling.make_padding(self.stem_kernel_size, dtype=dtype, name=f"stem_padding{number:02d}")
                )
            layers.append(
                common.conv(
                    width,
                    self.stem_kernel_size,
                    initializer,
                    padding="valid" if centred else "same",
                    strides=strides,
                    use_bias=self.stem_bias,
                    dtype=dtype,
                    name=f"stem_conv{number:02d}",
                )
            )
            if number < self.stem_depth:  # no norm after the last
                norm = common.make_norm(
                    mbconv.conv_norm, mbconv.conv_norm_epsilon, dtype=dtype, name=f"stem_norm{number:02d}"
                )
                layers += [norm, common.activation(mbconv.activation, dtype=dtype, name=f"stem_act{number:02d}")]
        return layers


@dataclasses.dataclass(frozen=True)
class CoAtNetConfig(Options, Network):
    """Everything that fixes the shape of a CoAtNet; the defaults are the paper's.

    Args:
        name: Model name, e.g. `"coatnet-0"`.
        stem: S0.
        stages: The runs of blocks of S1, S2, ..., in order.
        mbconv: Options of the MBConv blocks; the stem takes their norm, activation and padding.
        transformer: Options of the Transformer blocks; the head takes their norm.
        head: `"pool_norm_hidden"` (pool, norm, Dense + tanh, Dense: the paper's code), `"norm_pool"` (norm, pool,
            Dense) or `"pool"` (pool, Dense).
        preprocessing: What images in [0, 255] become: `"tf"`, [-1, 1], or `"torch"`, mean and standard deviation of
            ImageNet's channels.
        kernel_initializer: Name of the Keras initializer of all kernels; `None` is the paper's, normal(0.02),
            which is far too small for narrow networks: `"lecun_normal"` suits those.
        drop_path_rate: Stochastic depth rate of the last block; earlier ones rise to it linearly from 0.
        dropout: Dropout rate before the classifier.

    Raises:
        ValueError: If a field is out of its range or the fields do not fit together.

    Example:
    >>> import coatnet_tf
    >>> config = coatnet_tf.get_config("coatnet-2")
    >>> [f"L{stage.depth} D{stage.width}" for stage in config.stages]
    ['L2 D128', 'L6 D256', 'L14 D512', 'L2 D1024']
    >>> coatnet_tf.get_config(config, head_size=64).transformer.attention.head_size  # Table 8
    64
    """

    name: str
    stem: StemConfig
    stages: tuple[StageConfig, ...]
    mbconv: MBConvConfig = MBConvConfig()
    transformer: TransformerConfig = TransformerConfig()
    head: Head = "pool_norm_hidden"
    preprocessing: Preprocessing = "tf"
    kernel_initializer: InitializerName | None = None
    drop_path_rate: Rate = 0.0
    dropout: Rate = 0.0

    def _where(self) -> str:
        return f"{self.name}: "

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stages:
            raise ValueError(f"{self.name}: stages must be a non-empty tuple of StageConfig; got {self.stages!r}.")
        names = [stage.name for stage in self.stages]
        runs = [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
        if len(runs) != len(set(runs)):
            raise ValueError(
                f"{self.name}: stages of one name must follow one another; got the order {', '.join(names)}."
            )
        width = self.stem.widths[-1]
        for stage in self.stages:
            if stage.block == "transformer":
                self._check_heads(stage, stage.width)
                if self.transformer.attention.attention_width == "input":
                    self._check_heads(stage, width)
            width = stage.width

    def _check_heads(self, stage: StageConfig, width: int) -> None:
        head_size = self.transformer.attention.head_size
        if width % head_size:
            raise ValueError(
                f"{self.name}: head_size {head_size} must divide the width of q, k and v in every Transformer "
                f"stage, and does not divide {width} of stage {stage.name!r}."
            )

    @property
    def num_blocks(self) -> int:
        """Number of residual blocks, all stages together."""
        return sum(stage.depth for stage in self.stages)

    def strides(self) -> list[tuple[str, int]]:
        return [("s0", self.stem.stem_stride), *((stage.name, stage.stride) for stage in self.stages)]

    def feature_layers(self, input_shape: ImageShape, dtype: Any = None) -> list[keras.layers.Layer]:
        layers = self.stem.layers(self.mbconv, self.kernel_initializer, dtype)
        rates = iter(self.drop_path_rates(self.num_blocks))
        names = iter(self.block_names())
        for stage in self.stages:
            for number in range(stage.depth):
                strides = stage.stride if number == 0 else 1
                shape: dict[str, Any] = {
                    "filters": stage.width,
                    "strides": strides,
                    "drop_path_rate": next(rates),
                    "kernel_initializer": self.kernel_initializer,
                    "dtype": dtype,
                    "name": next(names),
                }
                if stage.block == "mbconv":
                    layers.append(MBConv(config=self.mbconv, **shape))
                else:
                    layers.append(TransformerBlock(config=self.transformer, **shape))
        return layers

    def block_names(self) -> list[str]:
        """Names of the blocks, `s1_block01`, ..., numbered through in each stage of the paper."""
        names: list[str] = []
        for stage in self.stages:
            before = sum(name.startswith(f"{stage.name}_") for name in names)
            names += [f"{stage.name}_block{before + number:02d}" for number in range(1, stage.depth + 1)]
        return names

    def pyramid_layers(self) -> dict[str, str]:
        """Name of the last layer at each stride 2, 4, ..., by `"P1"`, `"P2"`, ..., the logarithm of the stride."""
        level = self.stem.stem_stride.bit_length() - 1
        last = {f"P{level}": f"stem_conv{self.stem.stem_depth:02d}"}
        names, done = self.block_names(), 0
        for stage in self.stages:
            level += stage.stride.bit_length() - 1
            done += stage.depth
            last[f"P{level}"] = names[done - 1]
        return last

    def head_layers(self, classes: int, activation: Any, dtype: Any = None) -> list[keras.layers.Layer]:
        pool = keras.layers.GlobalAveragePooling2D(data_format="channels_last", dtype=dtype, name="head_pool")
        norm = common.make_norm(
            self.transformer.transformer_norm,
            self.transformer.transformer_norm_epsilon,
            dtype=dtype,
            name="head_norm",
        )
        hidden = common.dense(
            self.stages[-1].width, self.kernel_initializer, activation="tanh", dtype=dtype, name="head_hidden"
        )
        layers = {"pool": [pool], "norm_pool": [norm, pool], "pool_norm_hidden": [pool, norm, hidden]}[self.head]
        return layers + classifier_layers(classes, activation, self.dropout, self.kernel_initializer, dtype)


def make_config(
    name: str,
    depths: Sequence[int],
    widths: Sequence[int],
    layout: str = "CCTT",
    strides: Sequence[int] | None = None,
    **fields: Any,
) -> CoAtNetConfig:
    """Builds a configuration from one depth, width and stride for each of S0, S1, ...

    Args:
        name: Model name.
        depths: Number of convolutions of S0, then of blocks of each stage (five numbers in the paper).
        widths: Channels of S0 and of each stage.
        layout: Block type of S1, S2, ...: `C` for MBConv, `T` for Transformer; hyphens are ignored.
        strides: Stride of S0 and of each stage; all 2 by default.
        **fields: Other fields of `CoAtNetConfig`, or of the options in it by their own names, such as `head_size`.

    Returns:
        A `CoAtNetConfig` with stages `s1`, `s2`, ...

    Raises:
        ValueError: If the lengths disagree, or a letter or field is unknown or refused.

    Example (a C-T-T-T network for 32 x 32 images):

    >>> from coatnet_tf import make_config
    >>> config = make_config("tiny", (1, 1, 1, 2, 1), (16, 32, 64, 64, 96), "C-T-T-T", (1, 2, 2, 2, 1))
    >>> config.total_stride
    8
    """
    letters = layout.replace("-", "").upper()
    strides = (2,) * len(depths) if strides is None else strides
    if not len(depths) == len(widths) == len(strides) == len(letters) + 1:
        raise ValueError(
            f"{name}: depths, widths and strides need one number for S0 and one for each letter of the layout; got "
            f"{len(depths)}, {len(widths)} and {len(strides)} numbers for layout {layout!r}."
        )
    for letter in letters:
        if letter not in LAYOUT_LETTERS:
            raise ValueError(f"{name}: layout letter must be one of {', '.join(LAYOUT_LETTERS)}; got {letter!r}.")
    stages = tuple(
        StageConfig(f"s{i}", LAYOUT_LETTERS[letter], depths[i], widths[i], strides[i])  # type: ignore[arg-type]
        for i, letter in enumerate(letters, start=1)
    )
    stem = {"stem_depth": depths[0], "stem_width": widths[0], "stem_stride": strides[0]}
    return make(CoAtNetConfig, name=name, stages=stages, **{**stem, **fields})
