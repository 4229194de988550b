"""Augmentations of one image as stateless functions of (image, seed)."""

from __future__ import annotations

import tensorflow as tf


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors an image left to right with probability 1/2.

    Args:
        image: `[height, width, channels]`, any dtype.
        seed: int32 or int64 `[2]`; the same seed gives the same result.

    Returns:
        The image or its mirror image.
    """
    return tf.image.stateless_random_flip_left_right(image, seed)


def random_translate(image: tf.Tensor, seed: tf.Tensor, pixels: int) -> tf.Tensor:
    """Moves an image by up to `pixels` along each axis, filling with the values at the edge.

    Args:
        image: `[height, width, channels]`, any dtype, larger than `pixels`.
        seed: int32 or int64 `[2]`; the same seed gives the same result.
        pixels: Largest shift along each axis.

    Returns:
        An image of the same shape.
    """
    shape = tf.shape(image)
    rows, columns = (tf.clip_by_value(tf.range(-pixels, shape[axis] + pixels), 0, shape[axis] - 1) for axis in (0, 1))
    padded = tf.gather(tf.gather(image, rows, axis=0), columns, axis=1)
    moved = tf.image.stateless_random_crop(padded, shape, seed)
    return tf.ensure_shape(moved, image.shape)
