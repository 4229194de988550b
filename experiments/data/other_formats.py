"""Files that TensorFlow's kernels read wrong or not at all, by Pillow.

Of BMP the kernels lose the palette, of GIF the transparency; they write past their memory where a frame of an animated
WebP is smaller than the whole; and they read no TIFF. Pillow decodes these as fast, but in Python.
"""

from __future__ import annotations

import contextlib
import io

import numpy as np
from PIL import Image, ImageOps

# PNG for those whose orientation is hidden. None of the others, of which some start programs.
FORMATS = ("BMP", "GIF", "PNG", "TIFF", "WEBP")

Image.init()  # now, and not from several threads at a time


def read(encoded: bytes) -> tuple[np.ndarray, np.int32]:
    """Decodes the first frame, turns it upright, and lays it on white where it is transparent.

    Args:
        encoded: The file's bytes.

    Returns:
        uint8 `[height, width, 3]`, with 16 bits a value scaled to 8; and the largest value of an image with 16, else 0.

    Raises:
        ValueError: If it cannot be read, or its values have no largest one by which to scale them.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            return _read(image)
    except Exception as error:  # of any type, if the file is damaged
        raise ValueError(f"Pillow cannot read it: {error}") from error


def _read(image: Image.Image) -> tuple[np.ndarray, np.int32]:
    image.load()
    is_png = image.format == "PNG"
    with contextlib.suppress(Exception):  # damaged Exif data are none
        image = ImageOps.exif_transpose(image)
    peak = 0
    if image.mode.startswith("I;16") or (image.mode == "I" and is_png):
        values = np.asarray(image).astype("int32")
        peak = values.max(initial=0)
        image = Image.fromarray(to_8_bits(values).astype("uint8"))
    if image.mode in ("I", "F"):
        raise ValueError("its values have 32 bits, of which nothing says what is white")
    if image.has_transparency_data:
        color = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", color.size, "white"), color)
    return np.asarray(image.convert("RGB")), np.int32(peak)


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Values of 0 to 65,535 to whole ones of 0 to 255, rounded; of integer arrays and tensors."""
    return (values + 128) // 257
