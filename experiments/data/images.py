"""From the bytes of one image to its pixels: decoding, upright orientation, crop and size.

All in the TensorFlow graph, so that a served model can take the same way as training and evaluation.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

CROP_PADDING = 32  # pixels that the central crop leaves out at 224: it takes 224 / (224 + 32) of the shorter side
_EXIF_BYTES = 4096
_EXIF_ENTRIES = 512  # more than any directory has
_ORIENTATION_TAG = 0x0112

# (height, width) of an image to (y, x, height, width) of a part of it.
Window = Callable[[tf.Tensor], tf.Tensor]


def load(encoded: tf.Tensor, channels: int, size: int, window: Window) -> tf.Tensor:
    """Decodes a part of an image, turns it upright and resizes it.

    JPEG, PNG, GIF (its first frame), BMP and WebP are read. CMYK becomes RGB, 16 bits become the upper 8,
    grey becomes three equal channels (or colours grey, for one channel), transparent PNGs are laid on
    white, and the orientation that a camera noted in a JPEG's Exif header is applied.

    Args:
        encoded: Scalar string, the file's bytes.
        channels: 1 or 3.
        size: Height and width of the result.
        window: Which part to take, e.g. `whole`, `center(size)`, `inception(seed)`.

    Returns:
        uint8 `[size, size, channels]`, resized bilinearly with antialiasing.

    Raises:
        tf.errors.InvalidArgumentError: If the bytes are no image, or a damaged one.
    """

    def jpeg() -> tf.Tensor:
        part = window(tf.image.extract_jpeg_shape(encoded)[:2])
        image = tf.image.decode_and_crop_jpeg(encoded, part, channels=channels)
        return upright(resize(image, size), exif_orientation(encoded))

    def other() -> tf.Tensor:
        image = _decode_other(encoded, channels)
        y, x, height, width = tf.unstack(window(tf.shape(image)[:2]))
        return resize(image[y : y + height, x : x + width], size)

    image = tf.cond(tf.io.is_jpeg(encoded), jpeg, other)
    return tf.ensure_shape(image, (size, size, channels))


def _decode_other(encoded: tf.Tensor, channels: int) -> tf.Tensor:
    is_png = tf.equal(tf.strings.substr(encoded, 0, 4), b"\x89PNG")
    return tf.cond(is_png, lambda: _decode_png(encoded, channels), lambda: _decode_color(encoded, channels))


def _decode_color(encoded: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes GIF, BMP and WebP, which TensorFlow does not decode to one channel."""
    image = tf.ensure_shape(tf.io.decode_image(encoded, channels=3, expand_animations=False), (None, None, 3))
    return tf.image.rgb_to_grayscale(image) if channels == 1 else image


