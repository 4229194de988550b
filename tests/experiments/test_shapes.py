"""Images that are not square, and of any number of channels."""

import io
import itertools
import logging

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from experiments import checks, randaugment, sizes
from experiments.data import folder, images, other_formats, pipeline, sources
from experiments.data.damage import DamagedImages
from tests.experiments.files import encode, exif, png

SIZE = (24, 40)
ROWS, COLUMNS = np.mgrid[0:60, 0:90]
LYING = Image.fromarray(np.stack([ROWS * 4, COLUMNS * 2, 200 - ROWS * 2], axis=-1).astype("uint8"))


def array(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def noise(*shape, dtype="uint8", seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def load(file, channels=3, size=SIZE, window=images.whole, **options):
    return images.load(tf.constant(file), channels, size, window, **options)[0].numpy()


@pytest.mark.parametrize(
    ("given", "expected"),
    [(288, (288, 288)), ((288, 512), (288, 512)), ([288, 512], (288, 512)), ("288", (288, 288))]
    + [(text, (288, 512)) for text in ("288x512", "288,512", "(288, 512)", "[288, 512]")],
)
def test_sizes(given, expected):
    assert sizes.parse(given) == expected


@pytest.mark.parametrize("given", [0, -1, 2.5, True, None, "", "x", "288x", "288xx512", "1x2x3", (1, 2, 3), (), "wide"])
def test_sizes_that_are_none(given):
    with pytest.raises(ValueError, match="the size of images is a whole number, such as 288, or a height and a width"):
        sizes.parse(given)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_orientations_of_images_that_are_not_square(kind):
    part = images.center(SIZE)
    for orientation in range(1, 9):
        data = exif(orientation)
        options = {"JPEG": {"exif": b"Exif\0\0" + data, "quality": 95}, "PNG": {"exif": data}}
        file = encode(LYING, kind, **options.get(kind, {"tiffinfo": {0x0112: orientation}}))
        upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file))))
        assert upright.shape == ((90, 60, 3) if orientation >= 5 else (60, 90, 3))
        for window in (images.whole, part):
            y, x, height, width = window(tf.constant(upright.shape[:2])).numpy()
            expected = images.resize(tf.constant(upright[y : y + height, x : x + width]), SIZE).numpy().astype(int)
            found = load(file, window=window)
            assert found.shape == (*SIZE, 3)
            assert np.abs(found - expected).max() <= (8 if kind == "JPEG" else 0), orientation


def test_the_middle_has_the_aspect_ratio_of_the_new_size():
    share = 64 / (64 + 32)
    for shape, expected in {
        (300, 400): (round(200 * share), round(400 * share)),
        (100, 400): (round(100 * share), round(200 * share)),
        (100, 200): (round(100 * share), round(200 * share)),
    }.items():
        y, x, height, width = images.center((64, 128))(tf.constant(shape)).numpy()
        assert (height, width) == expected
        assert abs(2 * y + height - shape[0]) <= 1 and abs(2 * x + width - shape[1]) <= 1


@pytest.mark.parametrize("shape", [(300, 400), (427, 640), (1, 9), (31, 30)])
def test_the_middle_for_a_square_is_of_the_shorter_side(shape):
    side = max(1, int(np.round(np.float32(min(shape)) * np.float32(224 / 256))))
    y, x, height, width = images.center((224, 224))(tf.constant(shape)).numpy()
    assert (y, x, height, width) == ((shape[0] - side) // 2, (shape[1] - side) // 2, side, side)


def test_random_parts_are_of_about_the_aspect_ratio_of_the_new_size():
    shape = tf.constant([300, 400])
    windows = np.array([images.inception(tf.constant([3, seed]), (64, 128))(shape) for seed in range(100)])
    ratio = windows[:, 3] / windows[:, 2]
    assert 1.45 < ratio.min() < 1.7 and 2.4 < ratio.max() < 2.75


def test_arrays():
    for shape, channels in (((24, 40), 1), ((24, 40), 3), ((24, 40, 1), 3), ((24, 40, 3), 3), ((24, 40, 6), 6)):
        for dtype in ("uint8", "uint16", ">u2"):
            values = noise(*shape, dtype=np.dtype(dtype).newbyteorder("=")).astype(dtype)
            expected = np.round(values / 257) if values.dtype.itemsize == 2 else values
            expected = np.broadcast_to(np.atleast_3d(expected), (24, 40, channels))
            np.testing.assert_array_equal(load(array(values), channels), expected, err_msg=f"{shape} {dtype}")
    grey = load(array(noise(24, 40, 3)), channels=1)
    np.testing.assert_array_equal(grey[..., 0], Image.fromarray(noise(24, 40, 3)).convert("L"))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.zeros((4, 4), "float32"), "its values are float32; of arrays, uint8 and uint16 are read"),
        (np.zeros((4, 4), "int16"), "its values are int16"),
        (np.zeros((4, 4), bool), "its values are bool"),
        (np.zeros(4, "uint8"), r"its shape is \(4,\); of arrays, \[height, width\] and"),
        (np.zeros((4, 0, 2), "uint8"), r"its shape is \(4, 0, 2\)"),
        (np.zeros((4, 4, 5), "uint8"), "it has 5 channels, not 4"),
        (np.array([{"a": 1}]), "its values are object"),
    ],
)
def test_arrays_that_are_refused(values, why):
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=why):
        load(array(values), channels=4)
    assert other_formats.problem(array(values), 4).startswith(why.replace("\\", "")[:20])


