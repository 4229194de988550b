"""Every kind of file is read as Pillow reads it, in training and by a served model, which may refuse it."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw, ImageOps, TiffImagePlugin

from experiments.data import images
from experiments.data.views import View
from tests.experiments import files
from tests.experiments.files import encode, exif, png, segment, with_segments, without_segment, xmp
from tools.serving import signatures

pytestmark = pytest.mark.slow

SIZE = 24
SQUARE = (SIZE, SIZE)
_STRING = tf.TensorSpec((), tf.string)
TRAINED = {
    channels: tf.function(
        lambda file, c=channels: images.load(file, c, SQUARE, images.whole)[0], input_signature=[_STRING]
    )
    for channels in (1, 3)
}
SERVED = {
    channels: tf.function(
        lambda file, c=channels: signatures.decode(file[None], c, View(SQUARE)), input_signature=[_STRING]
    )
    for channels in (1, 3)
}

ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE]
PHOTO = Image.fromarray(np.stack([ROWS * 10, COLUMNS * 10, 240 - ROWS * 5], axis=-1).astype("uint8"))
CLEAR = PHOTO.copy()
CLEAR.putalpha(Image.fromarray(np.clip(ROWS * 14 - 20, 0, 255).astype("uint8")))


def by_pillow(file):
    """RGB as Pillow has it, with 16 bits of grey scaled and transparency on white."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    if image.mode.startswith("I"):
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype("uint8"))
    color = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", color.size, "white"), color).convert("RGB")


def check(file, expected, tolerance=0, refused="", name="the file"):
    """Compares training's reading, and a served model's or its error, with the picture, in colour and grey.

    Many files to a test, since TensorFlow instantiates these functions anew in each: a test begins with a new seed.
    """
    expected = expected.convert("RGB")
    for channels, mode in ((3, "RGB"), (1, "L")):
        pixels = np.asarray(expected.convert(mode)).reshape(SIZE, SIZE, channels).astype(int)
        assert np.ptp(pixels) > 30, f"{name} is no picture"
        assert np.abs(TRAINED[channels](file).numpy() - pixels).max() <= tolerance, f"{name}, {mode}"
        served, (error,) = SERVED[channels](file)
        assert error.numpy().decode() == refused, f"{name}, {mode}"
        if not refused:
            assert np.abs(served[0].numpy() - pixels).max() <= tolerance, f"{name}, {mode}, served"


def refusal(kind):
    return f"neither a JPEG nor a PNG file but {kind}; convert it"


PNG_DEPTHS = {
    "grey": (1, 2, 4, 8, 16),
    "palette": (1, 2, 4, 8),
    "RGB": (8, 16),
    "grey + alpha": (8, 16),
    "RGBA": (8, 16),
}


def png_and_pixels(color, bits, key, interlaced):
    """A PNG, with a key (tRNS) if asked; and what the PNG standard says that it is, `[height, width, 4]` of 8 bits."""
    generator = np.random.default_rng(bits)
    top = 2**bits - 1
    values = generator.integers(0, top + 1, (SIZE, SIZE, files.CHANNELS[color]))
    before = []
    alpha = np.full((SIZE, SIZE, 1), 255)
    if key and color != "palette":
        # A key of black would leave no picture of one bit. The neighbour of another differs in the lower byte only.
        values[0, 0] = top if bits == 1 else top // 2 & ~1
        values[0, 1] = values[0, 0] ^ 1
    scaled = np.round(values * (255 / top)).astype(int)
    if color == "palette":
        palette = generator.integers(0, 256, (top + 1, 3))
        before.append((b"PLTE", palette.astype("uint8").tobytes()))
        scaled = palette[values[..., 0]]
    if key and color == "palette":
        of_color = generator.integers(0, 256, top)  # the last colour is opaque, as it has no entry
        before.append((b"tRNS", of_color.astype("uint8").tobytes()))
        alpha = np.append(of_color, 255)[values]
    elif key:
        before.append((b"tRNS", values[0, 0].astype(">u2").tobytes()))
        alpha = np.where((values == values[0, 0]).all(axis=-1, keepdims=True), 0, 255)
    if color in ("grey + alpha", "RGBA"):
        scaled, alpha = scaled[..., :-1], scaled[..., -1:]
    if scaled.shape[-1] == 1:
        scaled = np.repeat(scaled, 3, axis=-1)
    return png(values, color, bits, interlaced, before), np.concatenate([scaled, alpha], axis=-1)


