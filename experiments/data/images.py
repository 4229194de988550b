"""From the bytes of one image to its pixels: decoding, upright orientation, crop and size.

TensorFlow's kernels decode JPEG and PNG, in the graph, so that a served model takes the same way as training and
evaluation. They are right for these, with what `headers` says beside. Other kinds are read by Pillow and NumPy where
Python runs, and are an error elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from experiments.data import headers, other_formats
from experiments.sizes import Size

CROP_PADDING = 32  # pixels that the central crop leaves out at 224: it takes 224 / (224 + 32) of the shorter side
INTERPOLATIONS = ("bilinear", "bicubic")
READ = "JPEG, PNG, GIF, BMP, WebP, TIFF or array"  # for messages
_RED, _GREEN, _BLUE = 19595, 38470, 7471  # of 65,536: grey as ITU-R 601 and Pillow mix it
_DCT = "INTEGER_ACCURATE"  # as Pillow has it; TensorFlow's default saves 3 % of the time and is off by up to 18 of 255
_WITH_ALPHA = {2: (0, 3), 4: (0, 1, 2, 3)}  # of RGBA, by the number of channels of grey and of colours
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"

# (height, width) of an image to (y, x, height, width) of a part of it.
Window = Callable[[tf.Tensor], tf.Tensor]


def load(
    encoded: tf.Tensor,
    channels: int,
    size: Size,
    window: Window,
    *,
    interpolation: str = "bilinear",
    resized: Size | None = None,
    python: bool = True,
    header: headers.Header | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes an image, turns it upright and resizes a part of it.

    JPEG, PNG, GIF, BMP, WebP and TIFF are read, of animations and the like the first frame, and arrays (`.npy`). CMYK
    becomes RGB, 16 bits are scaled to 8, grey becomes three equal channels (or colours grey, for one channel), what is
    transparent is laid on white, and the orientation that a camera noted in Exif data or XMP is applied.

    For other channels than 1 and 3 a file must have as many: an array, a TIFF of as many pages, or a picture whose
    alpha is its second or fourth.

    Args:
        encoded: Scalar string, the file's bytes.
        channels: Of the result.
        size: Height and width of the result.
        window: Which part of the upright image to take, e.g. `whole`, `center(size)`, `inception(seed, size)`.
        interpolation: One of `INTERPOLATIONS`.
        resized: If given, the window is resized to no less than this, keeping its shape, and the result is cut out of
            the middle, as timm has it.
        python: Whether Python runs beside the graph, as Pillow needs it; without it only JPEG and PNG are read.
        header: What `headers.read` says of the file; it is read if it is missing.

    Returns:
        uint8 `[height, width, channels]`, resized with antialiasing, and int32 `[]`, the largest value of a file with
        16 bits a value, else 0.

    Raises:
        tf.errors.InvalidArgumentError: If the bytes are no image, a damaged one, one that needs Python, or one of other
            channels; `other_formats.problem` says which.
    """
    header = header or headers.read(encoded)

    def refused(why: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.control_dependencies([tf.debugging.Assert(False, [why])]):
            return tf.zeros((1, 1, channels), tf.uint8), tf.constant(1), tf.constant(0)

    def jpeg() -> tuple[tf.Tensor, ...]:
        if channels not in other_formats.OF_PICTURES:
            return refused(tf.constant("a JPEG of other channels"))
        image = _decode_jpeg(encoded, header.orientation, channels, window)
        return image, header.orientation, tf.constant(0)

    def part_of(image: tf.Tensor, peak: tf.Tensor) -> tuple[tf.Tensor, ...]:
        y, x, height, width = tf.unstack(window(tf.shape(image)[:2]))
        image = image[y : y + height, x : x + width]
        return _grey(image) if channels == 1 else image, tf.constant(1), peak

    def png() -> tuple[tf.Tensor, ...]:
        if channels in other_formats.OF_PICTURES:
            return part_of(*_decode_png(encoded, header))
        if channels not in _WITH_ALPHA:
            return refused(tf.constant("a PNG of other channels"))
        return part_of(*_decode_png_with_alpha(encoded, header, channels))

    def other() -> tuple[tf.Tensor, ...]:
        if python:
            return part_of(*_decode_other(encoded, channels))
        return refused(tf.gather(headers.KINDS, header.kind))

    image, orientation, peak = tf.switch_case(tf.minimum(header.kind, headers.HIDDEN), [jpeg, png, other])
    image = tf.ensure_shape(image, (None, None, channels))
    transposed, *_ = _steps(orientation)  # a JPEG is turned when it is small
    if resized is None:
        small = resize(image, tf.where(transposed, size[::-1], size), interpolation)
    else:
        small = _resize_and_cut(image, size, resized, interpolation, orientation)
    return tf.ensure_shape(upright(small, orientation), (*size, channels)), peak


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
        image = tf.image.decode_and_crop_jpeg(known, part, channels=3, dct_method=_DCT)
        return _grey(image) if channels == 1 else image

    def other() -> tf.Tensor:
        return tf.image.decode_and_crop_jpeg(encoded, part, channels=channels, dct_method=_DCT)

    return tf.cond(tf.equal(shape[2], 4), cmyk, other)


def _decode_png(encoded: tf.Tensor, header: headers.Header) -> tuple[tf.Tensor, tf.Tensor]:
    """RGB, upright and on white; and the largest value of one with 16 bits, else 0."""

    def on_white() -> tuple[tf.Tensor, tf.Tensor]:
        image, peak = _pixels_of_png(encoded, 4)
        color, alpha = tf.cast(image[..., :3], tf.float32), tf.cast(image[..., 3:], tf.float32) / 255
        return to_uint8(color * alpha + 255 * (1 - alpha)), peak

    is_transparent = tf.equal(headers.channels_of_png(encoded, header) % 2, 0)
    image, peak = tf.cond(is_transparent, on_white, lambda: _pixels_of_png(encoded, 3))
    return upright(image, header.orientation), peak


def _decode_png_with_alpha(encoded: tf.Tensor, header: headers.Header, channels: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Two or four channels as they are, upright; and the largest value of one with 16 bits, else 0."""
    fits = tf.equal(headers.channels_of_png(encoded, header), channels)
    with tf.control_dependencies([tf.debugging.Assert(fits, ["a PNG of other channels"])]):
        image, peak = _pixels_of_png(tf.identity(encoded), 4)
    return upright(tf.gather(image, _WITH_ALPHA[channels], axis=-1), header.orientation), peak


def _pixels_of_png(encoded: tf.Tensor, channels: int) -> tuple[tf.Tensor, tf.Tensor]:
    """RGB or RGBA of 8 bits; and the largest value of one with 16 bits, else 0."""

    def of_16_bits() -> tuple[tf.Tensor, tf.Tensor]:
        values = tf.cast(tf.io.decode_png(encoded, channels=channels, dtype=tf.uint16), tf.int32)
        return tf.cast(other_formats.to_8_bits(values), tf.uint8), tf.reduce_max(values[..., :3])

    return tf.cond(
        tf.equal(tf.strings.substr(encoded, 24, 1), b"\x10"),
        of_16_bits,
        lambda: (tf.io.decode_png(encoded, channels=channels), tf.constant(0)),
    )


def _decode_other(encoded: tf.Tensor, channels: int) -> tuple[tf.Tensor, tf.Tensor]:
    """What `other_formats.read` returns."""

    def from_file(file: Any) -> tuple[np.ndarray, np.int32]:
        # In a graph it comes as bytes, else as an array of them.
        return other_formats.read(file if isinstance(file, bytes) else file.item(), channels)

    image, peak = tf.numpy_function(from_file, [encoded], (tf.uint8, tf.int32))
    read = 3 if channels in other_formats.OF_PICTURES else channels
    return tf.ensure_shape(image, (None, None, read)), tf.ensure_shape(peak, ())


def _grey(image: tf.Tensor) -> tf.Tensor:
    mixed = tf.reduce_sum(tf.cast(image, tf.int32) * tf.constant([_RED, _GREEN, _BLUE]), axis=-1, keepdims=True)
    return tf.cast((mixed + 32768) // 65536, tf.uint8)


def resize(image: tf.Tensor, size: Size | tf.Tensor, interpolation: str = "bilinear") -> tf.Tensor:
    """Resizes an image with antialiasing.

    Args:
        image: uint8 `[height, width, channels]`.
        size: Height and width of the result.
        interpolation: One of `INTERPOLATIONS`.

    Returns:
        uint8 of that size; the image itself if it has it.
    """
    fits = tf.reduce_all(tf.equal(tf.shape(image)[:2], size))
    return tf.cond(
        fits,
        lambda: tf.identity(image),
        lambda: _resample(image, tf.convert_to_tensor(size), tf.concat([[0, 0], size], axis=0), interpolation),
    )


def _resize_and_cut(
    image: tf.Tensor, size: Size, resized: Size, interpolation: str, orientation: tf.Tensor
) -> tf.Tensor:
    """The middle, of a size, of an image that is resized to a size at least and keeps its shape; not turned yet."""
    transposed, *_ = _steps(orientation)

    def turned(shape: tf.Tensor) -> tf.Tensor:
        return tf.where(transposed, shape[::-1], shape)

    height, width = tf.unstack(tf.cast(turned(tf.shape(image)[:2]), tf.int64))
    to_height, to_width = (tf.constant(side, tf.int64) for side in resized)
    is_wide = height * to_width <= width * to_height
    scaled = tf.cast(
        tf.where(
            is_wide,
            tf.stack([to_height, width * to_height // height]),
            tf.stack([height * to_width // width, to_width]),
        ),
        tf.int32,
    )
    corner = tf.cast(tf.round((tf.cast(scaled, tf.float32) - size) / 2), tf.int32)
    cut = _before_turning(lambda shape: tf.concat([corner, size], axis=0), turned(scaled), orientation)
    return _resample(image, turned(scaled), cut, interpolation)


def _resample(image: tf.Tensor, scaled: tf.Tensor, cut: tf.Tensor, interpolation: str) -> tf.Tensor:
    """The part `(y, x, height, width)` of an image resized to `scaled`.

    Pillow, by which the weights that want bicubic interpolation were evaluated, resizes the rows first and rounds.
    """
    scale = tf.cast(scaled, tf.float32) / tf.cast(tf.shape(image)[:2], tf.float32)
    y, x, height, width = tf.unstack(cut)

    def sample(image: tf.Tensor, size: Any, scale: Any, corner: Any, kernel: str) -> tf.Tensor:
        sampled = tf.raw_ops.ScaleAndTranslate(
            images=image[None],
            size=tf.stack(size),
            scale=scale,
            translation=-tf.cast(tf.stack(corner), tf.float32),
            kernel_type=kernel,
            antialias=True,
        )
        return to_uint8(sampled[0])

    if interpolation == "bilinear":
        return sample(image, (height, width), scale, (y, x), "triangle")
    # Transposed, so that the rows are resized first inside the operation too, which would copy the whole image else.
    lying = tf.transpose(image, (1, 0, 2))
    narrow = sample(lying, (width, tf.shape(image)[0]), tf.stack([scale[1], 1.0]), (x, 0), "keyscubic")
    narrow = tf.transpose(narrow, (1, 0, 2))
    return sample(narrow, (height, width), tf.stack([scale[0], 1.0]), (y, 0), "keyscubic")


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Rounds to whole numbers and clips to [0, 255]."""
    return tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)


def whole(shape: tf.Tensor) -> tf.Tensor:
    """The window of the whole image."""
    return tf.concat([[0, 0], shape], axis=0)


def center(size: Size) -> Window:
    """The window of the middle of an image, of the aspect ratio to which it will be resized.

    Its sides are `s / (s + 32)` of those of the largest such window, `s` the shorter side of `size`: for a square
    that of the shorter side of the image, as in the paper's code base.

    Args:
        size: Height and width to which it will be resized.

    Returns:
        A window, for `load`.
    """
    share, aspect = min(size) / (min(size) + CROP_PADDING), size[1] / size[0]

    def window(shape: tf.Tensor) -> tf.Tensor:
        height, width = tf.unstack(tf.cast(shape, tf.float32))
        largest = (tf.minimum(height, width / aspect), tf.minimum(width, height * aspect))
        sides = tf.maximum(1, tf.cast(tf.round(tf.stack(largest) * share), tf.int32))
        return tf.concat([(shape - sides) // 2, sides], axis=0)

    return window


def inception(seed: tf.Tensor, size: Size) -> Window:
    """The window of a random part: 8 to 100 % of the area, of 3/4 to 4/3 times the aspect ratio of its new size.

    Args:
        seed: int32 or int64 `[2]`; the same seed gives the same part.
        size: Height and width to which it will be resized.

    Returns:
        A window, for `load`.
    """
    aspect = size[1] / size[0]

    def window(shape: tf.Tensor) -> tf.Tensor:
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.concat([shape, [3]], axis=0),
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            seed,
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4 * aspect, 4 / 3 * aspect),
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
    return orientation >= 5, headers.is_one_of(orientation, (2, 3, 6, 7)), headers.is_one_of(orientation, (3, 4, 7, 8))
