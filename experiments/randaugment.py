"""RandAugment (Cubuk et al., arXiv:1909.13719) as the paper's code base ran it, as stateless functions of one image.

Each layer picks one of sixteen operations uniformly and applies it, all at one magnitude M. An operation's
argument is M / 10 times its range and is not clipped at M = 10. Geometry samples the nearest pixel and fills
with grey 128, as tensorflow-addons did. `keras.layers.RandAugment` is another augmentation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

FILL = 128
MAX_ROTATION = 30.0  # degrees
MAX_SHEAR = 0.3
MAX_TRANSLATION = 100.0  # pixels, times pixel_scale
MAX_POSTERIZE = 4  # bits
MAX_SOLARIZE = 256  # threshold
MAX_SOLARIZE_ADD = 110
MAX_ENHANCEMENT = 1.8  # above 0.1; 1 leaves the image as it is
MAX_CUTOUT = 40  # pixels, half of the side, times pixel_scale

Operation = Callable[[tf.Tensor, float, tf.Tensor, float], tf.Tensor]


def randaugment(
    image: tf.Tensor,
    seed: tf.Tensor,
    layers: int,
    magnitude: float,
    pixel_scale: float = 1.0,
    probability: float = 1.0,
) -> tf.Tensor:
    """Applies `layers` operations, each picked uniformly from those for the image's channels.

    Args:
        image: uint8 `[height, width, channels]`.
        seed: int32 or int64 `[2]`; the same seed gives the same result.
        layers: Number of operations (N of the paper).
        magnitude: Their magnitude (M of the paper); 10 is the usual full range.
        pixel_scale: Factor of the ranges that are in pixels, 1 as in the paper; size / 224 suits small
            images.
        probability: With which an operation is applied, 1 as in the paper; less suits small networks and short
            runs, which inverted and solarised images cost more than they teach.

    Returns:
        uint8 image of the same shape.

    Example:
    >>> import tensorflow as tf
    >>> from experiments.randaugment import randaugment
    >>> image = tf.zeros((32, 32, 3), tf.uint8)
    >>> tuple(randaugment(image, seed=(0, 1), layers=2, magnitude=15).shape)
    (32, 32, 3)
    """
    shape, count = image.shape, len(operations_for(image.shape[-1]))
    for layer_seed in tf.unstack(tf.random.experimental.stateless_split(seed, layers)):
        pick_seed, seed_of_operation = tf.unstack(tf.random.experimental.stateless_split(layer_seed, 2))
        picked = tf.random.stateless_uniform((), pick_seed, 0, count, dtype=tf.int32)
        share = tf.random.stateless_uniform((), tf.random.experimental.stateless_fold_in(layer_seed, 2))
        image = tf.cond(
            share < probability,
            functools.partial(apply, image, picked, magnitude, seed_of_operation, pixel_scale),
            functools.partial(tf.identity, image),
        )
    return tf.ensure_shape(image, shape)


def apply(image: tf.Tensor, index: tf.Tensor, magnitude: float, seed: tf.Tensor, pixel_scale: float = 1.0) -> tf.Tensor:
    """Applies one operation.

    Args:
        image: uint8 `[height, width, channels]`.
        index: int32 scalar, the operation's place in `operations_for` the image's channels.
        magnitude: Its magnitude.
        seed: int32 or int64 `[2]`, for signs and places.
        pixel_scale: Factor of the ranges that are in pixels.

    Returns:
        uint8 image of the same shape.
    """
    operations = operations_for(image.shape[-1]).values()
    branches = [lambda f=operation: f(image, magnitude, seed, pixel_scale) for operation in operations]
    return tf.switch_case(index, branches)


def blend(degenerate: tf.Tensor, image: tf.Tensor, factor: float) -> tf.Tensor:
    """`degenerate + factor * (image - degenerate)`, in whole numbers of 0 to 255."""
    degenerate, image = tf.cast(degenerate, tf.float32), tf.cast(image, tf.float32)
    # Truncated, not rounded, as the original is.
    return tf.cast(tf.clip_by_value(degenerate + factor * (image - degenerate), 0.0, 255.0), tf.uint8)


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches the values of each channel to 0..255."""
    values = tf.cast(image, tf.float32)
    low, high = (extreme(values, axis=(0, 1), keepdims=True) for extreme in (tf.reduce_min, tf.reduce_max))
    scale = 255.0 / tf.maximum(high - low, 1.0)
    stretched = tf.clip_by_value(values * scale - low * scale, 0.0, 255.0)
    return tf.where(high > low, tf.cast(stretched, tf.uint8), image)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Makes the histogram of each channel as even as a table of values can."""

    def channel(values: tf.Tensor) -> tf.Tensor:
        histogram = tf.math.bincount(values, minlength=256, maxlength=256)
        nonzero = tf.boolean_mask(histogram, histogram > 0)
        step = (tf.reduce_sum(nonzero) - nonzero[-1]) // 255
        table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1)
        return tf.cond(step > 0, lambda: tf.gather(tf.minimum(table, 255), values), lambda: values)

    values = tf.cast(image, tf.int32)
    return tf.cast(tf.stack([channel(values[..., i]) for i in range(image.shape[-1])], axis=-1), tf.uint8)


def rotate(image: tf.Tensor, degrees: float | tf.Tensor) -> tf.Tensor:
    """Turns an image about its centre, counter-clockwise for positive angles."""
    angle = tf.cast(degrees, tf.float32) * (3.141592653589793 / 180)
    height, width = (tf.cast(size - 1, tf.float32) for size in (tf.shape(image)[0], tf.shape(image)[1]))
    cos, sin = tf.cos(angle), tf.sin(angle)
    shift_x = (width - (cos * width - sin * height)) / 2
    shift_y = (height - (sin * width + cos * height)) / 2
    return _transform(image, [cos, -sin, shift_x, sin, cos, shift_y, 0.0, 0.0])


def shear_x(image: tf.Tensor, amount: float | tf.Tensor) -> tf.Tensor:
    """Output (x, y) shows input (x + amount * y, y)."""
    return _transform(image, [1.0, amount, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])


def shear_y(image: tf.Tensor, amount: float | tf.Tensor) -> tf.Tensor:
    """Output (x, y) shows input (x, y + amount * x)."""
    return _transform(image, [1.0, 0.0, 0.0, amount, 1.0, 0.0, 0.0, 0.0])


def translate(image: tf.Tensor, x: float | tf.Tensor, y: float | tf.Tensor) -> tf.Tensor:
    """Moves an image by x pixels to the right and y pixels down."""
    return _transform(image, [1.0, 0.0, -x, 0.0, 1.0, -y, 0.0, 0.0])


def _transform(image: tf.Tensor, projection: list[float | tf.Tensor]) -> tf.Tensor:
    """Projective transform of output positions to input positions, as tensorflow-addons' `transform`."""
    transformed = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack([tf.cast(value, tf.float32) for value in projection])[None],
        output_shape=tf.shape(image)[:2],
        fill_value=float(FILL),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )
    return transformed[0]


def posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
    """Keeps the upper bits of each value."""
    shift = tf.constant(max(0, 8 - bits), tf.uint8)
    return tf.bitwise.left_shift(tf.bitwise.right_shift(image, shift), shift)


def solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
    """Inverts the values at or above the threshold."""
    return tf.where(tf.cast(image, tf.int32) < threshold, image, 255 - image)


def solarize_add(image: tf.Tensor, addition: int) -> tf.Tensor:
    """Adds to the values below 128."""
    added = tf.minimum(tf.cast(image, tf.int32) + addition, 255)
    return tf.where(image < 128, tf.cast(added, tf.uint8), image)


def color(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends with the grey image; images of one channel stay what they are."""
    if image.shape[-1] == 1:
        return image
    return blend(tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image)), image, factor)


def contrast(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends with the mean grey of the image, as Pillow does."""
    grey = image if image.shape[-1] == 1 else tf.image.rgb_to_grayscale(image)
    mean = tf.round(tf.reduce_mean(tf.cast(grey, tf.float32)))
    return blend(mean, image, factor)


def brightness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends with black."""
    return blend(0.0, image, factor)


def sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends with the image smoothed by a 3x3 kernel; pixels at the border stay what they are."""
    channels = image.shape[-1]
    kernel = tf.constant([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]])[:, :, None, None] / 13.0
    kernel = tf.tile(kernel, (1, 1, channels, 1))
    values = tf.cast(image, tf.float32)
    smooth = tf.nn.depthwise_conv2d(values[None], kernel, (1, 1, 1, 1), "VALID")[0]
    smooth = tf.floor(tf.clip_by_value(smooth, 0.0, 255.0))
    inner = tf.pad(tf.ones_like(smooth, tf.bool), ((1, 1), (1, 1), (0, 0)))
    return blend(tf.where(inner, tf.pad(smooth, ((1, 1), (1, 1), (0, 0))), values), image, factor)


