"""Normalizer-free networks (Brock et al., arXiv:2102.06171)."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import ops

from coatnet_tf.baselines.base import BaselineConfig, require_positive
from coatnet_tf.baselines.resnet import StandardizedConv2D
from coatnet_tf.layers import SqueezeExcite, StochasticDepth, common
from coatnet_tf.models import Shape

STEM_STRIDES = (2, 1, 1, 2)
STAGE_STRIDES = (1, 2, 2, 2)
GELU_GAIN = 1.7015043497085571  # GELU of a standard normal variable has variance 1 / GELU_GAIN**2
EPSILON = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class NFNetConfig(BaselineConfig):
    """A normalizer-free network of four stages.

    Args:
        depths: Number of blocks of each stage.
        widths: Output width of each stage. A 1x1 convolution to twice the last one follows.
        stem_widths: Output width of each of the four 3x3 convolutions of the stem.
        group_width: Least number of channels of a group of the 3x3 convolutions of the blocks, whose width is half the
            stage's.
        alpha: Weight of the residual branches.
        name: See `BaselineConfig`, as for `drop_path_rate` and `dropout`.

    Raises:
        ValueError: If a field is out of its range.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem_widths: tuple[int, ...]
    group_width: int = 128
    alpha: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "depths", "widths", "stem_widths", "group_width")
        for field in ("depths", "widths", "stem_widths"):
            if len(getattr(self, field)) != 4:
                raise ValueError(f"{field} must be four integers; got {getattr(self, field)}.")
        for width in self.widths:
            count_groups(width, self.group_width)

    @property
    def preprocessing(self) -> str:
        return "torch"

    @property
    def total_stride(self) -> int:
        return 32

    def feature_layers(self, input_shape: Shape) -> list[keras.layers.Layer]:
        layers: list[keras.layers.Layer] = []
        for number, (width, strides) in enumerate(zip(self.stem_widths, STEM_STRIDES, strict=True), start=1):
            if number > 1:  # a block begins with its own
                layers.append(_activation(f"stem_act{number - 1:02d}"))
            layers.append(_conv(width, 3, f"stem_conv{number:02d}", strides=strides))
        rates = iter(self.drop_path_rates(sum(self.depths)))
        width, variance = self.stem_widths[-1], 1.0
        for stage, (depth, filters, strides) in enumerate(zip(self.depths, self.widths, STAGE_STRIDES, strict=True), 1):
            for number in range(1, depth + 1):
                layers.append(
                    NFNetBlock(
                        filters,
                        strides=strides if number == 1 else 1,
                        project=number == 1 and (width != filters or strides > 1),
                        group_width=self.group_width,
                        alpha=self.alpha,
                        beta=variance**-0.5,
                        drop_path_rate=next(rates),
                        name=f"s{stage}_block{number:02d}",
                    )
                )
                # Each block adds alpha**2 to the variance; the projection of a stage's first block resets it.
                variance = (1.0 if number == 1 else variance) + self.alpha**2
            width = filters
        return [*layers, _conv(2 * width, 1, "final_conv"), _activation("final_act")]

    def map_layers(self, input_shape: Shape) -> list[keras.layers.Layer]:
        return []

    def head_layers(self, classes: int, activation: Any) -> list[keras.layers.Layer]:
        pool = keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="head_pool")
        initializer = keras.initializers.RandomNormal(stddev=0.01)
        return [pool, *self.classifier_layers(classes, activation, initializer)]


def count_groups(filters: int, group_width: int) -> int:
    """Groups of the 3x3 convolutions of a block: as many as half its width holds.

    DeepMind's code goes on to round that half down to whole groups. The parameters and FLOPs that were published for
    NFNet-F4+, whose first stage has 192 channels there, are those of one group of 192.
    """
    groups = filters // 2 // group_width
    if groups < 1 or filters // 2 % groups:
        raise ValueError(f"Half a width must be equal groups of {group_width} channels or more; got width {filters}.")
    return groups


@keras.saving.register_keras_serializable(package="coatnet_tf")
def scaled_gelu(x: Any) -> Any:
    """GELU (exact, by the error function), scaled so that it keeps a variance of 1."""
    return ops.gelu(x, approximate=False) * GELU_GAIN


def _activation(name: str) -> keras.layers.Activation:
    return keras.layers.Activation(scaled_gelu, name=name)


def _conv(filters: int, kernel_size: int, name: str, **kwargs: Any) -> ScaledStandardizedConv2D:
    return ScaledStandardizedConv2D(
        filters,
        kernel_size,
        padding="same",
        data_format="channels_last",
        kernel_initializer="lecun_normal",
        epsilon=EPSILON,
        name=name,
        **kwargs,
    )


