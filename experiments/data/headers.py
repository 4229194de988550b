"""What a file says before its pixels: its kind, how the camera was held, and what decoders do not heed.

All in the TensorFlow graph, as a served model reads files too. JPEG and PNG are walked from segment to segment (chunk
to chunk), since Exif data can lie behind comments, profiles and previews of any size; but most files hold no such data,
and a search for a fixed text takes a tenth of the time.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

# Index of a kind, and what it is called where it cannot be read.
JPEG, PNG, HIDDEN = 0, 1, 2
KINDS = (
    "a JPEG",
    "a PNG",
    "a PNG with its orientation in a compressed or hexadecimal text",
    "a GIF",
    "a BMP",
    "a WebP",
    "a TIFF",
    "a NumPy array",
    "no image",
)
_BEGINNINGS = (
    rb"GIF8\C*",
    rb"BM\C*",
    rb"RIFF\C{4}WEBP\C*",
    rb"(?:II\*\x00|MM\x00\*|II\+\x00|MM\x00\+)\C*",
    rb"\CNUMPY\C*",
)

_SEGMENTS = 10_000  # more than any file has; what follows is not looked at
_EXIF_ENTRIES = 512  # more than any directory has
_ORIENTATION_TAG = 0x0112
_BYTE, _SHORT, _LONG = 1, 3, 4  # types of Exif's numbers
_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_PNG_XMP = b"XML:com.adobe.xmp\0"
_PNG_EXIF_AS_TEXT = b"Raw profile type exif\0"
_JPEG_NOTES = (r"Exif\x00\x00", "tiff:Orientation")
_PNG_NOTES = ("eXIf", "tRNS", r"XML:com\.adobe\.xmp", "Raw profile type exif")
_XMP_ORIENTATION = r"\C*?tiff:Orientation(?:=[\"']|>)([1-8])\C*"


class Header(NamedTuple):
    """What `read` finds.

    Args:
        kind: int32 scalar, index into `KINDS`; `JPEG` and `PNG` are those that TensorFlow's kernels read right.
        orientation: int32 scalar of these two, 1 (upright, or not noted) to 8, as the Exif standard counts.
        has_key: bool scalar, whether a PNG has a tRNS chunk; without it the kernel's alpha of fewer than 8 bits means
            nothing.
    """

    kind: tf.Tensor
    orientation: tf.Tensor
    has_key: tf.Tensor


def read(encoded: tf.Tensor) -> Header:
    """Reads the header of a file; a damaged one is upright.

    Args:
        encoded: Scalar string, the file's bytes.
    """
    is_jpeg = tf.io.is_jpeg(encoded)
    is_png = tf.equal(tf.strings.substr(encoded, 0, 8), b"\x89PNG\r\n\x1a\n")
    kind, orientation, has_key = tf.cond(
        is_jpeg,
        lambda: _jpeg(encoded),
        lambda: tf.cond(is_png, lambda: _png(encoded), lambda: (_other_kind(encoded), tf.constant(1), False)),
    )
    return Header(kind, orientation, has_key)


def _other_kind(encoded: tf.Tensor) -> tf.Tensor:
    known = tf.stack(
        [tf.strings.regex_full_match(encoded, beginning) for beginning in _BEGINNINGS] + [tf.constant(True)]
    )
    return HIDDEN + 1 + tf.argmax(tf.cast(known, tf.int32), output_type=tf.int32)


def channels_of_png(encoded: tf.Tensor, header: Header) -> tf.Tensor:
    """Number of channels of a PNG's pixels, with that of transparency if it has any; int32 scalar."""
    color_type = tf.minimum(_numbers(encoded, 25, 1)[0], 6)
    with_key = header.has_key & is_one_of(color_type, (0, 2, 3))
    return tf.gather([1, 0, 3, 3, 2, 0, 4], color_type) + tf.cast(with_key, tf.int32)


def has_adobe_segment(encoded: tf.Tensor) -> tf.Tensor:
    """Whether a JPEG has Adobe's segment, by which the kernel knows that CMYK is inverted; bool scalar."""
    return _walk_jpeg(encoded)[2]


