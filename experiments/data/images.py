"""From the bytes of one image to its pixels: decoding, upright orientation, crop and size.

TensorFlow's kernels decode JPEG and PNG, in the graph, so that a served model takes the same way as training and
evaluation. They are right for these, with what `headers` says beside. Other kinds are read by Pillow where Python runs,
and are an error elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from experiments.data import headers, other_formats

CROP_PADDING = 32  # pixels that the central crop leaves out at 224: it takes 224 / (224 + 32) of the shorter side
READ = "JPEG, PNG, GIF, BMP, WebP or TIFF"  # for messages
_RED, _GREEN, _BLUE = 19595, 38470, 7471  # of 65,536: grey as ITU-R 601 and Pillow mix it
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"

# (height, width) of an image to (y, x, height, width) of a part of it.
Window = Callable[[tf.Tensor], tf.Tensor]


def load(
    encoded: tf.Tensor,
    channels: int,
    size: int,
    window: Window,
    *,
    python: bool = True,
    header: headers.Header | None = None,
    on_16_bits: Callable[[tf.Tensor], Any] | None = None,
) -> tf.Tensor:
    """Decodes an image, turns it upright and resizes a part of it.

    JPEG, PNG, GIF, BMP, WebP and TIFF are read, of animations and the like the first frame. CMYK becomes RGB, 16 bits
    are scaled to 8, grey becomes three equal channels (or colours grey, for one channel), what is transparent is laid
    on white, and the orientation that a camera noted in Exif data or XMP is applied.

    Args:
        encoded: Scalar string, the file's bytes.
        channels: 1 or 3.
        size: Height and width of the result.
        window: Which part of the upright image to take, e.g. `whole`, `center(size)`, `inception(seed)`.
        python: Whether Python runs beside the graph, as Pillow needs it; without it only JPEG and PNG are read.
        header: What `headers.read` says of the file; it is read if it is missing.
        on_16_bits: Called with the largest value, int32 scalar, of a file with 16 bits a value; returns an operation.

    Returns:
        uint8 `[size, size, channels]`, resized bilinearly with antialiasing.

    Raises:
        tf.errors.InvalidArgumentError: If the bytes are no image, a damaged one, or one that needs Python.
    """
    header = header or headers.read(encoded)

    def jpeg() -> tuple[tf.Tensor, tf.Tensor]:
        return _decode_jpeg(encoded, header.orientation, channels, window), header.orientation

    def part_of(image: tf.Tensor, peak: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if on_16_bits is not None:
            noted = tf.cond(peak > 0, lambda: tf.group(on_16_bits(peak)), lambda: tf.no_op())
            with tf.control_dependencies([noted]):
                image = tf.identity(image)
        y, x, height, width = tf.unstack(window(tf.shape(image)[:2]))
        image = image[y : y + height, x : x + width]
        return _grey(image) if channels == 1 else image, tf.constant(1)

    def png() -> tuple[tf.Tensor, tf.Tensor]:
        return part_of(*_decode_png(encoded, header))

    def other() -> tuple[tf.Tensor, tf.Tensor]:
        if python:
            return part_of(*_decode_other(encoded))
        with tf.control_dependencies([tf.debugging.Assert(False, [tf.gather(headers.KINDS, header.kind)])]):
            return tf.zeros((1, 1, channels), tf.uint8), tf.constant(1)

    image, orientation = tf.switch_case(tf.minimum(header.kind, headers.HIDDEN), [jpeg, png, other])
    image = tf.ensure_shape(image, (None, None, channels))
    return tf.ensure_shape(upright(resize(image, size), orientation), (size, size, channels))


def _decode_jpeg(encoded: tf.Tensor, orientation: tf.Tensor, channels: int, window: Window) -> tf.Tensor:
    """No more than the part, which is found in the image as it lies; it is not turned."""
    shape = tf.image.extract_jpeg_shape(encoded)
    part = tf.cond(
        tf.equal(orientation, 1),
        lambda: window(shape[:2]),
        lambda: _before_turning(window, shape[:2], orientation),
    )

    def cmyk() -> tf.Tensor:
        # Without Adobe's segment the kernel takes it for ink, where 0 is white; in nearly all files white is 255.
        known = tf.cond(
            headers.has_adobe_segment(encoded),
            lambda: encoded,
            lambda: tf.strings.join([tf.strings.substr(encoded, 0, 2), _ADOBE, tf.strings.substr(encoded, 2, -1)]),
        )
        image = tf.image.decode_and_crop_jpeg(known, part, channels=3)
        return _grey(image) if channels == 1 else image

    def other() -> tf.Tensor:
        return tf.image.decode_and_crop_jpeg(encoded, part, channels=channels)

    return tf.cond(tf.equal(shape[2], 4), cmyk, other)


def _decode_png(encoded: tf.Tensor, header: headers.Header) -> tuple[tf.Tensor, tf.Tensor]:
    """RGB, upright and on white; and the largest value of one with 16 bits, else 0."""
    bits, color_type = tf.unstack(tf.ensure_shape(tf.io.decode_raw(tf.strings.substr(encoded, 24, 2), tf.uint8), (2,)))

    def decode(channels: int) -> tuple[tf.Tensor, tf.Tensor]:
        def of_16_bits() -> tuple[tf.Tensor, tf.Tensor]:
            values = tf.cast(tf.io.decode_png(encoded, channels=channels, dtype=tf.uint16), tf.int32)
            return tf.cast(other_formats.to_8_bits(values), tf.uint8), tf.reduce_max(values[..., :3])

        return tf.cond(
            tf.equal(bits, 16), of_16_bits, lambda: (tf.io.decode_png(encoded, channels=channels), tf.constant(0))
        )

    def on_white() -> tuple[tf.Tensor, tf.Tensor]:
        image, peak = decode(4)
        color, alpha = tf.cast(image[..., :3], tf.float32), tf.cast(image[..., 3:], tf.float32) / 255
        return to_uint8(color * alpha + 255 * (1 - alpha)), peak

    is_transparent = header.has_key | tf.equal(color_type, 4) | tf.equal(color_type, 6)
    image, peak = tf.cond(is_transparent, on_white, lambda: decode(3))
    return upright(image, header.orientation), peak


def _decode_other(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """What `other_formats.read` returns."""
    image, peak = tf.numpy_function(other_formats.read, [encoded], (tf.uint8, tf.int32))
    return tf.ensure_shape(image, (None, None, 3)), tf.ensure_shape(peak, ())


def _grey(image: tf.Tensor) -> tf.Tensor:
    mixed = tf.reduce_sum(tf.cast(image, tf.int32) * tf.constant([_RED, _GREEN, _BLUE]), axis=-1, keepdims=True)
    return tf.cast((mixed + 32768) // 65536, tf.uint8)


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


def _before_turning(window: Window, shape: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Where the window of the upright image lies in the image that is not turned yet, of `shape`."""
    transposed, mirrored, upended = _steps(orientation)
    shape = tf.where(transposed, shape[::-1], shape)
    y, x, height, width = tf.unstack(window(shape))
    y = tf.where(upended, shape[0] - y - height, y)
    x = tf.where(mirrored, shape[1] - x - width, x)
    return tf.where(transposed, tf.stack([x, y, width, height]), tf.stack([y, x, height, width]))


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns an image as its Exif orientation asks.

    Args:
        image: `[height, width, channels]`.
        orientation: int32 scalar, 1 to 8.

    Returns:
        The image, turned and mirrored.
    """

    def turn() -> tf.Tensor:
        transposed, mirrored, upended = _steps(orientation)
        turned = tf.cond(transposed, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
        turned = tf.cond(mirrored, lambda: turned[:, ::-1], lambda: turned)
        return tf.cond(upended, lambda: turned[::-1], lambda: turned)

    return tf.cond(tf.equal(orientation, 1), lambda: image, turn)


def _steps(orientation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Whether an image is transposed, then mirrored, then turned upside down, to be upright."""
    return orientation >= 5, _is_one_of(orientation, (2, 3, 6, 7)), _is_one_of(orientation, (3, 4, 7, 8))


def _is_one_of(value: tf.Tensor, values: tuple[int, ...]) -> tf.Tensor:
    return tf.reduce_any(tf.equal(value, values))
