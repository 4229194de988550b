"""Normalizer-free networks (Brock et al., arXiv:2102.06171)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
from keras import ops

from coatnet_tf.layers import ResidualBlock, SqueezeExcite, common, pooling
from coatnet_tf.layers.options import Options, PositiveInt, PositiveNumber, Rate, Shape
from coatnet_tf.network import ImageShape, Network, Preprocessing, classifier_layers
from coatnet_tf.rivals.resnet import StandardizedConv2D

STEM_STRIDES = (2, 1, 1, 2)
STAGE_STRIDES = (1, 2, 2, 2)
GELU_GAIN = 1.7015043497085571  # GELU of a standard normal variable has variance 1 / GELU_GAIN**2
EPSILON = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class NFNetConfig(Options, Network):
    """A normalizer-free network of four stages.

    Args:
        depths: Number of blocks of each stage.
        widths: Output width of each stage. A 1x1 convolution to twice the last one follows.
        stem_widths: Output width of each of the four 3x3 convolutions of the stem.
        group_width: Least number of channels of a group of the 3x3 convolutions of the blocks, whose width is half the
            stage's.
        alpha: Weight of the residual branches.
        name: Model name, e.g. `"nfnet-f4"`.
        drop_path_rate: Stochastic depth rate of the last block; earlier ones rise to it linearly from 0.
        dropout: Dropout rate before the classifier.

    Raises:
        ValueError: If a field is out of its range.
    """

    name: str
    depths: tuple[PositiveInt, ...]
    widths: tuple[PositiveInt, ...]
    stem_widths: tuple[PositiveInt, ...]
    group_width: PositiveInt = 128
    alpha: PositiveNumber = 0.2
    preprocessing: Preprocessing = "torch"
    drop_path_rate: Rate = 0.0
    dropout: Rate = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("depths", "widths", "stem_widths"):
            if len(getattr(self, field)) != 4:
                raise ValueError(f"{field} must be four integers; got {getattr(self, field)}.")
        for width in self.widths:
            count_groups(width, self.group_width)

    def strides(self) -> list[tuple[str, int]]:
        stem = math.prod(STEM_STRIDES)
        return [("stem", stem), *((f"s{number}", stride) for number, stride in enumerate(STAGE_STRIDES, start=1))]

    def feature_layers(self, input_shape: ImageShape, dtype: Any = None) -> list[keras.layers.Layer]:
        layers: list[keras.layers.Layer] = []
        for number, (width, strides) in enumerate(zip(self.stem_widths, STEM_STRIDES, strict=True), start=1):
            if number > 1:  # a block begins with its own
                layers.append(_activation(dtype=dtype, name=f"stem_act{number - 1:02d}"))
            layers.append(_conv(width, 3, strides=strides, dtype=dtype, name=f"stem_conv{number:02d}"))
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
                        dtype=dtype,
                        name=f"s{stage}_block{number:02d}",
                    )
                )
                # Each block adds alpha**2 to the variance; the projection of a stage's first block resets it.
                variance = (1.0 if number == 1 else variance) + self.alpha**2
            width = filters
        final = _conv(2 * width, 1, dtype=dtype, name="final_conv")
        return [*layers, final, _activation(dtype=dtype, name="final_act")]

    def head_layers(self, classes: int, activation: Any, dtype: Any = None) -> list[keras.layers.Layer]:
        pool = keras.layers.GlobalAveragePooling2D(data_format="channels_last", dtype=dtype, name="head_pool")
        initializer = keras.initializers.RandomNormal(stddev=0.01)
        return [pool, *classifier_layers(classes, activation, self.dropout, initializer, dtype)]


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


def _activation(**kwargs: Any) -> keras.layers.Activation:
    return keras.layers.Activation(scaled_gelu, **kwargs)


def _conv(filters: int, kernel_size: int, **kwargs: Any) -> ScaledStandardizedConv2D:
    return ScaledStandardizedConv2D(
        filters,
        kernel_size,
        padding="same",
        data_format="channels_last",
        kernel_initializer="lecun_normal",
        epsilon=EPSILON,
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
    >>> from coatnet_tf.rivals import ScaledStandardizedConv2D
    >>> tuple(ScaledStandardizedConv2D(4, 3, padding="same")(np.zeros((2, 8, 8, 3), "float32")).shape)
    (2, 8, 8, 4)
    """

    lora_rank: int | None  # as Keras has it

    def build(self, input_shape: Shape) -> None:
        rank, self.lora_rank = self.lora_rank, None
        super().build(input_shape)
        self.gain = self.add_weight(name="gain", shape=(self.filters,), initializer="ones")
        if rank:  # Keras takes no further weights of a layer with LoRA
            self.enable_lora(rank, lora_alpha=self.lora_alpha)

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


