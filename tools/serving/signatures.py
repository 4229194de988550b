"""A model as TensorFlow Serving takes it: a SavedModel with three signatures, class names as an asset.

`serving_default`
    `images`, float32 (or uint8) `[n, height, width, channels]` in [0, 255], to `probabilities`, float32 `[n, classes]`.
`serving_bytes`
    `image_bytes`, string `[n]`, JPEG or PNG files, to `probabilities` and `error`, string `[n]`.
`classify`
    `image_bytes` to `classes`, string `[n, k]`, and `scores`, float32 `[n, k]`, best first, and `error`.

Without Python a server reads JPEG and PNG files, as `experiments/data/images.py` says. These have four channels at
most: a model of more has `serving_default` alone.

A model that gives numbers has `values`, `[n, columns]` in their units, in the place of `probabilities`,
`values.txt` in the place of `classes.txt`, and no `classify`.

A file that cannot be read spoils no other answer: its `error` says why, where that of the others is empty, and its
probabilities are NaN. A server may put requests of several clients into one batch, so that an error of the whole batch
would reach the wrong ones. Likewise an image with NaN pixels gets NaN probabilities, and no other does. No image at all
gives `[0, classes]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from experiments.data import headers, other_formats, views
from experiments.data.values import gives_values

# A file that declares more is not decoded: 50 megapixels take 200 MB in RGBA.
MAX_PIXELS = 50_000_000
INPUT_DTYPES = ("float32", "uint8")
OF_FILES = ("serving_bytes", "classify")  # the signatures that take encoded files
CLASSES_FILE, VALUES_FILE = "classes.txt", "values.txt"
PROBABILITIES, VALUES = "probabilities", "values"  # outputs

_OF_KINDS = (
    "",
    "",
    f"{headers.KINDS[headers.HIDDEN]}; save it again as a JPEG or PNG file",
    *(f"neither a JPEG nor a PNG file but {kind}; convert it" for kind in headers.KINDS[headers.HIDDEN + 1 : -1]),
    "neither a JPEG nor a PNG file",
)
_ERRORS = (*_OF_KINDS, f"larger than {MAX_PIXELS:,} pixels", "damaged or truncated")
_TOO_LARGE, _DAMAGED = len(_OF_KINDS), len(_OF_KINDS) + 1


def takes_files(channels: int) -> bool:
    """Whether a model of so many channels has signatures of files."""
    return channels <= 4


def of_files(model: keras.Model) -> tuple[str, ...]:
    """Which of `OF_FILES` a model has."""
    if not takes_files(model.input_shape[-1]):
        return ()
    return OF_FILES[:1] if gives_values(model) else OF_FILES


def names_file(model: keras.Model) -> str:
    """What the file is called that names what a model gives."""
    return VALUES_FILE if gives_values(model) else CLASSES_FILE


def names_file_of(version: Path) -> Path | None:
    """The file that names what an export gives; `None` if it has none."""
    found = (version / place / name for name in (VALUES_FILE, CLASSES_FILE) for place in ("assets", ""))
    return next((file for file in found if file.is_file()), None)


def write(
    model: keras.Model,
    folder: Path,
    class_names: Sequence[str],
    view: views.View,
    input_dtype: str = "float32",
    top_k: int = 5,
) -> None:
    """Writes a SavedModel with the signatures of this module.

    Args:
        model: Takes images in [0, 255], gives probabilities `[n, classes]`, or numbers (`gives_values`).
        folder: Where to; it must not exist.
        class_names: One for each class, or column of numbers.
        view: What the model sees of an encoded image, as in evaluation; of its size.
        input_dtype: Of `serving_default`, one of `INPUT_DTYPES`; uint8 is a quarter of the bytes to send.
        top_k: Number of classes of `classify`.
    """
    channels = model.input_shape[-1]
    output = VALUES if gives_values(model) else PROBABILITIES
    file = folder.parent / names_file(model)  # copied into the SavedModel's assets
    file.write_text("".join(f"{name}\n" for name in class_names))
    lines = tf.lookup.TextFileInitializer(
        str(file),
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        vocab_size=len(class_names),
    )
    names = tf.lookup.StaticHashTable(lines, default_value="")

    images_spec = tf.TensorSpec((None, *model.input_shape[1:]), input_dtype, name="images")

    def probabilities(batch: tf.Tensor) -> tf.Tensor:
        batch = tf.ensure_shape(batch, (None, *model.input_shape[1:]))
        count = tf.shape(batch)[0]
        one_at_least = [[0, tf.cast(tf.equal(count, 0), tf.int32)], [0, 0], [0, 0], [0, 0]]  # no kernel takes none
        return tf.cast(model(tf.pad(batch, one_at_least), training=False), tf.float32)[:count]

    # Traced once for all signatures.
    pixels_spec = tf.TensorSpec(images_spec.shape, tf.float32)
    traced_probabilities = tf.function(probabilities, autograph=False).get_concrete_function(pixels_spec)

    def serving_default(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        return {output: traced_probabilities(tf.cast(batch, tf.float32))}

    archive = keras.export.ExportArchive()
    archive.track(names)
    archive.add_endpoint("serving_default", serving_default, [images_spec])
    if takes_files(channels):
        functions = _signatures_of_files(traced_probabilities, names, channels, view, top_k, output)
        for name in of_files(model):
            archive.add_endpoint(name, functions[name], [tf.TensorSpec((None,), tf.string, name="image_bytes")])
    archive.write_out(str(folder), verbose=False)
    file.unlink()


def _signatures_of_files(
    probabilities: Callable[[tf.Tensor], tf.Tensor],
    names: tf.lookup.StaticHashTable,
    channels: int,
    view: views.View,
    top_k: int,
    output: str,
) -> dict[str, Callable[[tf.Tensor], dict[str, tf.Tensor]]]:
    """The functions of `OF_FILES` by their names."""

    def decode_files(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return decode(encoded, channels, view)

    # Traced once for both.
    files_spec = tf.TensorSpec((None,), tf.string, name="image_bytes")
    traced_decode = tf.function(decode_files, autograph=False).get_concrete_function(files_spec)

    def serving_bytes(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        batch, error = traced_decode(encoded)
        found = probabilities(tf.cast(batch, tf.float32))
        found = tf.where(tf.equal(error, "")[:, None], found, float("nan"))
        return {output: found, "error": error}

    def classify(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        found = serving_bytes(encoded)
        scores, indices = tf.math.top_k(found[output], top_k)
        readable = tf.equal(found["error"], "")[:, None]
        classes = tf.where(readable, names.lookup(tf.cast(indices, tf.int64)), "")
        return {"classes": classes, "scores": scores, "error": found["error"]}

    return {"serving_bytes": serving_bytes, "classify": classify}


def decode(encoded: tf.Tensor, channels: int, view: views.View) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes files side by side; one that cannot be read becomes a black image.

    Args:
        encoded: string `[n]`.
        channels: Of the result, at most 4.
        view: What to take of each image, and its size.

    Returns:
        uint8 `[n, height, width, channels]`, and string `[n]`: empty, or what is wrong.
    """
    shape = (*view.size, channels)
    errors = (*_ERRORS, *(other_formats.wrong_channels(count, channels) for count in (1, 2, 3, 4)))
    count = tf.shape(encoded)[0]

    def load(index: tf.Tensor, data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        header = headers.read(data)
        problem = _problem(data, header, channels)
        image = tf.cond(
            tf.equal(tf.gather(errors, problem), ""),
            lambda: view.load(data, channels, python=False, header=header)[0],
            lambda: tf.zeros(shape, tf.uint8),
        )
        return index, image, problem

    # Only a dataset can go on after an error.
    loaded = tf.data.Dataset.from_tensor_slices((tf.range(count), encoded))
    loaded = loaded.map(load, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    last = tf.data.Dataset.from_tensors((count, tf.zeros(shape, tf.uint8), tf.constant(0)))
    index, image, problem = loaded.concatenate(last).batch(tf.cast(count, tf.int64) + 1).get_single_element()
    image = tf.scatter_nd(index[:, None], image, tf.stack([count + 1, *shape]))[:count]
    problem = tf.tensor_scatter_nd_update(tf.fill([count + 1], _DAMAGED), index[:, None], problem)[:count]
    return tf.ensure_shape(image, (None, *shape)), tf.gather(tf.constant(errors), problem)


def _problem(data: tf.Tensor, header: headers.Header, channels: int) -> tf.Tensor:
    """Index into the errors of what is wrong before decoding; raises an error at a damaged header."""

    def of_jpeg_or_png() -> tf.Tensor:
        shape = tf.cond(
            tf.equal(header.kind, headers.JPEG),
            lambda: tf.minimum(tf.image.extract_jpeg_shape(data), (2**31 - 1, 2**31 - 1, 3)),  # CMYK becomes RGB
            lambda: tf.concat([_png_sides(data), [headers.channels_of_png(data, header)]], axis=0),
        )
        pixels = tf.reduce_prod(tf.abs(tf.cast(shape[:2], tf.float32)))  # above 2**31 they are negative
        fits = channels in other_formats.OF_PICTURES or tf.equal(shape[2], channels)
        return tf.where(pixels > MAX_PIXELS, _TOO_LARGE, tf.where(fits, header.kind, _DAMAGED + shape[2]))

    return tf.cond(header.kind < headers.HIDDEN, of_jpeg_or_png, lambda: header.kind)


def _png_sides(data: tf.Tensor) -> tf.Tensor:
    """Width and height that a PNG's header declares."""
    sides = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)
    return tf.ensure_shape(sides, (2,))
