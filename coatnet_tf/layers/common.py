"""What the blocks of CoAtNet share: initialisation, activation and norms."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

NORMS = ("batch_norm", "sync_batch_norm", "layer_norm")
BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.99
LAYER_NORM_EPSILON = 1e-5


def make_initializer(identifier: Any = None) -> keras.initializers.Initializer:
    """An initializer of its own for each weight; one that is shared would draw equal values.

    Args:
        identifier: `None` for normal(0.02), which the authors' released code draws every kernel and
            bias table from, or the name, config or instance of a Keras initializer; one with a fixed
            seed gives equal values to weights of equal shape.
    """
    if identifier is None:
        return keras.initializers.RandomNormal(stddev=0.02)
    return keras.initializers.get(identifier).clone()


def get_initializer(identifier: Any) -> keras.initializers.Initializer | None:
    """A layer's initializer from the argument of its user; `None` stays the default."""
    return None if identifier is None else keras.initializers.get(identifier)


def serialize_initializer(initializer: keras.initializers.Initializer | None) -> Any:
    """What `get_config` keeps of an initializer; `None` stays the default."""
    return initializer and keras.initializers.serialize(initializer)


@keras.saving.register_keras_serializable(package="coatnet_tf")
def gelu(x: Any) -> Any:
    """GELU in its tanh form."""
    return ops.gelu(x, approximate=True)


def make_norm(norm: str, name: str, **kwargs: Any) -> keras.layers.Layer:
    """A norm over the last axis: `"batch_norm"`, `"sync_batch_norm"` or `"layer_norm"`."""
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {norm!r}.")
    if norm == "layer_norm":
        return keras.layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON, name=name, **kwargs)
    return keras.layers.BatchNormalization(
        epsilon=BATCH_NORM_EPSILON,
        momentum=BATCH_NORM_MOMENTUM,
        synchronized=norm == "sync_batch_norm",
        name=name,
        **kwargs,
    )


def conv(filters: int, kernel_size: int, name: str, initializer: Any = None, **kwargs: Any) -> keras.layers.Conv2D:
    """A convolution over NHWC images with the paper's padding and initialisation."""
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        padding="same",
        data_format="channels_last",
        kernel_initializer=make_initializer(initializer),
        name=name,
        **kwargs,
    )


def dense(units: int, name: str, initializer: Any = None, **kwargs: Any) -> keras.layers.Dense:
    """A dense layer with the paper's initialisation."""
    return keras.layers.Dense(units, kernel_initializer=make_initializer(initializer), name=name, **kwargs)


def check_halving(name: str, input_shape: tuple[Any, ...], strides: int) -> None:
    """Refuses images that are not `[batch, H, W, C]`, or whose height or width `strides` does not divide."""
    if len(input_shape) != 4:
        raise ValueError(f"{name} takes images [batch, height, width, channels]; got shape {input_shape}.")
    for axis, size in zip(("height", "width"), input_shape[1:3], strict=True):
        if size is not None and size % strides:
            raise ValueError(
                f"{name} halves the resolution and its input's {axis} is odd ({size}): "
                "choose an input size that every down-sampling stage can halve."
            )


def gelu_layer(name: str) -> keras.layers.Layer:
    """`gelu` as a layer, for functional models."""
    return keras.layers.Activation(gelu, name=name)