@dataclasses.dataclass(frozen=True)
class NFNetBlockConfig(Options):
    """Options of `NFNetBlock`.

    Args:
        project: Whether the shortcut is projected, as it must be where the width or the resolution changes.
        group_width: Least number of channels of a group.
        alpha: Weight of the residual branch.
        beta: One over the standard deviation that the input is expected to have.
    """

    project: bool = False
    group_width: PositiveInt = 128
    alpha: PositiveNumber = 0.2
    beta: PositiveNumber = 1.0


@keras.saving.register_keras_serializable(package="coatnet_tf")
class NFNetBlock(ResidualBlock):
    """Residual block without norms: `x <- shortcut + alpha * gain * SE(conv(act(... conv(beta * act(x)))))`.

    The branch has four scaled standardised convolutions, 1x1, grouped 3x3 (which carries the stride), grouped 3x3
    and 1x1, and twice the gate of squeeze-and-excitation. A projected shortcut starts from `beta * act(x)`, averaged
    over 2x2 where the stride is 2. Inputs are `[batch, H, W, C]`, outputs `[batch, H / strides, W / strides, filters]`.

    Args:
        filters: Output width; the inner width is half of it.
        **kwargs: Arguments of `ResidualBlock`, fields of `NFNetBlockConfig`, and arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of its range, or half of `filters` is no number of equal groups.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.rivals import NFNetBlock
    >>> tuple(NFNetBlock(32, strides=2, project=True, group_width=8)(np.zeros((2, 8, 6, 16), "float32")).shape)
    (2, 4, 3, 32)
    """

    config_class = NFNetBlockConfig

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(filters, **kwargs)
        self.groups = count_groups(filters, self.config.group_width)

    def prepare(self, input_shape: Shape) -> None:
        common.check_images(self.name, input_shape)
        filters, inner, groups = self.filters, self.filters // 2, self.groups
        self.act, self.act1, self.act2, self.act3 = (_activation(**self.named(f"act{i:02d}")) for i in range(4))
        self.reduce_conv = _conv(inner, 1, **self.named("reduce_conv"))
        self.spatial_conv1 = _conv(inner, 3, strides=self.strides, groups=groups, **self.named("spatial_conv01"))
        self.spatial_conv2 = _conv(inner, 3, groups=groups, **self.named("spatial_conv02"))
        self.expand_conv = _conv(filters, 1, **self.named("expand_conv"))
        self.se = SqueezeExcite(filters // 2, "lecun_normal", se_activation="relu", **self.named("se"))
        self.drop_path = self.make_drop_path("drop_path")
        self.proj_conv = _conv(filters, 1, **self.named("proj_conv")) if self.config.project else None
        halves = self.config.project and self.strides > 1
        self.proj_pool = pooling.make_pool("avg", **self.named("proj_pool")) if halves else None

    def shortcut(self) -> list[keras.layers.Layer]:
        """The layers of the shortcut behind the first activation; none for the input itself."""
        return common.present(self.proj_pool, self.proj_conv)

    def branches(self) -> list[list[keras.layers.Layer]]:
        """The layers of the residual branch behind the first activation."""
        branch = [
            *(self.reduce_conv, self.act1, self.spatial_conv1, self.act2, self.spatial_conv2, self.act3),
            *(self.expand_conv, self.se, self.drop_path),
        ]
        return [branch]

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.skip_gain = self.add_weight(name="skip_gain", shape=(), initializer="zeros")
        common.finish_build(self)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = self.act(inputs) * self.config.beta
        shortcut = common.chain(self.shortcut(), x) if self.config.project else inputs
        x = common.chain(self.branches()[0], x) * 2.0
        return ops.add(shortcut, x * (self.config.alpha * self.skip_gain))