@keras.saving.register_keras_serializable(package="coatnet_tf")
class ScaledStandardizedConv2D(StandardizedConv2D):
    """`StandardizedConv2D` that keeps a variance of 1, times a trained gain of each output channel.

    The standardised kernel is divided by the root of its fan-in (Brock et al., arXiv:2101.08692).

    Args:
        *args: Arguments of `StandardizedConv2D`.
        **kwargs: Arguments of `StandardizedConv2D`.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.baselines import ScaledStandardizedConv2D
    >>> tuple(ScaledStandardizedConv2D(4, 3, padding="same")(np.zeros((2, 8, 8, 3), "float32")).shape)
    (2, 8, 8, 4)
    """

    def build(self, input_shape: tuple[Any, ...]) -> None:
        super().build(input_shape)
        self.gain = self.add_weight(name="gain", shape=(self.filters,), initializer="ones")

    def standardized(self, kernel: Any) -> Any:
        fan_in = kernel.shape[0] * kernel.shape[1] * kernel.shape[2]
        return super().standardized(kernel) * (ops.cast(self.gain, "float32") * fan_in**-0.5)

    # Keras' convolutions save and load their kernel and bias, and nothing else.

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        store[str(1 + self.use_bias)] = self.gain

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        self.gain.assign(store[str(1 + self.use_bias)])


@keras.saving.register_keras_serializable(package="coatnet_tf")
class NFNetBlock(keras.layers.Layer):
    """Residual block without norms: `x <- shortcut + alpha * gain * SE(conv(act(... conv(beta * act(x)))))`.

    The branch has four scaled standardised convolutions, 1x1, grouped 3x3 (which carries the stride), grouped 3x3
    and 1x1, and twice the gate of squeeze-and-excitation. A projected shortcut starts from `beta * act(x)`, averaged
    over 2x2 where the stride is 2. Inputs are `[batch, H, W, C]`, outputs `[batch, H / strides, W / strides, filters]`.

    Args:
        filters: Output width; the inner width is half of it.
        strides: 1 or 2.
        project: Whether the shortcut is projected, as it must be where the width or the resolution changes.
        group_width: Least number of channels of a group.
        alpha: Weight of the residual branch.
        beta: One over the standard deviation that the input is expected to have.
        drop_path_rate: Stochastic depth rate of the residual branch.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If half of `filters` is no number of equal groups.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.baselines import NFNetBlock
    >>> tuple(NFNetBlock(32, strides=2, project=True, group_width=8)(np.zeros((2, 8, 6, 16), "float32")).shape)
    (2, 4, 3, 32)
    """

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        project: bool = False,
        group_width: int = 128,
        alpha: float = 0.2,
        beta: float = 1.0,
        drop_path_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides
        self.project = project
        self.group_width = group_width
        self.alpha = alpha
        self.beta = beta
        self.drop_path_rate = drop_path_rate

        inner, groups = filters // 2, count_groups(filters, group_width)
        policy = self.dtype_policy
        prefix = f"{self.name}_"
        self.reduce_conv = _conv(inner, 1, prefix + "reduce_conv", dtype=policy)
        self.spatial_conv1 = _conv(inner, 3, prefix + "spatial_conv01", strides=strides, groups=groups, dtype=policy)
        self.spatial_conv2 = _conv(inner, 3, prefix + "spatial_conv02", groups=groups, dtype=policy)
        self.expand_conv = _conv(filters, 1, prefix + "expand_conv", dtype=policy)
        self.se = SqueezeExcite(
            filters // 2, "relu", kernel_initializer="lecun_normal", dtype=policy, name=prefix + "se"
        )
        self.drop_path = StochasticDepth(drop_path_rate, dtype=policy, name=prefix + "drop_path")
        self.proj_pool: keras.layers.Layer | None = None
        self.proj_conv: keras.layers.Layer | None = None
        if project:
            self.proj_conv = _conv(filters, 1, prefix + "proj_conv", dtype=policy)
        if strides > 1:
            self.proj_pool = keras.layers.AveragePooling2D(
                2, padding="same", data_format="channels_last", dtype=policy, name=prefix + "proj_pool"
            )

    def build(self, input_shape: tuple[Any, ...]) -> None:
        shape = input_shape
        branch = (self.reduce_conv, self.spatial_conv1, self.spatial_conv2, self.expand_conv, self.se, self.drop_path)
        for layer in branch:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        if self.proj_conv is not None:
            self.proj_conv.build((*shape[:-1], input_shape[-1]))
        self.skip_gain = self.add_weight(name="skip_gain", shape=(), initializer="zeros")
        common.finish_build(self)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = scaled_gelu(inputs) * self.beta
        shortcut = inputs
        if self.proj_conv is not None:
            shortcut = self.proj_conv(x if self.proj_pool is None else self.proj_pool(x))
        x = self.reduce_conv(x)
        x = self.spatial_conv1(scaled_gelu(x))
        x = self.spatial_conv2(scaled_gelu(x))
        x = self.expand_conv(scaled_gelu(x))
        x = self.drop_path(2.0 * self.se(x), training=training)
        return ops.add(shortcut, x * (self.alpha * self.skip_gain))

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*self.spatial_conv1.compute_output_shape(input_shape)[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "strides": self.strides,
            "project": self.project,
            "group_width": self.group_width,
            "alpha": self.alpha,
            "beta": self.beta,
            "drop_path_rate": self.drop_path_rate,
        }
