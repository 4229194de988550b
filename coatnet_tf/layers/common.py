"""What the blocks of CoAtNet share: initialisation, activations, norms, convolutions, and chains of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
from keras import ops

from coatnet_tf.layers import norms, parts, tensorflow_training
from coatnet_tf.layers.options import Shape

Norm = Literal["batch_norm", "sync_batch_norm", "layer_norm"]
Activation = Literal["gelu_tanh", "gelu", "silu", "relu"]
BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.99
LAYER_NORM_EPSILON = 1e-5


def make_initializer(identifier: Any = None) -> keras.initializers.Initializer:
    """An initializer of its own for each weight; one that is shared would draw equal values.

    Args:
        identifier: `None` for normal(0.02), which the code of Google's MaxViT release draws every kernel and
            bias table from, or the name, config or instance of a Keras initializer; one with a fixed
            seed gives equal values to weights of equal shape.
    """
    if identifier is None:
        return keras.initializers.RandomNormal(stddev=0.02)
    return keras.initializers.get(identifier).clone()


@keras.saving.register_keras_serializable(package="coatnet_tf")
def gelu(x: Any) -> Any:
    """GELU in its tanh form."""
    if tensorflow_training.compiles(x):
        return tensorflow_training.gelu(x)
    return ops.gelu(x, approximate=True)


def get_activation(name: Activation) -> Callable[[Any], Any]:
    """The function of a name; `"gelu_tanh"` is the paper's, `"gelu"` is exact, by the error function."""
    return gelu if name == "gelu_tanh" else keras.activations.get(name)


def is_of_channels(norm: keras.layers.Layer, rank: int) -> bool:
    """Whether a norm is over the last axis alone of tensors of a rank."""
    axes = norm.axis if isinstance(norm.axis, list | tuple) else [norm.axis]
    return list(axes) in ([-1], [rank - 1])


def make_norm(norm: Norm, epsilon: float | None = None, **kwargs: Any) -> keras.layers.Layer:
    """A norm over the last axis."""
    if norm == "layer_norm":
        return norms.LayerNormalization(epsilon=epsilon or LAYER_NORM_EPSILON, **kwargs)
    return norms.BatchNormalization(
        epsilon=epsilon or BATCH_NORM_EPSILON,
        momentum=BATCH_NORM_MOMENTUM,
        synchronized=norm == "sync_batch_norm",
        **kwargs,
    )


def activation(function: Activation, **kwargs: Any) -> keras.layers.Activation:
    """The layer of an activation."""
    return keras.layers.Activation(get_activation(function), **kwargs)


def conv(filters: int, kernel_size: int, initializer: Any = None, **kwargs: Any) -> keras.layers.Conv2D:
    """A convolution of NHWC images with the paper's padding and initialisation."""
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        data_format="channels_last",
        kernel_initializer=make_initializer(initializer),
        **{"padding": "same", **kwargs},
    )


def dense(units: int, initializer: Any = None, **kwargs: Any) -> keras.layers.Dense:
    """A dense layer with the paper's initialisation."""
    return keras.layers.Dense(units, kernel_initializer=make_initializer(initializer), **kwargs)


def present(*layers: keras.layers.Layer | None) -> list[keras.layers.Layer]:
    """The layers that are there."""
    return [layer for layer in layers if layer is not None]


def chain(layers: Sequence[keras.layers.Layer], x: Any) -> Any:
    """Calls each layer on the output of the one before."""
    for layer in layers:
        x = layer(x)
    return x


def build_chain(layers: Sequence[keras.layers.Layer], shape: Shape) -> Shape:
    """Builds each layer for the output of the one before, and returns the shape of the last output."""
    for layer in layers:
        if not layer.built:
            layer.build(shape)
        shape = layer.compute_output_shape(shape)
    return shape


def finish_build(layer: parts.LayerOfLayers) -> None:
    """Ends the `build` of a layer of layers: what is trained in it is as its configuration says."""
    parts.restore_trainable(layer)
    layer.built = True


def inner_width(option: str, factor: float, width: int) -> int:
    """`factor` times `width`, for the option that gives the factor.

    Raises:
        ValueError: If that is no channel.
    """
    inner = round(factor * width)
    if inner < 1:
        raise ValueError(
            f"{option}={factor} of {width} channels leaves none inside; it must be at least {1 / width:.2g}."
        )
    return inner


def check_images(name: str, input_shape: Shape, strides: int = 1) -> None:
    """Refuses what is not `[batch, H, W, C]`, or has a height or width that `strides` does not divide."""
    if len(input_shape) != 4:
        raise ValueError(f"{name} takes images [batch, height, width, channels]; got shape {input_shape}.")
    for axis, size in zip(("height", "width"), input_shape[1:3], strict=True):
        if size is not None and size % strides:
            raise ValueError(
                f"{name} halves the resolution and its input's {axis} is odd ({size}): "
                "choose an input size that every down-sampling stage can halve."
            )
