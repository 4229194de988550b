"""What TensorFlow has for training, with fewer passes over memory: its kernel of BatchNorm, and XLA for GELU.

The one place of the model that is not written in `keras.ops`. The plain equals are `keras.layers.BatchNormalization`
and `common.gelu`.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras

_COMPILED: contextvars.ContextVar[list[tuple[int, ...]] | None] = contextvars.ContextVar("compiled", default=None)
_WORTH = 2**20  # numbers of a tensor that are worth the compilation of a function for its shape
# gelu(x) = x sigmoid(x (_LINEAR + _CUBIC x^2)), which is its tanh form.
_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR


def is_there() -> bool:
    """Whether Keras runs on TensorFlow."""
    return bool(keras.backend.backend() == "tensorflow")


def batch_norm(x: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """Images normalised by the moments of their channels, and these.

    Args:
        x: float32, bfloat16 or float16 `[batch, height, width, channels]`.
        gamma: float32 `[channels]`.
        beta: Likewise.
        epsilon: Added to the variance.

    Returns:
        The images, the mean and the variance (that of the batch, not an estimate of the population's) `[channels]`.
    """
    import tensorflow as tf

    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    count = tf.cast(tf.size(x) // x.shape[-1], tf.float32)
    # The kernel gives Bessel's estimate, or the variance itself if there is one number alone.
    return outputs, mean, variance * (tf.maximum(count - 1, 1) / tf.maximum(count, 1))


@contextlib.contextmanager
def compiling() -> Iterator[list[tuple[int, ...]]]:
    """What is called meanwhile has large GELUs, and their gradients, compiled by XLA for a CPU, each to one pass.

    For training steps: a graph that is saved so would want XLA wherever it is run.

    Yields:
        The shapes of those that were.
    """
    shapes: list[tuple[int, ...]] = []
    before = _COMPILED.set(shapes)
    try:
        yield shapes
    finally:
        _COMPILED.reset(before)


def compiles(x: Any) -> bool:
    """Whether GELU of a tensor is to be compiled: one of a known size, and of no more digits than float32."""
    if _COMPILED.get() is None or None in x.shape or keras.backend.standardize_dtype(x.dtype) == "float64":
        return False
    return math.prod(x.shape) >= _WORTH and _can_compile()


@functools.cache
def _can_compile() -> bool:
    """Whether this TensorFlow was built with XLA for CPUs."""
    import tensorflow as tf

    forward, _ = _compiled()
    with tf.init_scope():
        try:
            forward(tf.zeros((1,)))
        except tf.errors.OpError:
            return False
    return True


def gelu(x: Any) -> Any:
    """GELU in its tanh form, and a gradient that keeps nothing but x; both computed in float32."""
    import tensorflow as tf

    shapes = _COMPILED.get()
    if shapes is not None:
        shapes.append(tuple(x.shape))
    forward, backward = _compiled()
    return tf.custom_gradient(lambda x: (forward(x), lambda upstream: backward(x, upstream)))(x)


@functools.cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The function and its gradient."""
    import tensorflow as tf

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        return tf.function(function, jit_compile=True, autograph=False)

    def forward(x: Any) -> Any:
        z = tf.cast(x, tf.float32)
        return tf.cast(z * tf.sigmoid(z * (_LINEAR + _CUBIC * z * z)), x.dtype)

    def backward(x: Any, upstream: Any) -> Any:
        z = tf.cast(x, tf.float32)
        square = z * z
        share = tf.sigmoid(z * (_LINEAR + _CUBIC * square))
        slope = share + z * (share - share * share) * (_LINEAR + 3 * _CUBIC * square)
        return tf.cast(tf.cast(upstream, tf.float32) * slope, x.dtype)

    return compiled(forward), compiled(backward)