@pytest.mark.parametrize("color", PNG_DEPTHS)
def test_png(color):
    keys = (False,) if color in ("grey + alpha", "RGBA") else (False, True)
    for bits, key, interlaced in itertools.product(PNG_DEPTHS[color], keys, (False, True)):
        file, pixels = png_and_pixels(color, bits, key, interlaced)
        rgba = Image.fromarray(pixels.astype("uint8"))
        expected = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        check(file, expected, name=f"{bits} bits, key: {key}, interlaced: {interlaced}")
        # Pillow takes the upper byte of 16 bits of colour, and compares a key of 2, 4 or 16 bits with values of 8.
        if color == "palette" or not (key and bits in (2, 4, 16)):
            difference = np.asarray(by_pillow(file)).astype(int) - np.asarray(expected.convert("RGB"))
            assert np.abs(difference).max() <= (2 if bits == 16 else 0)


PLAIN = encode(PHOTO, "JPEG", quality=95, subsampling=0)
CMYK = encode(PHOTO.convert("CMYK"), "JPEG", quality=95)
ADOBE = CMYK.index(b"Adobe")
JPEGS = {
    "baseline": PLAIN,
    "4:2:0": encode(PHOTO, "JPEG", quality=95, subsampling=2),
    "progressive": encode(PHOTO, "JPEG", quality=95, progressive=True),
    "restart markers": encode(PHOTO, "JPEG", quality=95, restart_marker_rows=1),
    "grey": encode(PHOTO.convert("L"), "JPEG", quality=95),
    "grey, progressive": encode(PHOTO.convert("L"), "JPEG", quality=95, progressive=True),
    "RGB": encode(PHOTO, "JPEG", quality=95, keep_rgb=True),
    "RGB without Adobe's segment": without_segment(encode(PHOTO, "JPEG", quality=95, keep_rgb=True), 0xEE),
    "CMYK": CMYK,
    "CMYK, progressive": encode(PHOTO.convert("CMYK"), "JPEG", quality=95, progressive=True),
    "YCCK": CMYK[: ADOBE + 11] + b"\2" + CMYK[ADOBE + 12 :],
    "CMYK without Adobe's segment": without_segment(CMYK, 0xEE),
    "neither JFIF nor Exif": with_segments(PLAIN, jfif=False),
}


def test_jpeg():
    for name, file in JPEGS.items():
        check(file, by_pillow(file), tolerance=10, name=name)


EXIF = segment(0xE1, b"Exif\0\0" + exif(6))
XMP_SEGMENT = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(1))
PROFILE = segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000))
BEFORE = {
    "nothing": b"",
    "a comment": segment(0xFE, b"made by hand \xff\xd8\xff\xda"),
    "a profile": PROFILE,
    "several profiles": 3 * PROFILE,
    "XMP": XMP_SEGMENT,
    "Photoshop's segment": segment(0xED, b"Photoshop 3.0\0" + b"8BIM" + bytes(500)),
    "JFXX": segment(0xE0, b"JFXX\0\x10" + b"\xff\xd8" + bytes(300)),
    "Adobe's segment": segment(0xEE, b"Adobe\0d\0\0\0\0\1"),
    "filling": b"\xff\xff\xff",
    "an empty segment": segment(0xE5, b""),
}


def test_orientation_of_jpeg_behind_other_segments():
    turned = np.asarray(PHOTO.transpose(Image.Transpose.ROTATE_270)).astype(int)
    for (name, before), jfif in itertools.product(BEFORE.items(), (True, False)):
        file = with_segments(PLAIN, before, EXIF, jfif=jfif)
        assert np.abs(np.asarray(by_pillow(file)) - turned).max() <= 8
        check(file, by_pillow(file), tolerance=8, name=f"behind {name}, JFIF: {jfif}")


def test_orientation_of_jpeg_behind_its_tables():
    end = PLAIN.index(b"\xff\xda")
    for file in (PLAIN[:end] + EXIF + PLAIN[end:], with_segments(PLAIN, segment(0xE1, b"Exif\0\0" + exif(3)), EXIF)):
        check(file, by_pillow(file), tolerance=8)


