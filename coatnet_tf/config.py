"""CoAtNet configurations and the family of the paper (Tables 3, 11 and 12)."""

from __future__ import annotations

import dataclasses
import numbers
import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from coatnet_tf.layers.common import NORMS
from coatnet_tf.layers.mbconv import DOWNSAMPLING
from coatnet_tf.layers.relative_attention import BIAS_REINDEXING

RESERVED_NAMES = ("stem", "head", "image", "preprocessing", "predictions")  # of other layers
BLOCKS = ("mbconv", "transformer")
LAYOUT_LETTERS = {"C": "mbconv", "T": "transformer"}


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


@dataclasses.dataclass(frozen=True)
class CoAtNetConfig:
    """Everything that fixes the shape of a CoAtNet.

    Args:
        name: Model name, e.g. `"coatnet-0"`.
        stem_depth: Number of 3x3 convolutions of S0.
        stem_width: Channels of S0.
        stages: The runs of blocks of S1, S2, ..., in order.
        stem_stride: Stride of the first convolution of S0; 1 suits small images.
        head_size: Channels of one attention head; divides every Transformer width.
        downsampling: Place of the stride in an MBConv block: `"expand_conv"` (Eq. 5, the paper's
            default) or `"depthwise_conv"` (the dagger variant of Table 5).
        conv_norm: Norm of the stem and the MBConv blocks: `"batch_norm"`, `"sync_batch_norm"` (the
            same with statistics over all replicas of a `tf.distribute` strategy; TensorFlow backend
            only), or `"layer_norm"` (Table 8).
        relative_attention: `False` drops the relative position bias (Table 6).
        bias_reindexing: `"gather"`, or `"einsum"` as on TPU, where scatters are slow.
        kernel_initializer: Name of the Keras initializer of all kernels; `None` is the paper's, normal(0.02),
            which is far too small for narrow networks: `"lecun_normal"` suits those.
        drop_path_rate: Stochastic depth rate of the last block; earlier ones rise to it linearly from 0.
        dropout: Dropout rate before the classifier.

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
    stem_width: int
    stages: tuple[StageConfig, ...]
    stem_stride: int = 2
    head_size: int = 32
    downsampling: str = "expand_conv"
    conv_norm: str = "batch_norm"
    relative_attention: bool = True
    bias_reindexing: str = "gather"
    kernel_initializer: str | None = None
    drop_path_rate: float = 0.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for field in ("stem_depth", "stem_width", "head_size"):
            value = getattr(self, field)
            _require(is_positive_int(value), f"{self.name}: {field} must be a positive integer; got {value!r}.")
        _require(self.stem_stride in (1, 2), f"{self.name}: stem_stride must be 1 or 2; got {self.stem_stride!r}.")
        _require_known(f"{self.name}: downsampling", self.downsampling, DOWNSAMPLING)
        _require_known(f"{self.name}: conv_norm", self.conv_norm, NORMS)
        _require_known(f"{self.name}: bias_reindexing", self.bias_reindexing, BIAS_REINDEXING)
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
        for stage in self.stages:
            if stage.block == "transformer":
                _require(
                    stage.width % self.head_size == 0,
                    f"{self.name}: head_size {self.head_size} must divide the width of every Transformer "
                    f"stage, and does not divide {stage.width} of stage {stage.name!r}.",
                )

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


def _require_fields(names: Iterable[str]) -> None:
    known = [field.name for field in dataclasses.fields(CoAtNetConfig)]
    for name in names:
        _require(name in known, f"CoAtNetConfig has no field {name!r}; its fields are {', '.join(known)}.")


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
    _require_fields(fields)
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


def _make_mixed_config(name: str, s1: int, s2: int, s3_mbconv: int, s3_transformer: int, s4: int) -> CoAtNetConfig:
    """CoAtNet-6 and -7: in S3 the MBConv part halves the resolution, the Transformer part only widens."""
    stages = (
        StageConfig("s1", "mbconv", 2, s1),
        StageConfig("s2", "mbconv", 4, s2),
        StageConfig("s3", "mbconv", 8, s3_mbconv),
        StageConfig("s3", "transformer", 42, s3_transformer, stride=1),
        StageConfig("s4", "transformer", 2, s4),
    )
    return CoAtNetConfig(name, stem_depth=2, stem_width=192, stages=stages, head_size=128)


FAMILY: dict[str, CoAtNetConfig] = {
    config.name: config
    for config in (
        make_config("coatnet-0", (2, 2, 3, 5, 2), (64, 96, 192, 384, 768)),
        make_config("coatnet-1", (2, 2, 6, 14, 2), (64, 96, 192, 384, 768)),
        make_config("coatnet-2", (2, 2, 6, 14, 2), (128, 128, 256, 512, 1024)),
        make_config("coatnet-3", (2, 2, 6, 14, 2), (192, 192, 384, 768, 1536)),
        make_config("coatnet-4", (2, 2, 12, 28, 2), (192, 192, 384, 768, 1536)),
        make_config("coatnet-5", (2, 2, 12, 28, 2), (192, 256, 512, 1280, 2048), head_size=64),
        # Table 12 prints D2048 for S4 of CoAtNet-6. That makes 1350 M parameters, 8 % below the 1.47 B
        # of Table 5; D3072 makes 1471 M and meets the FLOPs of Table 5 as well, so Table 5 is followed.
        _make_mixed_config("coatnet-6", s1=192, s2=384, s3_mbconv=768, s3_transformer=1536, s4=3072),
        _make_mixed_config("coatnet-7", s1=256, s2=512, s3_mbconv=1024, s3_transformer=2048, s4=3072),
    )
}


def get_config(config: str | CoAtNetConfig, **overrides: Any) -> CoAtNetConfig:
    """Looks a configuration up by name, with fields replaced.

    Args:
        config: `"coatnet-0"` .. `"coatnet-7"`, or a `CoAtNetConfig`.
        **overrides: Fields of `CoAtNetConfig` to replace.

    Returns:
        A `CoAtNetConfig`.

    Raises:
        ValueError: If the name or a field is unknown, or the result is refused.

    Example:
    >>> import coatnet_tf
    >>> coatnet_tf.get_config("coatnet-3", downsampling="depthwise_conv").downsampling
    'depthwise_conv'
    """
    if isinstance(config, str):
        _require(config in FAMILY, f"There is no configuration {config!r}; the known ones are {', '.join(FAMILY)}.")
        config = FAMILY[config]
    _require_fields(overrides)
    return dataclasses.replace(config, **overrides)
