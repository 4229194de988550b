"""Augmentations beside RandAugment, as stateless functions: the same seed gives the same result."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import ops


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors an image left to right with probability 1/2.

    Args:
        image: `[height, width, channels]`, any dtype.
        seed: int32 or int64 `[2]`.

    Returns:
        The image or its mirror image.
    """
    return tf.image.stateless_random_flip_left_right(image, seed)


def random_translate(image: tf.Tensor, seed: tf.Tensor, pixels: int) -> tf.Tensor:
    """Moves an image by up to `pixels` along each axis, filling with the values at the edge.

    Args:
        image: `[height, width, channels]`, any dtype, larger than `pixels`.
        seed: int32 or int64 `[2]`.
        pixels: Largest shift along each axis.

    Returns:
        An image of the same shape.
    """
    shape = tf.shape(image)
    rows, columns = (tf.clip_by_value(tf.range(-pixels, shape[axis] + pixels), 0, shape[axis] - 1) for axis in (0, 1))
    padded = tf.gather(tf.gather(image, rows, axis=0), columns, axis=1)
    moved = tf.image.stateless_random_crop(padded, shape, seed)
    return tf.ensure_shape(moved, image.shape)


def mixup_share(seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """The share of an image in its mixture with its partner (Zhang et al., arXiv:1710.09412).

    Args:
        seed: int32 or int64 `[2]`.
        alpha: Both parameters of the Beta distribution, above 0.

    Returns:
        float32 scalar in [0, 1], from Beta(alpha, alpha).
    """
    mine, partners = tf.unstack(tf.random.stateless_gamma((2,), seed, alpha))
    # For small alpha both can round to 0.
    return tf.where(mine + partners > 0, mine / tf.maximum(mine + partners, 1e-30), 0.5)


def mixup(images: Any, targets: Any, weights: Any, shares: Any) -> tuple[Any, Any, Any]:
    """Mixes each image with the other of its pair: 0 with 1, 2 with 3, ...; on any backend, in the step.

    Args:
        images: Floating point `[batch, height, width, channels]`, `batch` even.
        targets: Floating point `[batch, classes]`.
        weights: `[batch]`; a pair with an image of weight 0 gets weight 0.
        shares: float32 `[batch]`, the share of each image in its own mixture; equal within a pair.

    Returns:
        Mixed images, targets, and weights.
    """

    def partner(x: Any) -> Any:
        return ops.reshape(ops.flip(ops.reshape(x, (-1, 2, *x.shape[1:])), axis=1), (-1, *x.shape[1:]))

    def mix(x: Any) -> Any:
        share = ops.reshape(ops.cast(shares, x.dtype), (-1,) + (1,) * (len(x.shape) - 1))
        return share * x + (1 - share) * partner(x)

    return mix(images), mix(targets), weights * partner(weights)
