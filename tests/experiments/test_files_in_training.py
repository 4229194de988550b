"""Files of all kinds in the batches of training and evaluation."""

import logging

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from experiments.data import headers, pipeline
from experiments.data.damage import DamagedImages
from experiments.data.readers import ImageFiles
from experiments.data.sources import Source
from tests.experiments.files import encode, png

SIZE = 8
ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE]
PHOTO = Image.fromarray(np.stack([ROWS * 30, COLUMNS * 30, 240 - ROWS * 20], axis=-1).astype("uint8"))
PIXELS = np.asarray(PHOTO)
LOSSLESS = {
    "a.png": encode(PHOTO, "PNG"),
    "b.bmp": encode(PHOTO, "BMP"),
    "c.webp": encode(PHOTO, "WEBP", lossless=True),
    "d.gif": encode(PHOTO.quantize(64), "GIF"),
    "e.tif": encode(PHOTO, "TIFF"),
    "f.webp": encode(PHOTO, "WEBP", lossless=True, save_all=True, append_images=[PHOTO.rotate(90)]),
    "g.png": png(PIXELS.astype(int) * 257, "RGB", 16),
}


@pytest.fixture
def source_of(tmp_path, config):
    """Makes a source of files, all of them both to train on and held out, and sets the recipe to it."""
    config.image_size, config.batch_size = SIZE, 4
    config.augment.flip, config.augment.translate = False, 0

    def make(files):
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        listed = ImageFiles(tuple(str(tmp_path / name) for name in files), tuple(i % 2 for i in range(len(files))))
        return Source("files", listed, listed, ("even", "odd"), 3)

    return make


@pytest.mark.slow
def test_all_kinds_are_trained_on_and_held_out(source_of, config):
    source = source_of(LOSSLESS)
    damaged = DamagedImages(len(LOSSLESS), max_share=0.0)
    found = [
        image
        for images, _, weights in pipeline.evaluation_batches(source, config, damaged=damaged)
        for image in images.numpy()[weights.numpy() > 0]
    ]
    for name, image in zip(LOSSLESS, found, strict=True):
        np.testing.assert_array_equal(image, PIXELS, err_msg=name)
    batches = [batch[0].numpy() for batch in pipeline.training_batches(source, config, damaged=damaged).take(4)]
    assert all((image == PIXELS).all() for batch in batches for image in batch)
    rest = [batch[0].numpy() for batch in pipeline.training_batches(source, config, 2, damaged=damaged).take(2)]
    np.testing.assert_array_equal(rest, batches[2:])
    assert not damaged.names


@pytest.mark.slow
def test_what_needs_python_is_left_out_by_name_where_none_runs(source_of, config, capfd):
    files = LOSSLESS | {"h.jpg": encode(PHOTO, "JPEG"), "i.png": b"no image"}
    source = source_of(files)
    weights = [batch[2].numpy() for batch in pipeline.evaluation_batches(source, config, python=False)]
    read = [name for name, weight in zip(files, np.concatenate(weights), strict=False) if weight]
    assert read == ["a.png", "g.png", "h.jpg"]
    said = capfd.readouterr().err
    for name, kind in {"b.bmp": "a BMP", "c.webp": "a WebP", "d.gif": "a GIF", "e.tif": "a TIFF"}.items():
        assert f"{name} cannot be decoded and is left out ({kind}, which no TPU host reads)." in said
    assert "i.png cannot be decoded and is left out." in said
    assert next(iter(pipeline.training_batches(source, config, python=False)))[0].shape == (4, SIZE, SIZE, 3)


@pytest.mark.slow
def test_dark_16_bits_are_said_once(source_of, config, caplog):
    dark = (ROWS * 500 + COLUMNS * 70).astype("uint16")  # 12 bits
    files = {f"{i}.png": encode(Image.fromarray(dark), "PNG") for i in range(3)}
    files["3.tif"] = encode(Image.fromarray(dark), "TIFF")
    with caplog.at_level(logging.WARNING):
        for _ in pipeline.training_batches(source_of(files), config).take(4):
            pass
    (said,) = [record.getMessage() for record in caplog.records if "16 bits" in record.getMessage()]
    assert any(name in said for name in files)
    assert "none above 3990: the darkest 6.1 % of the range is all there is" in said
    assert "If its data have 12 bits, write them times 16." in said

    caplog.clear()
    bright = {name: encode(Image.fromarray(dark * 16), "PNG") for name in ("bright.png", "brighter.png")}
    for _ in pipeline.training_batches(source_of(bright | LOSSLESS), config).take(4):
        pass
    assert "16 bits" not in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\xff\xff\xff\xfftRNS"]
)
def test_headers_of_damaged_files_are_upright(content):
    assert int(headers.read(tf.constant(content)).orientation) == 1
