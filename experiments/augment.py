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


def random_erase(image: tf.Tensor, seed: tf.Tensor, share: float) -> tf.Tensor:
    """Fills a random square with the mean of the image (Zhong et al., arXiv:1708.04896).

    Args:
        image: float `[height, width, channels]`.
        seed: int32 or int64 `[2]`; the same seed gives the same result.
        share: Side of the square over the shorter side of the image, at most 1.

    Returns:
        An image of the same shape.
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    half = tf.cast(tf.minimum(height, width), tf.float32) * share / 2
    centre = tf.random.stateless_uniform([2], seed)
    rows = tf.abs(tf.range(height, dtype=tf.int32) - tf.cast(centre[0] * tf.cast(height, tf.float32), tf.int32))
    columns = tf.abs(tf.range(width, dtype=tf.int32) - tf.cast(centre[1] * tf.cast(width, tf.float32), tf.int32))
    inside = (tf.cast(rows, tf.float32) < half)[:, None] & (tf.cast(columns, tf.float32) < half)[None, :]
    return tf.where(inside[..., None], tf.reduce_mean(image), image)