def test_all_orientations():
    for orientation, little_endian in itertools.product(range(1, 9), (True, False)):
        name = f"orientation {orientation}, little-endian: {little_endian}"
        data = exif(orientation, little_endian)
        file = with_segments(PLAIN, segment(0xE1, b"Exif\0\0" + data))
        check(file, by_pillow(file), tolerance=8, name=f"JPEG, {name}")
        for place in ("before", "after"):
            file = png(np.asarray(PHOTO), "RGB", 8, **{place: [(b"eXIf", data)]})
            check(file, by_pillow(file), name=f"PNG, {name}, {place} its pixels")
        for lossless in (True, False):
            file = encode(PHOTO, "WEBP", lossless=lossless, quality=90, exif=b"Exif\0\0" + data)
            check(file, by_pillow(file), refused=refusal("a WebP"), name=f"WebP, {name}, lossless: {lossless}")
        file = encode(PHOTO, "TIFF", tiffinfo={0x0112: orientation})
        check(file, by_pillow(file), refused=refusal("a TIFF"), name=f"TIFF, {name}")


def test_orientation_of_any_type():
    expected = PHOTO.transpose(Image.Transpose.ROTATE_90)
    for kind, little_endian in itertools.product((1, 3, 4), (True, False)):
        data = exif(8, little_endian, kind)
        name = f"type {kind}, little-endian: {little_endian}"
        check(with_segments(PLAIN, segment(0xE1, b"Exif\0\0" + data)), expected, tolerance=8, name=name)
        check(png(np.asarray(PHOTO), "RGB", 8, before=[(b"eXIf", data)]), expected, name=name)


def test_orientation_in_xmp_counts_where_exif_has_none():
    packet = b"http://ns.adobe.com/xap/1.0/\0" + xmp(6)
    for segments in ([segment(0xE1, packet)], [segment(0xE1, packet), segment(0xE1, b"Exif\0\0" + exif(3))]):
        file = with_segments(PLAIN, *segments)
        check(file, by_pillow(file), tolerance=8)
    file = png(np.asarray(PHOTO), "RGB", 8, before=[(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6))])
    check(file, by_pillow(file))


def test_orientation_in_text_of_png_is_read_by_pillow():
    text = b"\nexif\n%8d\n" % len(exif(6)) + (b"Exif\0\0" + exif(6)).hex().encode() + b"\n"
    error = "a PNG with its orientation in a compressed or hexadecimal text; save it again as a JPEG or PNG file"
    for chunk in (
        (b"tEXt", b"Raw profile type exif\0" + text),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(6))),
    ):
        file = png(np.asarray(PHOTO), "RGB", 8, before=[chunk])
        assert by_pillow(file).tobytes() != PHOTO.tobytes()
        check(file, by_pillow(file), refused=error)
    check(png(np.asarray(PHOTO), "RGB", 8, before=[(b"tEXt", b"Comment\0eXIf tRNS Raw profile type exif")]), PHOTO)


def animation(size=(SIZE, SIZE), at=(0, 0)):
    """A WebP of two frames, which may be smaller than the whole."""
    u24 = lambda number: struct.pack("<I", number)[:3]  # noqa: E731
    still = encode(PHOTO.resize(size), "WEBP", lossless=True)[12:]
    place = u24(at[0] // 2) + u24(at[1] // 2) + u24(size[0] - 1) + u24(size[1] - 1)
    frame = (b"ANMF", place + u24(100) + b"\0" + still)
    header = (b"VP8X", b"\2\0\0\0" + u24(SIZE - 1) + u24(SIZE - 1))
    return files.webp(header, (b"ANIM", b"\xff\xff\xff\xff\0\0"), frame, frame)


WEBPS = {
    "lossy": encode(PHOTO, "WEBP", quality=90),
    "lossless": encode(PHOTO, "WEBP", lossless=True),
    "lossless, transparent": encode(CLEAR, "WEBP", lossless=True, exact=True),
    "lossy, transparent": encode(CLEAR, "WEBP", quality=90),
    "animated": encode(PHOTO, "WEBP", lossless=True, save_all=True, append_images=[ImageOps.mirror(PHOTO)]),
    "animated, transparent": encode(
        CLEAR, "WEBP", lossless=True, save_all=True, append_images=[ImageOps.mirror(CLEAR)]
    ),
    "animated, with small frames": animation((16, 12), (4, 6)),
    "with a profile": encode(PHOTO, "WEBP", lossless=True, icc_profile=bytes(500)),
}


def test_webp():
    for name, file in WEBPS.items():
        check(file, by_pillow(file), refused=refusal("a WebP"), name=name)


def gif_with_key():
    image = PHOTO.quantize(15)
    ImageDraw.Draw(image).rectangle((2, 3, 12, 9), fill=15)
    return encode(image, "GIF", transparency=15)


def gif_with_a_small_frame():
    file = bytearray(encode(PHOTO.resize((16, 12)), "GIF"))
    file[6:10] = struct.pack("<HH", SIZE, SIZE)
    return bytes(file)


GIFS = {
    "colour": encode(PHOTO, "GIF"),
    "grey": encode(PHOTO.convert("L"), "GIF"),
    "black and white": encode(PHOTO.convert("1"), "GIF"),
    "interlaced": encode(PHOTO, "GIF", interlace=1),
    "not interlaced": encode(PHOTO, "GIF", interlace=0),
    "animated": encode(PHOTO, "GIF", save_all=True, append_images=[ImageOps.mirror(PHOTO)]),
    "transparent": gif_with_key(),
    "with a small frame": gif_with_a_small_frame(),
}


def test_gif():
    for name, file in GIFS.items():
        check(file, by_pillow(file), refused=refusal("a GIF"), name=name)


def test_bmp():
    kinds = [(encode(PHOTO, "BMP"), PHOTO, 24), (encode(CLEAR, "BMP"), PHOTO, 32)]
    for bits in (1, 4, 8):
        palette = np.random.default_rng(bits).integers(0, 256, (2**bits, 3))
        indices = np.random.default_rng(0).integers(0, 2**bits, (SIZE, SIZE))
        kinds.append((files.bmp(indices, palette, bits), Image.fromarray(palette[indices].astype("uint8")), bits))
    for file, expected, bits in kinds:
        assert file[28] == bits
        assert by_pillow(file).tobytes() == expected.tobytes()
        check(file, expected, refused=refusal("a BMP"), name=f"{bits} bits")


TIFFS = {
    **{f"mode {mode}": encode(CLEAR.convert(mode), "TIFF") for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "LA")},
    **{f"packed by {how}": encode(PHOTO, "TIFF", compression=how) for how in ("tiff_lzw", "tiff_deflate", "packbits")},
    "16 bits": encode(Image.fromarray((ROWS * 2600 + COLUMNS * 77).astype("uint16")), "TIFF"),
    "two pages": encode(PHOTO, "TIFF", save_all=True, append_images=[ImageOps.mirror(PHOTO)]),
}