def test_damaged_arrays_are_refused():
    for file in (array(noise(24, 40))[:-1], other_formats.ARRAY, array(noise(24, 40))[:40]):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            load(file, channels=1)
        assert other_formats.problem(file, 1) == ""


def test_alpha_is_a_channel_if_there_are_four_or_two():
    pixels = noise(24, 40, 4)
    wide = noise(24, 40, 4, dtype="uint16")
    palette = Image.fromarray(pixels[..., 0] // 16 * 16).convert("P")
    palette.info["transparency"] = 3
    files = {
        "PNG": (encode(Image.fromarray(pixels), "PNG"), pixels),
        "PNG of 16 bits": (png(wide.astype(int), "RGBA", 16), np.round(wide / 257)),
        "PNG with a palette": (encode(palette, "PNG"), np.asarray(palette.convert("RGBA"))),
        "WebP": (encode(Image.fromarray(pixels), "WEBP", lossless=True, exact=True), pixels),
        "TIFF": (encode(Image.fromarray(pixels), "TIFF"), pixels),
        "grey PNG": (png(pixels[..., 1:3].astype(int), "grey + alpha", 8), pixels[..., 1:3]),
    }
    for name, (file, expected) in files.items():
        np.testing.assert_array_equal(load(file, channels=expected.shape[-1]), expected, err_msg=name)
    with_alpha = load(files["PNG"][0])
    assert with_alpha.shape == (*SIZE, 3) and (with_alpha != pixels[..., :3]).any()  # on white


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_pages_of_a_tiff_are_channels(dtype):
    pages = noise(5, 24, 40, dtype=dtype)
    first, *others = (Image.fromarray(page) for page in pages)
    file = encode(first, "TIFF", save_all=True, append_images=others)
    expected = np.moveaxis(np.round(pages / (257 if dtype == "uint16" else 1)), 0, -1)
    np.testing.assert_array_equal(load(file, channels=5), expected)
    np.testing.assert_array_equal(load(file, channels=1), expected[..., :1])  # of a picture, the first
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="it has 5 channels, not 4"):
        load(file, channels=4)


def test_other_channels_are_refused():
    photo = Image.fromarray(noise(24, 40, 3))
    for kind, channels in itertools.product(("JPEG", "PNG", "BMP", "WEBP", "TIFF"), (2, 4, 7)):
        file = encode(photo, kind)
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            load(file, channels)
        assert other_formats.problem(file, channels) == f"it has 3 channels, not {channels}", kind
        assert other_formats.problem(file, 3) == other_formats.problem(file, 1) == ""
    assert other_formats.problem(encode(photo.convert("L"), "JPEG"), 4) == "it has 1 channel, not 4"
    assert other_formats.problem(b"no image", 4) == ""


