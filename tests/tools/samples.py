"""Image files and pixels to ask an exported model about, and what it tells apart."""

import io
import zlib

import keras
import numpy as np
from PIL import Image

import coatnet_tf

SIZE = 32
LABELS = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]
COLOURS = ("blue", "green", "red")


def small_config():
    """A network of every kind of block, whose random weights tell images apart."""
    return coatnet_tf.make_config(
        "tiny",
        (2, 1, 1, 1, 1),
        (8, 8, 16, 32, 32),
        strides=(1, 2, 2, 2, 2),
        head_size=16,
        kernel_initializer="lecun_normal",
    )


def cttt_config(kernel_initializer="lecun_normal"):
    """A C-T-T-T network; of images of 32 x 48, S3 halves the grid of 4 x 6 again, and has two blocks."""
    options = {"strides": (2, 2, 2, 2, 1), "head_size": 16, "kernel_initializer": kernel_initializer}
    return coatnet_tf.make_config("cttt", (1, 1, 1, 2, 1), (8, 8, 32, 32, 48), "C-T-T-T", **options)


def make_cttt(**options):
    return coatnet_tf.CoAtNet(cttt_config(**options), input_shape=(32, 48, 3), classes=7)


def make_images(path, count, classes=COLOURS):
    generator = np.random.default_rng(0)
    for color, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 80, (20, 24, 3))
            pixels[..., color] += 170
            keras.utils.save_img(path / name / f"{index:02d}.png", pixels, scale=False)
    return str(path)


def encode(array, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def photo(height=48, width=40, channels=3, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5, channels), dtype="uint8")
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC))


def png_that_declares(width, height):
    """A valid file of 1 x 1, with another size in its header."""
    data = bytearray(encode(photo(1, 1)))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def jpeg_that_declares(width, height):
    data = encode(photo(), "JPEG")
    start = data.index(b"\xff\xc0")
    return data[: start + 5] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[start + 9 :]


# Files that cannot be read, and what is said of them.
BAD = {
    "empty": (b"", "neither a JPEG nor a PNG"),
    "text": (b"no image at all", "neither a JPEG nor a PNG file"),
    "GIF": (encode(photo(), "GIF"), "neither a JPEG nor a PNG file but a GIF; convert it"),
    "BMP": (encode(photo(), "BMP"), "neither a JPEG nor a PNG file but a BMP; convert it"),
    "WebP": (encode(photo(), "WEBP"), "neither a JPEG nor a PNG file but a WebP; convert it"),
    "TIFF": (encode(photo(), "TIFF"), "neither a JPEG nor a PNG file but a TIFF; convert it"),
    "truncated JPEG": (encode(photo(), "JPEG")[:-200], "damaged or truncated"),
    "JPEG's beginning": (b"\xff\xd8\xff\xe0", "damaged or truncated"),
    "truncated PNG": (encode(photo())[:-200], "damaged or truncated"),
    "PNG's beginning": (encode(photo())[:12], "damaged or truncated"),
    "PNG bomb": (png_that_declares(100_000, 100_000), "larger than 50,000,000 pixels"),
    "PNG of the largest size": (png_that_declares(2**31 - 1, 2**31 - 1), "larger than 50,000,000 pixels"),
    "PNG beyond the largest": (png_that_declares(2**32 - 1, 2**32 - 1), "damaged or truncated"),
    "JPEG bomb": (jpeg_that_declares(65_000, 65_000), "larger than 50,000,000 pixels"),
}