def is_one_of(value: tf.Tensor, values: tuple[int, ...]) -> tf.Tensor:
    """Whether a scalar is one of some numbers."""
    return tf.reduce_any(tf.equal(value, values))


def _jpeg(encoded: tf.Tensor) -> tuple[tf.Tensor, ...]:
    def walk() -> tf.Tensor:
        exif, xmp, _ = _walk_jpeg(encoded)
        return _orientation(exif, xmp)

    return tf.constant(JPEG), tf.cond(_holds(encoded, _JPEG_NOTES), walk, lambda: 1), tf.constant(False)


def _walk_jpeg(encoded: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Exif data, XMP, and whether there is Adobe's segment."""
    size = tf.strings.length(encoded)

    def step(at: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor, adobe: tf.Tensor) -> tuple[tf.Tensor, ...]:
        first, marker, high, low = tf.unstack(_numbers(encoded, at, 4))
        is_marker = tf.equal(first, 0xFF) & (marker > 0) & (marker < 0xFF)  # else filling, of which there may be any
        is_bare = tf.equal(marker, 0x01) | ((marker >= 0xD0) & (marker <= 0xD8))
        length = tf.where(is_marker, tf.where(is_bare, 2, 2 + tf.maximum(2, 256 * high + low)), 1)
        body = _cut(encoded, at + 4, length - 4)
        exif, xmp = tf.cond(
            is_marker & tf.equal(marker, 0xE1),
            lambda: (_after(_EXIF, body, exif), _after(_XMP, body, xmp)),
            lambda: (exif, xmp),
        )
        adobe |= is_marker & tf.equal(marker, 0xEE) & tf.equal(tf.strings.substr(body, 0, 5), b"Adobe")
        pixels_begin = is_marker & (tf.equal(marker, 0xDA) | tf.equal(marker, 0xD9))
        return tf.where(pixels_begin, size, at + length), exif, xmp, adobe

    _, *found = tf.while_loop(
        lambda at, *_: at < size,
        step,
        (tf.constant(2), tf.constant(b""), tf.constant(b""), tf.constant(False)),
        maximum_iterations=_SEGMENTS,
    )
    return tuple(found)


def _png(encoded: tf.Tensor) -> tuple[tf.Tensor, ...]:
    size = tf.cast(tf.strings.length(encoded), tf.int64)  # a damaged chunk can say that it has 4 GB

    def step(
        at: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor, key: tf.Tensor, hidden: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        digits = tf.cast(_numbers(encoded, at, 4), tf.int64)
        length = tf.reduce_sum(digits * tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64))
        name = _cut(encoded, at + 4, 4)
        begun = at + 8
        exif = tf.cond(
            tf.equal(name, b"eXIf"), lambda: _after(_EXIF, _cut(encoded, begun, length), exif, True), lambda: exif
        )
        key |= tf.equal(name, b"tRNS")
        text = tf.cond(
            tf.strings.regex_full_match(name, "tEXt|zTXt|iTXt"),
            lambda: _cut(encoded, begun, length),
            lambda: tf.constant(b""),
        )
        is_xmp = tf.equal(tf.strings.substr(text, 0, len(_PNG_XMP)), _PNG_XMP)
        packed = is_xmp & tf.equal(tf.strings.substr(text, 0, len(_PNG_XMP) + 1), _PNG_XMP + b"\1")
        hidden |= packed | tf.equal(tf.strings.substr(text, 0, len(_PNG_EXIF_AS_TEXT)), _PNG_EXIF_AS_TEXT)
        xmp = tf.where(is_xmp & ~packed, text, xmp)
        return at + 12 + length, exif, xmp, key, hidden

    def walk() -> tuple[tf.Tensor, ...]:
        _, exif, xmp, key, hidden = tf.while_loop(
            lambda at, *_: at < size,
            step,
            (tf.constant(8, tf.int64), tf.constant(b""), tf.constant(b""), tf.constant(False), tf.constant(False)),
            maximum_iterations=_SEGMENTS,
        )
        # What Exif says counts before any text.
        hidden &= tf.equal(_exif_orientation(exif), 0)
        return tf.where(hidden, HIDDEN, PNG), _orientation(exif, xmp), key

    nothing = (tf.constant(PNG), tf.constant(1), tf.constant(False))
    return tf.cond(_holds(encoded, _PNG_NOTES), walk, lambda: nothing)


def _holds(data: tf.Tensor, texts: tuple[str, ...]) -> tf.Tensor:
    """Whether one of the texts is anywhere in the data; replacing is what TensorFlow has the fastest search for."""
    rest = [tf.strings.length(tf.strings.regex_replace(data, text, "", replace_global=False)) for text in texts]
    return tf.reduce_any(tf.stack(rest) < tf.strings.length(data))


def _orientation(exif: tf.Tensor, xmp: tf.Tensor) -> tf.Tensor:
    """Of Exif data, or of XMP if they have none."""

    def of_xmp() -> tf.Tensor:
        found = tf.strings.regex_replace(xmp, _XMP_ORIENTATION, r"\1")
        return tf.where(tf.strings.regex_full_match(found, "[1-8]"), _numbers(found, 0, 1)[0] - ord("0"), 1)

    noted = _exif_orientation(exif)
    is_noted = noted > 0
    return tf.cond(is_noted, lambda: noted, lambda: tf.cond(tf.strings.length(xmp) > 0, of_xmp, lambda: 1))


def _exif_orientation(exif: tf.Tensor) -> tf.Tensor:
    """Of Exif data, which are a small TIFF file; 0 if it is not noted."""

    def read_directory() -> tf.Tensor:
        little_endian = tf.equal(_cut(exif, 0, 4), b"II*\0")

        def number(digits: tf.Tensor) -> tf.Tensor:
            weights = tf.constant([256**i for i in range(digits.shape[-1])])
            return tf.reduce_sum(digits * tf.where(little_endian, weights, weights[::-1]), axis=-1)

        # Offsets above 2**31 become negative, and so ones of nothing.
        directory = number(_numbers(exif, 4, 4))
        count = tf.minimum(number(_numbers(exif, directory, 2)), _EXIF_ENTRIES)
        entries = tf.reshape(_numbers(exif, directory + 2, 12 * _EXIF_ENTRIES), (_EXIF_ENTRIES, 12))
        kind = number(entries[:, 2:4])
        value = tf.where(tf.equal(kind, _LONG), number(entries[:, 8:12]), number(entries[:, 8:10]))
        value = tf.where(tf.equal(kind, _BYTE), entries[:, 8], value)
        is_orientation = tf.equal(number(entries[:, :2]), _ORIENTATION_TAG) & (tf.range(_EXIF_ENTRIES) < count)
        orientation = tf.reduce_max(tf.where(is_orientation, value, 0))
        return tf.where((orientation >= 1) & (orientation <= 8), orientation, 0)

    return tf.cond(tf.strings.regex_full_match(exif, r"(?:II\*\x00|MM\x00\*)\C*"), read_directory, lambda: 0)


def _after(beginning: bytes, body: tf.Tensor, known: tf.Tensor, optional: bool = False) -> tf.Tensor:
    """What follows a beginning, if the body has it (or need not have it); the first counts."""
    length = len(beginning)
    begins = tf.equal(tf.strings.substr(body, 0, length), beginning)
    rest = _cut(body, length, tf.strings.length(body))
    found = tf.where(begins, rest, body if optional else b"")
    return tf.where(tf.equal(known, b""), found, known)


def _cut(data: tf.Tensor, at: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Bytes from a position on; fewer, or none, where the data end."""
    at = tf.convert_to_tensor(at)
    end = tf.cast(tf.strings.length(data), at.dtype)
    start = tf.clip_by_value(at, 0, end)
    return tf.strings.substr(data, tf.where(at < 0, end, start), tf.maximum(tf.cast(length, at.dtype), 0))


def _numbers(data: tf.Tensor, at: tf.Tensor, length: int) -> tf.Tensor:
    """int32 `[length]`, bytes from a position on, with zeros behind the end."""
    taken = tf.io.decode_raw(_cut(data, at, length), tf.uint8, fixed_length=length)
    return tf.cast(tf.ensure_shape(taken, (length,)), tf.int32)
