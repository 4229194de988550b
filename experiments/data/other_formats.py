"""Files that TensorFlow's kernels read wrong or not at all, by Pillow and NumPy.

Of BMP the kernels lose the palette, of GIF the transparency; they write past their memory where a frame of an animated
WebP is smaller than the whole; and they read neither TIFF nor arrays. Pillow decodes these as fast, but in Python.
"""

from __future__ import annotations

import contextlib
import io

import numpy as np
from PIL import Image, ImageOps

# PNG for those whose orientation is hidden. None of the others, of which some start programs.
FORMATS = ("BMP", "GIF", "PNG", "TIFF", "WEBP")
ARRAY = b"\x93NUMPY"  # how a .npy file begins
_USUAL_CHANNELS = (1, 3, 4)  # where an array has so many rows of many pixels, they are channels
_PHOTOMETRIC = 262  # TIFF's tag; 0: the smallest value is white
OF_PICTURES = (1, 3)  # channels to which all pictures are brought; for another number a file must have as many

Image.init()  # now, and not from several threads at a time


def read(encoded: bytes, channels: int) -> tuple[np.ndarray, np.int32]:
    """Decodes the first frame, turns it upright, and lays it on white where it is transparent.

    For 1 and 3 channels, that is. For another number nothing is laid on white: alpha is a channel, and so is each page
    of a TIFF that has more than one. Arrays, `[height, width]` or `[height, width, channels]`, are taken as they are.

    Args:
        encoded: The file's bytes.
        channels: Of the result; for 1 it has 3 nevertheless, to be mixed to grey as TensorFlow's are.

    Returns:
        uint8 `[height, width, channels]`, with 16 bits a value scaled to 8; and the largest value of an image with 16,
        else 0.

    Raises:
        ValueError: If it cannot be read, its values have no largest one by which to scale them, or it has another
            number of channels.
    """
    try:
        if encoded.startswith(ARRAY):
            image, peak = _to_8_bits(read_array(encoded))
        else:
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as file:
                image, peak = _read(file, channels)
    except Exception as error:  # of any type, if the file is damaged
        raise ValueError(f"Pillow and NumPy cannot read it: {error}") from error
    if wrong := wrong_channels(image.shape[-1], channels):
        raise ValueError(wrong)
    return (np.repeat(image, 3, axis=-1) if channels in OF_PICTURES and image.shape[-1] == 1 else image), peak


def wrong_channels(found: int, expected: int) -> str:
    """What is wrong with an image's number of channels, as of what `read` decodes; empty if nothing is."""
    fits = found in OF_PICTURES if expected in OF_PICTURES else found == expected
    return "" if fits else f"it has {found} channel{'s' if found > 1 else ''}, not {expected}"


def problem(encoded: bytes, channels: int) -> str:
    """Why a file of any kind cannot be read, where more is known than that it is damaged; empty if there is not.

    Args:
        encoded: The file's bytes.
        channels: As of `read`.
    """
    try:
        if encoded.startswith(ARRAY):
            return wrong_channels(read_array(encoded).shape[-1], channels)
        if channels in OF_PICTURES:
            return ""
        with Image.open(io.BytesIO(encoded), formats=(*FORMATS, "JPEG")) as image:
            return wrong_channels(_read(image, channels)[0].shape[-1], channels)
    except ArrayError as error:
        return str(error)
    except Exception:  # of any type: the file is damaged
        return ""


class ArrayError(ValueError):
    """An array is no image; the message says why."""


def read_array(encoded: bytes) -> np.ndarray:
    """An array of a `.npy` file, uint8 or uint16 `[height, width, channels]`.

    Raises:
        ArrayError: If it is no image.
        ValueError: If it is damaged.
    """
    check_array(encoded)
    values = np.load(io.BytesIO(encoded), allow_pickle=False)
    return values[..., None] if values.ndim == 2 else values


def check_array(encoded: bytes) -> tuple[int, ...]:
    """The shape of an array `[height, width]` or `[height, width, channels]`, from the first bytes of its file.

    Raises:
        ArrayError: If it is no image.
        ValueError: If the header is damaged.
    """
    file = io.BytesIO(encoded)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.kind != "u" or dtype.itemsize > 2:
        raise ArrayError(f"its values are {dtype}; of arrays, uint8 and uint16 are read, of which white is the largest")
    if len(shape) not in (2, 3) or not all(shape):
        raise ArrayError(f"its shape is {shape}; of arrays, [height, width] and [height, width, channels] are read")
    if len(shape) == 3 and shape[0] in _USUAL_CHANNELS and min(shape[1:]) > max(_USUAL_CHANNELS):
        raise ArrayError(
            f"its shape is {shape}, which has the channels first; of arrays, [height, width, channels] are read: "
            "numpy.moveaxis(array, 0, -1)"
        )
    return shape


def _read(file: Image.Image, channels: int) -> tuple[np.ndarray, np.int32]:
    pages = getattr(file, "n_frames", 1) if file.format == "TIFF" and channels not in OF_PICTURES else 1
    if pages > 1:
        images, peaks = zip(*(_read_page(file, page) for page in range(pages)), strict=True)
        return np.concatenate(images, axis=-1), max(peaks)
    image, peak = _upright_of_8_bits(file)
    if channels not in OF_PICTURES:
        if image.has_transparency_data and image.mode != "LA":
            return np.asarray(image.convert("RGBA")), peak
        return np.atleast_3d(np.asarray(image if image.mode in ("L", "LA") else image.convert("RGB"))), peak
    if image.has_transparency_data:
        color = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", color.size, "white"), color)
    return np.asarray(image.convert("RGB")), peak


def _read_page(file: Image.Image, page: int) -> tuple[np.ndarray, np.int32]:
    """A page of a TIFF as one channel."""
    file.seek(page)
    image, peak = _upright_of_8_bits(file)
    if image.mode not in ("1", "L"):
        raise ValueError(f"page {page + 1} has several channels")
    return np.atleast_3d(np.asarray(image.convert("L"))), peak


def _upright_of_8_bits(image: Image.Image) -> tuple[Image.Image, np.int32]:
    """The image that is open, and the largest value of one with 16 bits, else 0."""
    image.load()
    is_png = image.format == "PNG"
    counts_from_white = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
    with contextlib.suppress(Exception):  # damaged Exif data are none
        image = ImageOps.exif_transpose(image)
    peak = np.int32(0)
    if image.mode.startswith("I;16") or (image.mode == "I" and is_png):
        values = np.asarray(image).astype("uint16")
        if counts_from_white:  # which Pillow turns of 8 bits alone
            values = 65_535 - values
        values, peak = _to_8_bits(values)
        image = Image.fromarray(values)
    if image.mode in ("I", "F"):
        raise ValueError("its values have 32 bits, of which nothing says what is white")
    return image, peak


def _to_8_bits(values: np.ndarray) -> tuple[np.ndarray, np.int32]:
    """Values as they are if they have 8 bits, scaled to 8 if they have 16; and the largest of the latter, else 0."""
    if values.dtype.itemsize == 1:
        return values, np.int32(0)
    values = values.astype("int32")
    return to_8_bits(values).astype("uint8"), np.int32(values.max(initial=0))


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Values of 0 to 65,535 to whole ones of 0 to 255, rounded; of integer arrays and tensors."""
    return (values + 128) // 257