def make_classes(path, files):
    """Class folders of files, by name and content."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def test_arrays_in_folders(tmp_path):
    arrays = {f"{name}/{i}.npy": array(noise(8, 8, 6, seed=i)) for name in "ab" for i in range(12)}
    found = folder.read(str(make_classes(tmp_path / "arrays", arrays)), "train", "validation")
    assert found.channels == 6 and found.train.count + found.held_out.count == 24

    features = {f"a/{i}_features.npy": array(np.zeros(8, "float32")) for i in range(3)}
    found = folder.read(str(make_classes(tmp_path / "arrays", features)), "train", "validation")
    assert found.train.count + found.held_out.count == 24
    assert {entry.reason.partition(",")[0] for entry in found.left_out} == {"NumPy arrays that are no images"}

    pictures = {f"{name}/{i}.png": encode(LYING, "PNG") for name in "ab" for i in range(12)}
    path = str(make_classes(tmp_path / "arrays", pictures))
    found = folder.read(path, "train", "validation")
    assert found.channels == 0 and found.train.count + found.held_out.count == 24
    assert all(name.endswith(".png") for name in (*found.train.paths, *found.held_out.paths))
    assert [entry.reason for entry in found.left_out].count("NumPy arrays beside pictures") == 24
    assert any("are read if config.dataset.channels is set" in note for note in found.notes)
    both = folder.read(path, "train", "validation", channels=6)
    assert both.train.count + both.held_out.count == 48


@pytest.fixture
def folder_config(config):
    config.image_size, config.batch_size = (8, 16), 8
    config.augment.flip, config.augment.translate = False, 0
    config.dataset.train_split, config.dataset.eval_split = "train", "validation"
    return config


def test_files_of_other_channels_are_left_out_and_named(folder_config, tmp_path, caplog):
    files = {f"{name}/{i}.png": encode(Image.fromarray(noise(9, 9, 4)), "PNG") for name in "ab" for i in range(12)}
    files |= {f"a/{i}.jpg": encode(LYING, "JPEG") for i in range(12)}
    folder_config.dataset.name = f"folder:{make_classes(tmp_path / 'mixed', files)}"
    folder_config.dataset.channels = 4
    source = sources.prepare(folder_config.dataset)
    damaged = DamagedImages(36, 0.0)
    for batch, _, weights in pipeline.evaluation_batches(source, folder_config, damaged=damaged):
        assert batch.shape == (8, 8, 16, 4)
        assert not batch.numpy()[weights.numpy() == 0].any()
    assert damaged.names and all(name.endswith(".jpg") for name in damaged.names)
    assert f"{damaged.names[0]} cannot be decoded and is left out: it has 3 channels, not 4." in caplog.text
    assert f"allows: {damaged.names[0]} (it has 3 channels, not 4)" in damaged.problem()


def test_the_channels_of_arrays_are_those_of_the_run(folder_config, tmp_path):
    files = {f"{name}/{i}.npy": array(noise(9, 30, 5, seed=i)) for name in "ab" for i in range(12)}
    folder_config.dataset.name = f"folder:{make_classes(tmp_path / 'arrays', files)}"
    folder_config.augment.update(randaugment_layers=1, randaugment_magnitude=5.0, crop="inception", mixup_alpha=0.5)
    source = sources.prepare(folder_config.dataset)
    assert source.channels == 5
    batch, *_ = next(iter(pipeline.training_batches(source, folder_config)))
    assert batch.shape == (8, 8, 16, 5) and np.ptp(batch) > 200
    said = pipeline.describe(source, folder_config)
    whole = "the whole image, resized to 8 x 16 (bilinear, antialiased); 5 channels."
    assert "(inception crop), resized to 8 x 16 (bilinear, antialiased), and evaluation " + whole in said
    assert "RandAugment has Rotate, ShearX, ShearY, TranslateX, TranslateY, Cutout alone" in said


def test_randaugment_of_other_channels_is_geometric():
    image = tf.constant(noise(16, 16, 4))
    values = set(np.unique(image)) | {randaugment.FILL}
    for name, index in zip(randaugment.GEOMETRIC, range(6), strict=True):
        changed = randaugment.apply(image, tf.constant(index), 9.0, tf.constant([0, 3]))
        assert changed.shape == image.shape and set(np.unique(changed)) <= values, name
    assert randaugment.randaugment(image, (0, 1), 2, 9.0).shape == image.shape
    assert randaugment.operations_for(1) is randaugment.operations_for(3) is randaugment.OPERATIONS


def test_datasets_of_other_channels_are_refused(config):
    config.dataset.channels = 4
    with pytest.raises(ValueError, match="Images of dataset 'digits' have 1 channels, not the 4 of config.dataset.ch"):
        sources.prepare(config.dataset)


@pytest.mark.parametrize("size", [(8, 0), "wide", (8, 8, 3), 2.5])
def test_sizes_that_a_recipe_cannot_have(config, size):
    with config.ignore_type():
        config.image_size = size
    with pytest.raises(ValueError, match="config.image_size: the size of images is a whole number, such as 288, or a"):
        checks.check_values(config)


def test_dark_arrays_are_noticed(folder_config, tmp_path, caplog):
    dark = {f"{name}/{i}.npy": array(noise(9, 9, 5, dtype="uint16") // 16) for name in "ab" for i in range(12)}
    folder_config.dataset.name = f"folder:{make_classes(tmp_path / 'dark', dark)}"
    with caplog.at_level(logging.WARNING):
        next(iter(pipeline.training_batches(sources.prepare(folder_config.dataset), folder_config)))
    assert "If its data have 12 bits, write them times 16." in caplog.text
