"""What a model sees of an image: as timm's transform has it, by Pillow; and which weights want what."""

import importlib.resources
import io
import json
import math

import keras
import ml_collections
import numpy as np
import pytest
import tensorflow as tf
from etils import epath
from PIL import Image, ImageOps

import coatnet_tf
from coatnet_tf.pretrained import CATALOG
from experiments import checks, workdir
from experiments.data import pipeline, sources, views
from experiments.data.views import View
from experiments.recipes import digits, paper, small_folder
from tests.experiments.files import encode, exif

NAME = "timm/coatnet_0_rw_224.sw_in1k"
SQUASHED = "timm/coatnet_rmlp_2_rw_384.sw_in12k_ft_in1k"
PHOTOGRAPHS = ("china.jpg", "flower.jpg")  # in scikit-learn's wheel


def photograph(name):
    return (importlib.resources.files("sklearn.datasets.images") / name).read_bytes()


def timms(file, view):
    """Height, width and RGB as timm's transform for evaluation has it: `Resize` and `CenterCrop`, or `squash`."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
    how = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[view.interpolation]
    height, width = view.size
    if view.crop == "none":
        return np.asarray(image.resize((width, height), how))
    across, down = (math.floor(side / float(view.crop)) for side in (width, height))
    wide = image.width * down >= image.height * across
    scaled = (image.width * down // image.height, down) if wide else (across, image.height * across // image.width)
    left, top = (round((whole - part) / 2.0) for whole, part in zip(scaled, (width, height), strict=True))
    return np.asarray(image.resize(scaled, how).crop((left, top, left + width, top + height)))


@pytest.fixture(scope="module")
def files():
    """The photographs, and copies at odd sizes."""
    found = {}
    for name in PHOTOGRAPHS:
        found[name] = photograph(name)
        image = Image.open(io.BytesIO(found[name]))
        found[f"small {name}"] = encode(image.resize((173, 259), Image.BICUBIC), "JPEG", quality=90)
        found[f"PNG of {name}"] = encode(image.crop((3, 5, 514, 338)), "PNG")
    return found


@pytest.fixture(scope="module")
def network():
    """A network at 224 whose logits differ by units, from a photograph to another and between classes."""
    keras.utils.set_random_seed(0)
    config = coatnet_tf.make_config(
        "net", (2, 1, 1, 1, 1), (16, 24, 48, 64, 96), head_size=16, kernel_initializer="lecun_normal"
    )
    model = coatnet_tf.CoAtNet(config, input_shape=(224, 224, 3), classes=50, classifier_activation=None)
    head = model.get_layer("predictions")
    head.kernel.assign(10 * np.asarray(head.kernel))
    return model


VIEWS = [
    View((224, 224), "0.95", "bicubic"),
    View((224, 224), "0.9", "bicubic"),
    View((224, 224), "1", "bicubic"),
    View((224, 224), "none", "bicubic"),
]


@pytest.mark.parametrize("view", VIEWS)
def test_logits_of_files_are_those_of_timms_transform(view, files, network):
    ours, theirs = (
        np.stack([see(file) for file in files.values()]).astype("float32")
        for see in (lambda file: view.load(tf.constant(file), 3)[0].numpy(), lambda file: timms(file, view))
    )
    difference = np.abs(ours - theirs)
    assert difference.max() <= 1 and difference.mean() < 0.01
    found, expected = (network.predict(pixels, verbose=0) for pixels in (ours, theirs))
    assert expected.std(axis=-1).min() > 1 and np.ptp(expected, axis=0).max() > 1
    assert np.abs(found - expected).max() < 1e-2
    assert (found.argmax(axis=-1) == expected.argmax(axis=-1)).all()


@pytest.mark.parametrize("view", [View((60, 110), "0.9", "bicubic"), View((110, 60), "none", "bicubic")])
def test_views_of_images_that_lie_on_their_side(view):
    rows, columns = np.mgrid[0:150, 0:233]
    lying = Image.fromarray(np.stack([rows, columns, 200 - rows], axis=-1).astype("uint8"))
    for orientation in range(1, 9):
        for kind, options in (
            ("JPEG", {"exif": b"Exif\0\0" + exif(orientation)}),
            ("PNG", {"exif": exif(orientation)}),
        ):
            file = encode(lying, kind, **options)
            difference = np.abs(view.load(tf.constant(file), 3)[0].numpy().astype(int) - timms(file, view))
            assert difference.max() <= 2, (
                kind,
                orientation,
            )  # rounded between columns and rows in place of rows and columns


def test_bilinear_views_have_timms_geometry(files):
    view = View((96, 64), "0.8")
    for name, file in files.items():
        difference = np.abs(view.load(tf.constant(file), 3)[0].numpy().astype(int) - timms(file, view))
        assert difference.max() <= 2, name


def test_an_image_of_the_size_stays_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype="uint8")
    for crop, interpolation in (("none", "bicubic"), ("1", "bicubic"), ("1", "bilinear"), ("none", "bilinear")):
        found = View((32, 48), crop, interpolation).load(tf.constant(encode(Image.fromarray(pixels), "PNG")), 3)[0]
        np.testing.assert_array_equal(found, pixels, err_msg=f"{crop} {interpolation}")


def test_views_that_are_none():
    for crop in ("all", "", "0", "1.5", "-0.5", "nan"):
        with pytest.raises(ValueError, match="must be none, center, or a share above 0 and up to 1, such as 0.95; got"):
            View((8, 8), crop)
    with pytest.raises(ValueError, match="interpolation must be one of bilinear, bicubic; got 'cubic'"):
        View((8, 8), "none", "cubic")


def test_what_published_weights_want():
    """As `timm/models/maxxvit.py` has it: bicubic, 0.95, but for three."""
    for name, entry in CATALOG.items():
        crop = "none" if "384" in name else "0.9" if "nano" in name else "0.95"
        assert views.of_weights(entry, (8, 8)) == View((8, 8), crop, "bicubic"), name
    assert views.of_network("coatnet_rmlp_2_rw", (224, 224))[0].crop == "0.95"
    assert views.of_network("coatnet_rmlp_2_rw", (384, 384)) == (View((384, 384), "none", "bicubic"), SQUASHED)
    assert views.of_network("coatnet_0_rw", (320, 512)) == (View((320, 512), "0.95", "bicubic"), NAME)
    assert views.of_network("coatnet-0", (224, 224)) is None


def settled(config, folder):
    views.settle(config, epath.Path(folder))
    return config.eval_crop, config.interpolation


def test_a_run_sees_what_its_weights_want(tmp_path, caplog):
    config = small_folder.get_config()
    assert settled(config, tmp_path / "run") == ("none", "bilinear") and not caplog.text

    def begun(init_from, **fields):
        config = small_folder.get_config()
        config.model.name = "coatnet_0_rw"
        config.update(init_from=init_from, **fields)
        return config

    config = begun(NAME)
    assert settled(config, tmp_path / "run") == ("0.95", "bicubic")
    assert f"As for {NAME}, which the run begins from: the middle, 0.95 of the sides of the largest part" in caplog.text
    assert settled(begun(NAME, eval_crop="none"), tmp_path / "run") == ("none", "bicubic")
    assert settled(begun(NAME, interpolation="bilinear"), tmp_path / "run") == ("0.95", "bilinear")
    assert settled(begun(str(tmp_path / "some.keras")), tmp_path / "run") == ("0.95", "bicubic")

    # A run hands its own on; and goes on with what it began with, if the weights are gone.
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / workdir.CONFIG).write_text(begun("", eval_crop="center", interpolation="bicubic").to_json())
    second = begun(str(tmp_path / "first"))
    assert settled(second, tmp_path / "second") == ("center", "bicubic")
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / workdir.CONFIG).write_text(second.to_json())
    again = begun(str(tmp_path / "gone"))
    assert settled(again, tmp_path / "second") == ("center", "bicubic")

    # Another program's config.json says nothing.
    (tmp_path / "preset").mkdir()
    (tmp_path / "preset" / workdir.CONFIG).write_text(json.dumps({"architecture": "coatnet"}))
    assert views.of_run(epath.Path(tmp_path / "preset")) is None


def test_the_papers_recipes_stay_as_they_are(tmp_path):
    for setting, crop in (("imagenet1k_pretrain", "center"), ("imagenet1k_finetune", "none")):
        config = paper.get_config(f"{setting},coatnet0")
        config.init_from = NAME
        config.interpolation = "bilinear"
        assert settled(config, tmp_path) == (crop, "bilinear")
    assert settled(paper.get_config("imagenet1k_pretrain,coatnet0"), tmp_path) == ("center", "bilinear")
    assert views.of_recipe(digits.get_config()) == View((16, 16))


def test_older_runs_name_no_interpolation():
    assert views.of_recipe({"image_size": 8, "eval_crop": "center"}) == View((8, 8), "center", "bilinear")


@pytest.mark.slow
def test_training_without_a_crop_of_its_own_sees_what_evaluation_sees(config):
    config.augment.flip, config.augment.translate = False, 0
    config.eval_crop, config.interpolation = "0.5", "bicubic"
    checks.check_values(config)
    source = sources.prepare(config.dataset)
    view = views.of_recipe(config)
    expected = {
        view.load(tf.constant(example["image"]), 1)[0].numpy().tobytes()
        for example in source.train.read(0, source.train.count).as_numpy_iterator()
    }
    images, *_ = next(iter(pipeline.training_batches(source, config)))
    assert {image.tobytes() for image in images.numpy()} <= expected
    assert pipeline.describe(source, config).startswith(f"Training and evaluation see {view.describe()}; 1 channel.")


def test_recipes_that_are_refused(config):
    for field, value, words in (
        (
            "eval_crop",
            "2",
            "config.eval_crop must be none, center, or a share above 0 and up to 1, such as 0.95; got '2'",
        ),
        ("interpolation", "cubic", "config.interpolation must be one of bilinear, bicubic; got 'cubic'"),
    ):
        wrong = ml_collections.ConfigDict(config.to_dict())
        wrong[field] = value
        with pytest.raises(ValueError, match=words):
            checks.check_values(wrong)


def test_every_kind_of_file_is_read_without_a_graph_too():
    """As `tools.predict` reads them, one by one."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype="uint8")
    image, view = Image.fromarray(pixels), View((20, 30))
    for kind, options in (("BMP", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {})):
        np.testing.assert_array_equal(
            view.load(tf.constant(encode(image, kind, **options)), 3)[0], pixels, err_msg=kind
        )
    grey = Image.fromarray(pixels[..., 0])
    np.testing.assert_array_equal(view.load(tf.constant(encode(grey, "GIF")), 1)[0][..., 0], pixels[..., 0])
