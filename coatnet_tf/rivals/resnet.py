"""The ResNet below a hybrid ViT: GroupNorm and standardised convolutions (BiT, Kolesnikov et al., arXiv:1912.11370)."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import ops

from coatnet_tf.layers import ResidualBlock, common
from coatnet_tf.layers.options import Options, PositiveInt, Shape

GROUP_NORM_EPSILON = 1e-5
INITIALIZER = "lecun_normal"  # the scale of a kernel that is standardised has no effect


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig(Options):
    """A ResNet of bottleneck blocks without classifier: ResNet-50 by default.

    Args:
        depths: Number of blocks of each stage.
        stage_strides: Stride of the first block of each stage.
        widths: Output width of each stage.
        stem_width: Width of the 7x7 convolution, which halves the image; a 3x3 max pool halves it again.
        groups: Groups of every GroupNorm.

    Raises:
        ValueError: If a field is out of its range, or the stages' fields are of different lengths.
    """

    depths: tuple[PositiveInt, ...] = (3, 4, 6, 3)
    stage_strides: tuple[PositiveInt, ...] = (1, 2, 2, 2)
    widths: tuple[PositiveInt, ...] = (256, 512, 1024, 2048)
    stem_width: PositiveInt = 64
    groups: PositiveInt = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.depths) == len(self.stage_strides) == len(self.widths):
            raise ValueError(
                "depths, stage_strides and widths have one entry per stage; got "
                f"{len(self.depths)}, {len(self.stage_strides)} and {len(self.widths)} of them."
            )
        if any(width % (4 * self.groups) for width in self.widths) or self.stem_width % self.groups:
            raise ValueError(
                f"groups must divide stem_width and the inner widths, a quarter of widths; got {self.groups}, "
                f"{self.stem_width} and {self.widths}."
            )

    def strides(self) -> list[tuple[str, int]]:
        """The stem and the stages with their strides, in order."""
        return [("stem", 4), *((f"s{number}", stride) for number, stride in enumerate(self.stage_strides, start=1))]

    def layers(self, dtype: Any = None) -> list[keras.layers.Layer]:
        """The unbuilt layers from the preprocessed image to the feature map, each called on the one before."""
        stem: dict[str, Any] = {"padding": "same", "data_format": "channels_last", "dtype": dtype}
        layers = [
            StandardizedConv2D(
                self.stem_width,
                7,
                strides=2,
                use_bias=False,
                kernel_initializer=INITIALIZER,
                name="resnet_stem_conv",
                **stem,
            ),
            _group_norm(self.groups, dtype=dtype, name="resnet_stem_norm"),
            common.activation("relu", dtype=dtype, name="resnet_stem_act"),
            keras.layers.MaxPooling2D(3, 2, name="resnet_stem_pool", **stem),
        ]
        stages = zip(self.depths, self.stage_strides, self.widths, strict=True)
        for stage, (depth, stride, width) in enumerate(stages, start=1):
            for number in range(1, depth + 1):
                layers.append(
                    Bottleneck(
                        width,
                        strides=stride if number == 1 else 1,
                        project=number == 1,
                        groups=self.groups,
                        dtype=dtype,
                        name=f"resnet_s{stage}_block{number:02d}",
                    )
                )
        return layers


def _group_norm(groups: int, **kwargs: Any) -> keras.layers.GroupNormalization:
    return keras.layers.GroupNormalization(groups, epsilon=GROUP_NORM_EPSILON, **kwargs)


@keras.saving.register_keras_serializable(package="coatnet_tf")
class StandardizedConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose kernel has mean 0 and variance 1 over the inputs of each output channel.

    Weight standardisation (Qiao et al., arXiv:1903.10520). The weights are those of `Conv2D`; what they are
    convolved with is computed from them in each call, in float32.

    Args:
        *args: Arguments of `keras.layers.Conv2D`.
        epsilon: Added to the variance.
        **kwargs: Arguments of `keras.layers.Conv2D`.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.rivals import StandardizedConv2D
    >>> layer = StandardizedConv2D(4, 3, use_bias=False)
    >>> layer.build((None, 8, 8, 3))
    >>> np.asarray(layer.standardized(layer.kernel)).var(axis=(0, 1, 2)).round(3).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, *args: Any, epsilon: float = 1e-8, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epsilon = epsilon

    def standardized(self, kernel: Any) -> Any:
        """The kernel that images are convolved with, in float32."""
        kernel = ops.cast(kernel, "float32")
        mean, variance = ops.moments(kernel, axes=(0, 1, 2), keepdims=True)
        return (kernel - mean) * ops.rsqrt(variance + self.epsilon)

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        return super().convolution_op(inputs, ops.cast(self.standardized(kernel), inputs.dtype))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}


@dataclasses.dataclass(frozen=True)
class BottleneckConfig(Options):
    """Options of `Bottleneck`.

    Args:
        project: Whether the shortcut is projected, as it must be where the width or the resolution changes.
        groups: Groups of every GroupNorm.
    """

    project: bool = False
    groups: PositiveInt = 32


@keras.saving.register_keras_serializable(package="coatnet_tf")
class Bottleneck(ResidualBlock):
    """Residual block of 1x1, 3x3 and 1x1 standardised convolutions, each with GroupNorm; the 3x3 carries the stride.

    Inputs are `[batch, H, W, C]`, outputs `[batch, H / strides, W / strides, filters]`.

    Args:
        filters: Output width; the inner width is a quarter of it.
        **kwargs: Arguments of `ResidualBlock`, fields of `BottleneckConfig`, and arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of its range, or 4 does not divide `filters`.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.rivals import Bottleneck
    >>> tuple(Bottleneck(64, strides=2, project=True, groups=4)(np.zeros((2, 8, 6, 32), "float32")).shape)
    (2, 4, 3, 64)
    """

    config_class = BottleneckConfig

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(filters, **kwargs)
        if filters % 4:
            raise ValueError(f"filters must be divisible by 4, of which the inner width is one; got {filters}.")

    def prepare(self, input_shape: Shape) -> None:
        common.check_images(self.name, input_shape)
        inner = self.filters // 4
        self.reduce_conv, self.reduce_norm = self._conv_and_norm(inner, 1, 1, "reduce")
        self.spatial_conv, self.spatial_norm = self._conv_and_norm(inner, 3, self.strides, "spatial")
        self.expand_conv, self.expand_norm = self._conv_and_norm(self.filters, 1, 1, "expand")
        self.drop_path = self.make_drop_path("drop_path")
        self.proj_conv: Any = None
        self.proj_norm: Any = None
        if self.config.project:
            self.proj_conv, self.proj_norm = self._conv_and_norm(self.filters, 1, self.strides, "proj")
        self.reduce_act, self.spatial_act, self.act = (
            common.activation("relu", **self.named(name)) for name in ("reduce_act", "spatial_act", "act")
        )

    def _conv_and_norm(self, filters: int, kernel_size: int, strides: int, name: str) -> tuple[Any, Any]:
        conv = StandardizedConv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="same",
            use_bias=False,
            data_format="channels_last",
            kernel_initializer=INITIALIZER,
            **self.named(f"{name}_conv"),
        )
        return conv, _group_norm(self.config.groups, **self.named(f"{name}_norm"))

    def shortcut(self) -> list[keras.layers.Layer]:
        return common.present(self.proj_conv, self.proj_norm)

    def branches(self) -> list[list[keras.layers.Layer]]:
        branch = [
            *(self.reduce_conv, self.reduce_norm, self.reduce_act),
            *(self.spatial_conv, self.spatial_norm, self.spatial_act),
            *(self.expand_conv, self.expand_norm, self.drop_path),
        ]
        return [branch]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.act(super().call(inputs, training))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, *size, _ = input_shape
        return (batch, *(None if n is None else -(-n // self.strides) for n in size), self.filters)
