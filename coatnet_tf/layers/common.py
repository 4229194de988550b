"""What the blocks of CoAtNet share: initialisation, activation and norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

NORMS = ("batch_norm", "sync_batch_norm", "layer_norm")
ACTIVATIONS = ("gelu_tanh", "gelu", "silu", "relu")
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


def get_activation(name: str) -> Callable[[Any], Any]:
    """`"gelu_tanh"` (the paper's code), `"gelu"` (exact, by the error function), `"silu"` or `"relu"`."""
    check_known("activation", name, ACTIVATIONS)
    return gelu if name == "gelu_tanh" else keras.activations.get(name)


def check_known(argument: str, value: Any, known: tuple[str, ...]) -> None:
    """Refuses a value that is none of those known."""
    if value not in known:
        raise ValueError(f"{argument} must be one of {', '.join(known)}; got {value!r}.")


def is_of_channels(norm: keras.layers.Layer) -> bool:
    """Whether a norm of a functional model is over the last axis."""
    axes = norm.axis if isinstance(norm.axis, list | tuple) else [norm.axis]
    return list(axes) in ([-1], [len(norm.input.shape) - 1])


def make_norm(norm: str, name: str, epsilon: float | None = None, **kwargs: Any) -> keras.layers.Layer:
    """A norm over the last axis: `"batch_norm"`, `"sync_batch_norm"` or `"layer_norm"`."""
    check_known("norm", norm, NORMS)
    if norm == "layer_norm":
        return keras.layers.LayerNormalization(epsilon=epsilon or LAYER_NORM_EPSILON, name=name, **kwargs)
    return keras.layers.BatchNormalization(
        epsilon=epsilon or BATCH_NORM_EPSILON,
        momentum=BATCH_NORM_MOMENTUM,
        synchronized=norm == "sync_batch_norm",
        name=name,
        **kwargs,
    )


def conv(
    filters: int,
    kernel_size: int,
    name: str,
    initializer: Any = None,
    padding: str = "same",
    **kwargs: Any,
) -> keras.layers.Conv2D:
    """A convolution over NHWC images with the paper's padding and initialisation."""
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        padding=padding,
        data_format="channels_last",
        kernel_initializer=make_initializer(initializer),
        name=name,
        **kwargs,
    )


def dense(units: int, name: str, initializer: Any = None, **kwargs: Any) -> keras.layers.Dense:
    """A dense layer with the paper's initialisation."""
    return keras.layers.Dense(units, kernel_initializer=make_initializer(initializer), name=name, **kwargs)


def finish_build(layer: keras.layers.Layer) -> None:
    """Ends the `build` of a layer of layers: Keras does not freeze those of one whose configuration is frozen."""
    if not layer.trainable:
        layer.trainable = True  # TensorFlow leaves out assignments of what is there already
        layer.trainable = False
    layer.built = True


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
