"""Augmentations beside RandAugment, as stateless functions: the same seed gives the same result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from keras import ops

# Of random erasing, as Zhong et al. and timm have them.
_ERASED_AREA = (0.02, 1 / 3)  # share of the image
_ERASED_SHAPE = (0.3, 1 / 0.3)  # height over width
_ERASING_ATTEMPTS = 10


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


def random_erasing(image: tf.Tensor, seed: tf.Tensor, probability: float) -> tf.Tensor:
    """Fills a rectangle of an image with noise (Zhong et al., arXiv:1708.04896), as timm's `mode="pixel"` places it.

    It has 2 to 33 % of the area and a height of 0.3 to 3.3 times its width. If none of ten draws fits into the image,
    nothing is erased.

    Args:
        image: uint8 `[height, width, channels]`.
        seed: int32 or int64 `[2]`.
        probability: That anything is erased.

    Returns:
        An image of the same shape, with values of 0 to 255 in the rectangle, each as likely.
    """
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 4))
    height, width, _ = image.shape
    drawn = (_ERASING_ATTEMPTS,)
    areas = tf.random.stateless_uniform(drawn, seeds[0], *_ERASED_AREA) * (height * width)
    shapes = tf.exp(tf.random.stateless_uniform(drawn, seeds[1], *map(math.log, _ERASED_SHAPE)))
    sides = tf.cast(tf.round(tf.sqrt(tf.stack([areas * shapes, areas / shapes], axis=1))), tf.int32)
    fit = tf.reduce_all(sides < (height, width), axis=1)
    chance, *place = tf.unstack(tf.random.stateless_uniform((3,), seeds[2]))
    side = sides[tf.argmax(fit)]  # the first that fits
    begin = tf.cast(place * tf.cast((height, width) - side + 1, tf.float32), tf.int32)
    side = tf.where(tf.reduce_any(fit) & (chance < probability), side, 0)
    noise = tf.cast(tf.random.stateless_uniform(image.shape, seeds[3], 0, 256, tf.int32), image.dtype)
    return tf.where(_box(begin, begin + side, (height, width))[..., None], noise, image)


def mixes_pairs(settings: Mapping[str, Any]) -> bool:
    """Whether `augment` of a recipe has Mixup or CutMix, which need pairs of images."""
    return bool(settings["mixup_alpha"] or settings["cutmix_alpha"])


def cutmix_box(seed: tf.Tensor, alpha: float, size: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """The rectangle that the images of a pair exchange (CutMix; Yun et al., arXiv:1905.04899).

    Its area is 1 - Beta(alpha, alpha) of the image, in the image's shape, around a point that is uniform in the image;
    what lies outside is cut off.

    Args:
        seed: int32 or int64 `[2]`.
        alpha: Both parameters of the Beta distribution, above 0.
        size: Height and width of the images.

    Returns:
        int32 `[2]` each: first row and column, and those behind the last.
    """
    share_seed, place_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    whole = tf.constant(size, tf.float32)
    half = tf.cast(tf.sqrt(1 - mixup_share(share_seed, alpha)) * whole, tf.int32) // 2
    centre = tf.cast(tf.random.stateless_uniform((2,), place_seed) * whole, tf.int32)
    return tf.maximum(centre - half, 0), tf.minimum(centre + half, size)


def cutmix(images: tf.Tensor, begins: tf.Tensor, ends: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Puts a rectangle of the other image of its pair into each image: 0 and 1, 2 and 3, ...

    Args:
        images: `[count, height, width, channels]`, any dtype, `count` even.
        begins: int32 `[count, 2]`, first row and column; equal within a pair.
        ends: int32 `[count, 2]`, those behind the last.

    Returns:
        Images of the same shape, and float32 `[count]`, the share of its own pixels that each has kept.
    """
    inside = _box(begins, ends, tuple(images.shape[1:3]))
    kept = 1 - tf.reduce_mean(tf.cast(inside, tf.float32), axis=(1, 2))
    partners = tf.gather(images, tf.bitwise.bitwise_xor(tf.range(images.shape[0]), 1))
    return tf.where(inside[..., None], partners, images), kept


def _box(begin: tf.Tensor, end: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Whether a pixel is in the rectangle, int32 `[..., 2]`: `[..., height, width]`."""
    rows, columns = (
        (tf.range(side) >= begin[..., axis, None]) & (tf.range(side) < end[..., axis, None])
        for axis, side in enumerate(size)
    )
    return rows[..., :, None] & columns[..., None, :]


def mixup(images: Any, targets: Any, weights: Any, shares: Any) -> tuple[Any, Any, Any]:
    """Mixes each image with the other of its pair: 0 with 1, 2 with 3, ...; on any backend, in the step.

    Args:
        images: Floating point `[batch, height, width, channels]`, `batch` even.
        targets: Floating point `[batch, classes]`.
        weights: `[batch]`; a pair with an image of weight 0 gets weight 0.
        shares: float32 `[batch, 2]`, the shares of each image and of its target in their own mixtures; equal within a
            pair. Both are the same, but for images that CutMix has mixed already.

    Returns:
        Mixed images, targets, and weights.
    """

    def partner(x: Any) -> Any:
        return ops.reshape(ops.flip(ops.reshape(x, (-1, 2, *x.shape[1:])), axis=1), (-1, *x.shape[1:]))

    def mix(x: Any, share: Any) -> Any:
        share = ops.reshape(ops.cast(share, x.dtype), (-1,) + (1,) * (len(x.shape) - 1))
        return share * x + (1 - share) * partner(x)

    return mix(images, shares[:, 0]), mix(targets, shares[:, 1]), weights * partner(weights)
