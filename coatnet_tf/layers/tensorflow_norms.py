"""TensorFlow's own kernel of BatchNorm in training: two passes over memory where Keras' operations take six.

The one place of the model that is not written in `keras.ops`; its plain equal is `keras.layers.BatchNormalization`.
"""

from __future__ import annotations

from typing import Any

import keras


def is_there() -> bool:
    """Whether Keras runs on TensorFlow."""
    return bool(keras.backend.backend() == "tensorflow")


def batch_norm(x: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """Images normalised by the moments of their channels, and these.

    Args:
        x: float32 `[batch, height, width, channels]`.
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
