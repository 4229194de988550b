"""Decoding, orientation and crops of images of every kind that people have."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from experiments.data import headers, images

SIZE = 32


@pytest.fixture
def picture():
    """32 x 32, smooth, with four quarters that differ."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / (SIZE - 1)
    return np.stack([255 * x, 255 * y, 64 + 128 * x * y], axis=-1).astype("uint8")


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return tf.constant(buffer.getvalue())


def load(encoded, channels=3, window=images.whole, size=(SIZE, SIZE)):
    return tf.function(lambda: images.load(encoded, channels, size, window)[0])().numpy()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "JPEG"])
def test_kinds_of_files(picture, kind):
    decoded = load(encode(Image.fromarray(picture), kind, **({"quality": 100} if kind == "JPEG" else {})))
    tolerance = {"GIF": 40, "JPEG": 8}.get(kind, 0)  # a palette of 256 colours; compression
    assert decoded.shape == (SIZE, SIZE, 3)
    assert np.abs(decoded.astype(int) - picture).max() <= tolerance


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_grey_becomes_colour_and_colour_grey(picture, kind):
    grey = Image.fromarray(picture).convert("L")
    decoded = load(encode(grey, kind))
    assert (decoded[..., :1] == decoded).all()
    assert np.abs(decoded[..., 0].astype(int) - np.array(grey)).max() <= 4
    assert (
        np.abs(load(encode(Image.fromarray(picture), kind), channels=1)[..., 0].astype(int) - np.array(grey)).max() <= 6
    )


def test_transparent_png_lies_on_white(picture):
    alpha = np.full((SIZE, SIZE, 1), 255, "uint8")
    alpha[:8], alpha[8:16] = 0, 128
    encoded = encode(Image.fromarray(np.concatenate([picture, alpha], axis=-1)), "PNG")
    assert (load(encoded, channels=1)[:8] == 255).all() and (load(encoded, channels=1)[16:] < 255).all()
    decoded = load(encoded)
    assert (decoded[:8] == 255).all()
    expected = picture[8:16] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(decoded[8:16] - expected).max() <= 1
    np.testing.assert_array_equal(decoded[16:], picture[16:])


def test_palette_png_is_decoded(picture):
    paletted = Image.fromarray(picture).convert("P")
    np.testing.assert_array_equal(load(encode(paletted, "PNG")), np.array(paletted.convert("RGB")))


def test_cmyk_jpeg_becomes_rgb(picture):
    cmyk = Image.fromarray(picture).convert("CMYK")
    decoded = load(encode(cmyk, "JPEG", quality=100))
    assert np.abs(decoded.astype(int) - np.array(cmyk.convert("RGB"))).mean() < 4


def test_animation_gives_its_first_frame(picture):
    frames = [Image.fromarray(picture), Image.fromarray(255 - picture)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    decoded = load(tf.constant(buffer.getvalue()))
    assert np.abs(decoded.astype(int) - picture).max() <= 40


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("jfif", [False, True])
@pytest.mark.parametrize("size", [SIZE, 8])
def test_exif_orientation_is_applied(picture, orientation, jfif, size):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x0112] = orientation
    encoded = encode(Image.fromarray(picture), "JPEG", quality=100, exif=exif)
    content = encoded.numpy()
    assert content[2:4] == b"\xff\xe0"  # JFIF first, as Pillow writes it
    if not jfif:
        length = int.from_bytes(content[4:6], "big")
        content = content[:2] + content[4 + length :]
    upright = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    expected = images.resize(tf.constant(upright), (size, size)).numpy()
    assert np.abs(load(tf.constant(content), size=(size, size)).astype(int) - expected).max() <= 8


def test_big_endian_exif_is_read(picture):
    entry = (
        (0x0112).to_bytes(2, "big")
        + (3).to_bytes(2, "big")
        + (1).to_bytes(4, "big")
        + (6).to_bytes(2, "big")
        + bytes(2)
    )
    tiff = b"MM\x00*" + (8).to_bytes(4, "big") + (1).to_bytes(2, "big") + entry + bytes(4)
    segment = b"Exif\0\0" + tiff
    content = encode(Image.fromarray(picture), "JPEG").numpy()
    content = content[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + content[2:]
    assert int(headers.read(tf.constant(content)).orientation) == 6


@pytest.mark.parametrize(
    "tail", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
def test_broken_exif_is_no_orientation(picture, tail):
    content = encode(Image.fromarray(picture), "JPEG").numpy()
    content = content[:2] + b"\xff\xe1" + (len(tail) + 2).to_bytes(2, "big") + tail + content[2:]
    assert int(headers.read(tf.constant(content)).orientation) == 1
    assert load(tf.constant(content)).shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff", b"\x89PNG\r\n"])
def test_what_is_no_image_is_an_error(content):
    with pytest.raises(tf.errors.InvalidArgumentError):
        load(tf.constant(content))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_cut_off_files_are_an_error(picture, kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype("uint8")
    content = encode(Image.fromarray(noise), kind).numpy()
    with pytest.raises(tf.errors.InvalidArgumentError):
        load(tf.constant(content[: len(content) // 3]))


def test_center_crop_takes_the_middle():
    image = np.zeros((64, 96, 3), "uint8")
    image[4:60, 20:76] = 200  # 56 = 64 * 224 / 256
    assert images.center((224, 224))(tf.constant([64, 96])).numpy().tolist() == [4, 20, 56, 56]
    decoded = load(encode(Image.fromarray(image), "PNG"), window=images.center((224, 224)), size=(224, 224))
    assert (decoded == 200).all()


def test_inception_crops_are_functions_of_their_seed():
    shape = tf.constant([300, 400])
    windows = np.array([images.inception(tf.constant([3, seed]), (224, 224))(shape) for seed in range(200)])
    again = np.array([images.inception(tf.constant([3, seed]), (224, 224))(shape) for seed in range(10)])
    np.testing.assert_array_equal(windows[:10], again)
    y, x, height, width = windows.T
    assert (y >= 0).all() and (x >= 0).all() and (y + height <= 300).all() and (x + width <= 400).all()
    area, ratio = height * width / (300 * 400), width / height
    assert area.min() > 0.07 and area.max() > 0.8 and area.min() < 0.15
    assert ratio.min() > 0.7 and ratio.max() < 1.4
