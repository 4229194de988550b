"""What fixes the shape of a CoAtNet."""

from __future__ import annotations

import dataclasses
import numbers
import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from coatnet_tf.layers.common import ACTIVATIONS, NORMS
from coatnet_tf.layers.mbconv import DOWNSAMPLING, EXPANSION_OF, SE_RATIO_OF
from coatnet_tf.layers.pooling import PADDINGS, POOLS
from coatnet_tf.layers.relative_attention import BIAS_REINDEXING, WIDTHS

RESERVED_NAMES = ("stem", "head", "image", "preprocessing", "predictions")  # of other layers
BLOCKS = ("mbconv", "transformer")
LAYOUT_LETTERS = {"C": "mbconv", "T": "transformer"}
HEADS = ("pool_norm_hidden", "norm_pool", "pool")
PREPROCESSING = ("tf", "torch")
STEM_STRIDES = (1, 2, 4, 8, 16, 32)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def is_positive_int(value: Any) -> bool:
    """Whether a value is an integer of Python or NumPy, and positive."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 1


def _require_known(field: str, value: Any, known: Sequence[str]) -> None:
    _require(value in known, f"{field} must be one of {', '.join(known)}; got {value!r}.")


def _require_initializer(name: str, identifier: str) -> None:
    try:
        keras.initializers.get(identifier)
    except ValueError as error:
        raise ValueError(
            f"{name}: kernel_initializer must name a Keras initializer, such as lecun_normal; got {identifier!r}."
        ) from error


@dataclasses.dataclass(frozen=True)
class StageConfig:
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

    name: str
    block: str
    depth: int
    width: int
    stride: int = 2

    def __post_init__(self) -> None:
        _require(
            bool(re.fullmatch("[a-z][a-z0-9]*", self.name)) and self.name not in RESERVED_NAMES,
            f"A stage's name must be a lower-case letter, then letters and digits, and none of "
            f"{', '.join(RESERVED_NAMES)}; got {self.name!r}.",
        )
        where = f"Stage {self.name!r}:"
        _require_known(f"{where} block", self.block, BLOCKS)
        for field in ("depth", "width"):
            value = getattr(self, field)
            _require(is_positive_int(value), f"{where} {field} must be a positive integer; got {value!r}.")
        _require(self.stride in (1, 2), f"{where} stride must be 1 or 2; got {self.stride!r}.")


_CHOICES: dict[str, Sequence[str]] = {
    "downsampling": DOWNSAMPLING,
    "conv_norm": NORMS,
    "bias_reindexing": BIAS_REINDEXING,
    "preprocessing": PREPROCESSING,
    "padding": PADDINGS,
    "pool": POOLS,
    "activation": ACTIVATIONS,
    "expansion_of": EXPANSION_OF,
    "se_ratio_of": SE_RATIO_OF,
    "se_activation": ACTIVATIONS,
    "transformer_norm": NORMS,
    "transformer_activation": ACTIVATIONS,
    "attention_width": WIDTHS,
    "head": HEADS,
}


@dataclasses.dataclass(frozen=True)
class CoAtNetConfig:
    """Everything that fixes the shape of a CoAtNet.

    The defaults are the paper's and its authors' code. The fields from `preprocessing` on are for networks that
    other people built and trained differently: see `coatnet_tf.family`.

    Args:
        name: Model name, e.g. `"coatnet-0"`.
        stem_depth: Number of convolutions of S0.
        stem_width: Channels of S0, or of each of its convolutions.
        stages: The runs of blocks of S1, S2, ..., in order.
        stem_stride: Stride of the first convolution of S0: 1, which suits small images, 2, or more for patches.
        stem_kernel_size: Kernel of the convolutions of S0, at least the stride. One convolution with a kernel as large
            as its stride is the stem of ViT (Figure 1).
        head_size: Channels of one attention head; divides every Transformer width.
        downsampling: Place of the stride in an MBConv block: `"expand_conv"` (Eq. 5, the paper's
            default), `"depthwise_conv"` (the dagger variant of Table 5) or `"avg_pool"` (before the expansion).
        conv_norm: Norm of the stem and the MBConv blocks: `"batch_norm"`, `"sync_batch_norm"` (the
            same with statistics over all replicas of a `tf.distribute` strategy; TensorFlow backend
            only), or `"layer_norm"` (Table 8).
        relative_attention: `False` drops the relative position bias (Table 6).
        bias_reindexing: `"gather"`, or `"einsum"` as on TPU, where scatters are slow.
        kernel_initializer: Name of the Keras initializer of all kernels; `None` is the paper's, normal(0.02),
            which is far too small for narrow networks: `"lecun_normal"` suits those.
        drop_path_rate: Stochastic depth rate of the last block; earlier ones rise to it linearly from 0.
        dropout: Dropout rate before the classifier.
        preprocessing: What images in [0, 255] become: `"tf"`, [-1, 1], or `"torch"`, mean and standard deviation of
            ImageNet's channels.
        padding: Border of 3x3 convolutions with stride 2: `"same"`, or `"centred"` as in PyTorch.
        pool: Pool of shortcuts and attention where they halve the resolution: `"max"` or `"avg"` of 2x2, or `"max3"`
            of 3x3 as in PyTorch.
        activation: Of the stem and the MBConv blocks: `"gelu_tanh"`, `"gelu"` (exact), `"silu"` or `"relu"`.
        conv_norm_epsilon: Epsilon of the norms of the stem and the MBConv blocks.
        stem_bias: Whether the convolutions of the stem have a bias.
        conv_bias: Whether MBConv's projections to the output width have a bias, the shortcut's included.
        pre_norm_activation: Whether an activation follows the first norm of an MBConv block.
        expansion_of: Whether an MBConv block widens to four times its `"output"` or its `"input"` width.
        se_ratio: Hidden width of squeeze-and-excitation over the block's width.
        se_ratio_of: Whether that is the `"output"` width or the `"inner"` one.
        se_activation: Activation of squeeze-and-excitation.
        se_before_norm: Whether squeeze-and-excitation comes before the norm of the depthwise convolution.
        transformer_norm: Norm of the Transformer blocks and the head, named as `conv_norm`.
        transformer_norm_epsilon: Its epsilon.
        transformer_activation: Activation of the feed-forward networks.
        attention_width: Width of q, k and v: the block's `"output"` or its `"input"` width.
        attention_bias: Whether the projections of the attention have a bias.
        shortcut_bias: Whether the projections of the Transformer blocks' shortcuts have a bias.
        ffn_bias: Whether the feed-forward networks have biases.
        relative_mlp_units: `None` for a table a head, or the width of the network that computes the tables.
        layer_scale: What the `LayerScale` of the Transformer blocks' branches begins at; `None` for none.
        head: `"pool_norm_hidden"` (pool, norm, Dense + tanh, Dense: the paper's code), `"norm_pool"` (norm, pool,
            Dense) or `"pool"` (pool, Dense).

    Raises:
        ValueError: If a field is out of its range or the fields do not fit together.

    Example:
    >>> import dataclasses
    >>> import coatnet_tf
    >>> config = coatnet_tf.get_config("coatnet-2")
    >>> [f"L{stage.depth} D{stage.width}" for stage in config.stages]
    ['L2 D128', 'L6 D256', 'L14 D512', 'L2 D1024']
    >>> dataclasses.replace(config, head_size=64).head_size  # Table 8
    64
    """

    name: str
    stem_depth: int
    stem_width: int | tuple[int, ...]
    stages: tuple[StageConfig, ...]
    stem_stride: int = 2
    stem_kernel_size: int = 3
    head_size: int = 32
    downsampling: str = "expand_conv"
    conv_norm: str = "batch_norm"
    relative_attention: bool = True
    bias_reindexing: str = "gather"
    kernel_initializer: str | None = None
    drop_path_rate: float = 0.0
    dropout: float = 0.0
    preprocessing: str = "tf"
    padding: str = "same"
    pool: str = "max"
    activation: str = "gelu_tanh"
    conv_norm_epsilon: float | None = None
    stem_bias: bool = True
    conv_bias: bool = True
    pre_norm_activation: bool = False
    expansion_of: str = "output"
    se_ratio: float = 0.25
    se_ratio_of: str = "output"
    se_activation: str = "silu"
    se_before_norm: bool = False
    transformer_norm: str = "layer_norm"
    transformer_norm_epsilon: float | None = None
    transformer_activation: str = "gelu_tanh"
    attention_width: str = "output"
    attention_bias: bool = True
    shortcut_bias: bool = True
    ffn_bias: bool = True
    relative_mlp_units: int | None = None
    layer_scale: float | None = None
    head: str = "pool_norm_hidden"

    def __post_init__(self) -> None:
        for field in ("stem_depth", "stem_kernel_size", "head_size"):
            value = getattr(self, field)
            _require(is_positive_int(value), f"{self.name}: {field} must be a positive integer; got {value!r}.")
        _require(
            len(self.stem_widths) == self.stem_depth and all(map(is_positive_int, self.stem_widths)),
            f"{self.name}: stem_width must be a positive integer, or one for each of the {self.stem_depth} "
            f"convolutions of stem_depth; got {self.stem_width!r}.",
        )
        _require(
            self.stem_stride in STEM_STRIDES and self.stem_stride <= self.stem_kernel_size,
            f"{self.name}: stem_stride must be one of {', '.join(map(str, STEM_STRIDES))}, and at most the "
            f"stem_kernel_size of {self.stem_kernel_size}, or pixels would be left out; got {self.stem_stride!r}.",
        )
        for field, known in _CHOICES.items():
            _require_known(f"{self.name}: {field}", getattr(self, field), known)
        if self.kernel_initializer is not None:
            _require_initializer(self.name, self.kernel_initializer)
        for field in ("drop_path_rate", "dropout"):
            value = getattr(self, field)
            _require(0.0 <= value < 1.0, f"{self.name}: {field} must be at least 0 and below 1; got {value!r}.")
        _require(
            bool(self.stages) and all(isinstance(stage, StageConfig) for stage in self.stages),
            f"{self.name}: stages must be a non-empty tuple of StageConfig; got {self.stages!r}.",
        )
        names = [stage.name for stage in self.stages]
        runs = [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
        _require(
            len(runs) == len(set(runs)),
            f"{self.name}: stages of one name must follow one another; got the order {', '.join(names)}.",
        )
        width = self.stem_widths[-1]
        for stage in self.stages:
            if stage.block == "transformer":
                self._check_heads(stage, stage.width)
                if self.attention_width == "input":
                    self._check_heads(stage, width)
            width = stage.width

    def _check_heads(self, stage: StageConfig, width: int) -> None:
        _require(
            width % self.head_size == 0,
            f"{self.name}: head_size {self.head_size} must divide the width of q, k and v in every Transformer "
            f"stage, and does not divide {width} of stage {stage.name!r}.",
        )

    @property
    def stem_widths(self) -> tuple[int, ...]:
        """Channels of each convolution of S0."""
        return self.stem_width if isinstance(self.stem_width, tuple) else (self.stem_width,) * self.stem_depth

    @property
    def total_stride(self) -> int:
        """Input pixels per position of the last feature map, along each axis."""
        stride = self.stem_stride
        for stage in self.stages:
            stride *= stage.stride
        return stride

    @property
    def num_blocks(self) -> int:
        """Number of residual blocks, all stages together."""
        return sum(stage.depth for stage in self.stages)


def require_fields(names: Iterable[str], config_class: Any = CoAtNetConfig) -> None:
    """Refuses names of fields that a dataclass does not have."""
    known = [field.name for field in dataclasses.fields(config_class)]
    for name in names:
        _require(name in known, f"{config_class.__name__} has no field {name!r}; its fields are {', '.join(known)}.")


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
        **fields: Other fields of `CoAtNetConfig`.

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
    require_fields(fields)
    letters = layout.replace("-", "").upper()
    strides = (2,) * len(depths) if strides is None else strides
    _require(
        len(depths) == len(widths) == len(strides) == len(letters) + 1,
        f"{name}: depths, widths and strides need one number for S0 and one for each letter of the layout; got "
        f"{len(depths)}, {len(widths)} and {len(strides)} numbers for layout {layout!r}.",
    )
    for letter in letters:
        _require_known(f"{name}: layout letter", letter, tuple(LAYOUT_LETTERS))
    stages = tuple(
        StageConfig(f"s{i}", LAYOUT_LETTERS[letter], depths[i], widths[i], strides[i])
        for i, letter in enumerate(letters, start=1)
    )
    return CoAtNetConfig(name, depths[0], widths[0], stages, stem_stride=strides[0], **fields)