def cutout(image: tf.Tensor, half_side: int, seed: tf.Tensor) -> tf.Tensor:
    """Covers a square about a random position with grey; it may reach over the border."""
    shape = tf.shape(image)
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    covered = []
    for axis in (0, 1):
        middle = tf.random.stateless_uniform((), seeds[axis], 0, shape[axis], dtype=tf.int32)
        positions = tf.range(shape[axis])
        covered.append((positions >= middle - half_side) & (positions < middle + half_side))
    square = covered[0][:, None, None] & covered[1][None, :, None]
    return tf.where(square, tf.constant(FILL, tf.uint8), image)


def _signed(value: float, seed: tf.Tensor) -> tf.Tensor:
    negative = tf.random.stateless_uniform((), seed) < 0.5
    return tf.where(negative, -value, value)


def _factor(magnitude: float) -> float:
    return magnitude / 10 * MAX_ENHANCEMENT + 0.1


# Name to function of (image, magnitude, seed, pixel_scale).
OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda image, m, seed, scale: autocontrast(image),
    "Equalize": lambda image, m, seed, scale: equalize(image),
    "Invert": lambda image, m, seed, scale: 255 - image,
    "Rotate": lambda image, m, seed, scale: rotate(image, _signed(m / 10 * MAX_ROTATION, seed)),
    "Posterize": lambda image, m, seed, scale: posterize(image, int(m / 10 * MAX_POSTERIZE)),
    "Solarize": lambda image, m, seed, scale: solarize(image, int(m / 10 * MAX_SOLARIZE)),
    "Color": lambda image, m, seed, scale: color(image, _factor(m)),
    "Contrast": lambda image, m, seed, scale: contrast(image, _factor(m)),
    "Brightness": lambda image, m, seed, scale: brightness(image, _factor(m)),
    "Sharpness": lambda image, m, seed, scale: sharpness(image, _factor(m)),
    "ShearX": lambda image, m, seed, scale: shear_x(image, _signed(m / 10 * MAX_SHEAR, seed)),
    "ShearY": lambda image, m, seed, scale: shear_y(image, _signed(m / 10 * MAX_SHEAR, seed)),
    "TranslateX": lambda image, m, seed, scale: translate(image, _signed(m / 10 * MAX_TRANSLATION * scale, seed), 0.0),
    "TranslateY": lambda image, m, seed, scale: translate(image, 0.0, _signed(m / 10 * MAX_TRANSLATION * scale, seed)),
    "Cutout": lambda image, m, seed, scale: cutout(image, int(m / 10 * MAX_CUTOUT * scale), seed),
    "SolarizeAdd": lambda image, m, seed, scale: solarize_add(image, int(m / 10 * MAX_SOLARIZE_ADD)),
}
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout")


def operations_for(channels: int) -> dict[str, Operation]:
    """All operations for grey and RGB images; for others, whose values are no colours, the geometric ones."""
    return OPERATIONS if channels in (1, 3) else {name: OPERATIONS[name] for name in GEOMETRIC}