def test_tiff():
    for name, file in TIFFS.items():
        check(file, by_pillow(file), refused=refusal("a TIFF"), name=name)


def test_tiff_that_counts_from_white():
    """Of 8 bits Pillow turns it itself."""
    values = (ROWS * 2600 + COLUMNS * 77).astype("uint16")
    for array in (values, (values // 257).astype("uint8")):
        white = np.iinfo(array.dtype).max
        pictures = []
        for photometric, stored in ((1, array), (0, white - array)):
            tags = TiffImagePlugin.ImageFileDirectory_v2()
            file = bytearray(encode(Image.fromarray(stored), "TIFF", tiffinfo=tags))
            if photometric == 0:  # the tag's value, which Pillow always writes as 1
                place = file.index(b"\x06\x01\x03\x00\x01\x00\x00\x00") + 8
                file[place : place + 2] = b"\x00\x00"
            pictures.append(TRAINED[1](bytes(file)))
        np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_tiff_without_a_declared_white_is_an_error(mode):
    with pytest.raises(tf.errors.InvalidArgumentError, match="of which nothing says what is white"):
        TRAINED[3](encode(PHOTO.convert("L").convert(mode), "TIFF"))


def test_12_bits_in_16_are_read_as_declared():
    values = ROWS * 85 + COLUMNS * 89
    expected = np.round(values / 257).astype("uint8")
    file = encode(Image.fromarray(values.astype("uint16")), "PNG")
    np.testing.assert_array_equal(TRAINED[1](file)[..., 0], expected)
    np.testing.assert_array_equal(SERVED[1](file)[0][0, ..., 0], expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_parts_are_of_the_upright_image(kind):
    """The part that a window names is found in the image that lies on its side, too."""
    load = tf.function(
        lambda file: images.load(file, 3, SQUARE, lambda shape: tf.constant([5, 7, 30, 40]))[0],
        input_signature=[_STRING],
    )
    rows, columns = np.mgrid[0:60, 0:90]
    lying = Image.fromarray(np.stack([rows * 4, columns * 2, 200 - rows * 2], axis=-1).astype("uint8"))
    for orientation in range(1, 9):
        data = exif(orientation)
        options = {"exif": b"Exif\0\0" + data, "quality": 95} if kind == "JPEG" else {"exif": data}
        file = encode(lying, kind, **options)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file))))
        expected = images.resize(tf.constant(upright[5:35, 7:47]), (SIZE, SIZE)).numpy().astype(int)
        assert np.abs(load(file).numpy() - expected).max() <= (8 if kind == "JPEG" else 0), orientation