def _decode_png(encoded: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes, and lays transparent images over a white ground."""
    rgba = tf.io.decode_png(encoded, channels=4)

    def opaque() -> tf.Tensor:
        return tf.io.decode_png(encoded, channels=1) if channels == 1 else rgba[..., :3]

    def on_white() -> tf.Tensor:
        color, alpha = tf.cast(opaque(), tf.float32), tf.cast(rgba[..., 3:], tf.float32) / 255
        return to_uint8(color * alpha + 255 * (1 - alpha))

    return tf.cond(tf.reduce_all(tf.equal(rgba[..., 3], 255)), opaque, on_white)


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes an image to a square, bilinearly with antialiasing.

    Args:
        image: uint8 `[height, width, channels]`.
        size: Height and width of the result.

    Returns:
        uint8 `[size, size, channels]`; the image itself if it has that size.
    """
    fits = tf.reduce_all(tf.equal(tf.shape(image)[:2], size))
    return tf.cond(
        fits,
        lambda: tf.identity(image),
        lambda: to_uint8(tf.image.resize(image, (size, size), antialias=True)),
    )


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Rounds to whole numbers and clips to [0, 255]."""
    return tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)


def whole(shape: tf.Tensor) -> tf.Tensor:
    """The window of the whole image."""
    return tf.concat([[0, 0], shape], axis=0)


def center(size: int) -> Window:
    """The window of a central square, of `size / (size + 32)` of the shorter side.

    Args:
        size: Size to which the square will be resized.

    Returns:
        A window, for `load`.
    """

    def window(shape: tf.Tensor) -> tf.Tensor:
        shorter = tf.cast(tf.reduce_min(shape), tf.float32)
        side = tf.maximum(1, tf.cast(tf.round(shorter * (size / (size + CROP_PADDING))), tf.int32))
        return tf.concat([(shape - side) // 2, [side, side]], axis=0)

    return window


def inception(seed: tf.Tensor) -> Window:
    """The window of a random part: 8 to 100 % of the area, of aspect ratio 3/4 to 4/3.

    Args:
        seed: int32 or int64 `[2]`; the same seed gives the same part.

    Returns:
        A window, for `load`.
    """

    def window(shape: tf.Tensor) -> tf.Tensor:
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.concat([shape, [3]], axis=0),
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            seed,
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            use_image_if_no_bounding_boxes=True,
        )
        return tf.concat([begin[:2], extent[:2]], axis=0)

    return window


def exif_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """How a camera was held, by the Exif header of its JPEG.

    Args:
        encoded: Scalar string, the bytes of a JPEG.

    Returns:
        int32 scalar, 1 (upright, or not noted) to 8, as the Exif standard counts.
    """
    data = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 0, _EXIF_BYTES), tf.uint8), tf.int32)
    data = tf.pad(data, [[0, _EXIF_BYTES - tf.size(data)]])

    def number(position: tf.Tensor, size: int, little_endian: tf.Tensor) -> tf.Tensor:
        digits = tf.gather(data, _clip(position[..., None] + tf.range(size)))
        weights = 256 ** tf.range(size)
        return tf.reduce_sum(digits * tf.where(little_endian, weights, weights[::-1]), axis=-1)

    # The Exif segment is the first, or the second behind JFIF's.
    jfif = tf.equal(data[3], 0xE0)
    segment = tf.where(jfif, 4 + number(tf.constant(4), 2, tf.constant(False)), 2)
    has_exif = tf.reduce_all(tf.equal(tf.gather(data, _clip(segment + tf.constant([1, 4, 5, 6, 7]))), [0xE1, *b"Exif"]))

    def read() -> tf.Tensor:
        tiff = segment + 10
        little_endian = tf.equal(tf.gather(data, _clip(tiff)), ord("I"))
        directory = tiff + number(tiff + 4, 4, little_endian)
        entries = directory + 2 + 12 * tf.range(number(directory, 2, little_endian) % _EXIF_ENTRIES)
        is_orientation = tf.equal(number(entries, 2, little_endian), _ORIENTATION_TAG)
        orientation = tf.reduce_sum(tf.where(is_orientation, number(entries + 8, 2, little_endian), 0))
        return tf.where((orientation >= 1) & (orientation <= 8), orientation, 1)

    return tf.cond(has_exif, read, lambda: 1)


def _clip(positions: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(positions, 0, _EXIF_BYTES - 1)


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns a square image as its Exif orientation asks.

    Args:
        image: `[size, size, channels]`.
        orientation: int32 scalar, 1 to 8.

    Returns:
        The image, turned and mirrored.
    """

    def turn() -> tf.Tensor:
        turned = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
        turned = tf.cond(_is_one_of(orientation, (2, 3, 6, 7)), lambda: turned[:, ::-1], lambda: turned)
        return tf.cond(_is_one_of(orientation, (3, 4, 7, 8)), lambda: turned[::-1], lambda: turned)

    return tf.cond(tf.equal(orientation, 1), lambda: image, turn)


def _is_one_of(value: tf.Tensor, values: tuple[int, ...]) -> tf.Tensor:
    return tf.reduce_any(tf.equal(value, values))
