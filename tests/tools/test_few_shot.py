"""Few-shot evaluation of features: what is drawn, what is measured, what is refused; and the program itself."""

import shutil
from pathlib import Path

import keras
import ml_collections
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import RidgeClassifierCV
from sklearn.preprocessing import StandardScaler

import coatnet_tf
from experiments.data import sources
from tests import programs
from tools import few_shot
from tools.explain import decode

ROOT = Path(__file__).parents[2]


def clusters(count, seed, spread=0.5):
    """Vectors of three classes around three directions."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    return np.eye(3, 8)[labels] + spread * generator.normal(size=(count, 8)), labels


def test_only_drawn_images_are_seen():
    """With as many shots as images every draw is the whole, and the numbers are those of scikit-learn on it."""
    train, held_out = clusters(30, 0), clusters(300, 1)
    found = few_shot.evaluate(train, held_out, few_shot.Draws([10], [1], 3))
    vectors, others = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train[0], held_out[0]))
    nearest = train[1][(others @ vectors.T).argmax(axis=1)]
    np.testing.assert_allclose(found["k = 1"][10], 100 * np.mean(nearest == held_out[1]))
    scaler = StandardScaler().fit(train[0])
    ridge = RidgeClassifierCV(few_shot.PENALTIES).fit(scaler.transform(train[0]), train[1])
    expected = 100 * ridge.score(scaler.transform(held_out[0]), held_out[1])
    np.testing.assert_allclose(found["linear"][10], expected)


def test_draws_follow_the_seed_and_more_shots_help():
    train, held_out = clusters(300, 0), clusters(300, 1)
    draws = few_shot.Draws([1, 20], [1, 5], 4)
    found, again = (few_shot.evaluate(train, held_out, draws) for _ in range(2))
    for name, by_shots in found.items():
        for shots, accuracies in by_shots.items():
            np.testing.assert_array_equal(accuracies, again[name][shots])
    assert len(set(found["linear"][1])) > 1  # other images by seed
    assert found["linear"][20].mean() > found["linear"][1].mean() + 5
    assert list(found["k = 5"]) == [20]  # five neighbours of three images there are not
    table = few_shot.describe(found, draws.shots).splitlines()
    assert table[0] == "| shots | k = 1 | linear | k = 5 |" and table[2].endswith("% |  |")
    assert f"| {found['k = 5'][20].mean():.2f} ± " in table[3]


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        (lambda: few_shot.Draws([0]), "--shots must be at least 1; got 0"),
        (lambda: few_shot.Draws([1], [], 1), "--k must be at least 1; got nothing"),
        (lambda: few_shot.Draws([1], [1], 0), "--seeds must be at least 1; got 0"),
        (
            lambda: few_shot.check_shots([0] * 4 + [1] * 9, ("cat", "dog"), few_shot.Draws([1, 5])),
            r"--shots=5 .* of cat \(4\)\.",
        ),
        (lambda: few_shot.load_embeddings("nowhere"), "--model=nowhere is neither"),
        (lambda: few_shot._numbers("shots", ["1", "five"]), "--shots takes whole numbers .*; got 1,five"),
    ],
)
def test_wrong_values_are_refused(draws, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        draws()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Noise that is reddish, greenish or bluish, and a file that is none."""
    folder = tmp_path_factory.mktemp("few") / "photos"
    for split, count in (("train", 8), ("validation", 6)):
        for color, name in enumerate(("red", "green", "blue")):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.random.default_rng(100 * color + index).integers(0, 80, (32, 32, 3), "uint8")
                pixels[..., color] += 150
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return folder


def test_vectors_are_those_of_the_images(model_file, photos):
    model, view = few_shot.load_embeddings(str(model_file))
    dataset = {"name": f"folder:{photos}", "train_split": "train", "eval_split": "validation", "channels": 3}
    source = sources.prepare(ml_collections.ConfigDict(dataset))
    vectors, labels, damaged = few_shot.embed(model, view, source, "eval")
    assert vectors.shape == (18, 32) and labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6 and not damaged.names
    assert source.class_names == ("blue", "green", "red")
    image = keras.utils.img_to_array(Image.open(photos / "validation" / "blue" / "3.png"))
    network = keras.models.load_model(model_file, compile=False)
    seen = decode((photos / "validation" / "blue" / "3.png").read_bytes(), "it", 3, view)
    assert seen.shape == image.shape
    expected = coatnet_tf.embeddings(network)(seen[None].astype("float32"))
    np.testing.assert_allclose(vectors[3], expected[0], atol=1e-5)


def test_published_weights_see_images_as_they_were_evaluated(model_file, monkeypatch):
    name = "timm/coatnet_0_rw_224.sw_in1k"
    network = keras.models.load_model(model_file, compile=False)
    monkeypatch.setattr(coatnet_tf, "from_pretrained", {name: network}.get)
    model, view = few_shot.load_embeddings(name)
    assert model.output_shape == (None, 32)
    assert (view.size, view.crop, view.interpolation) == ((32, 32), "0.95", "bicubic")


@pytest.mark.slow
def test_the_program(model_file, photos):
    def call(*flags):
        return programs.run("tools.few_shot", f"--model={model_file}", f"--data=folder:{photos}", *flags)

    ended = call("--shots=2,8", "--seeds=3", "--k=1,3")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0] == "| shots | k = 1 | k = 3 | linear |"
    assert lines[3].count("100.00 ± 0.00 %") == 3  # colours are told apart by any features
    assert "18 held-out images, 3 classes, 3 draws from 24 training images; vectors of 32 numbers" in lines[-1]
    ended = call("--shots=9")
    assert ended.returncode == 1 and "fewer training images of blue (8), green (8), red (8)." in ended.stderr
    assert "Traceback" not in ended.stderr.splitlines()[-1]


def test_one_class_is_nothing_to_tell_apart(photos, tmp_path):
    shutil.copytree(photos / "train" / "red", tmp_path / "one" / "red")
    with pytest.raises(ValueError, match="one has one class, 'red'; two or more are to be told apart"):
        few_shot._prepare(f"folder:{tmp_path}/one", ("train", "validation"), 3, few_shot.Draws([1], [1], 1))


def test_images_that_would_find_themselves_are_refused():
    for splits in (("train", "all"), ("train", "train")):
        with pytest.raises(ValueError, match="have images in common, each of which would find itself"):
            few_shot._check_splits(*splits)
    with pytest.raises(ValueError, match="--k=9 is more than the 8 images that are drawn at most"):
        few_shot.check_shots([0, 1] * 9, ["a", "b"], few_shot.Draws(shots=[1, 4], neighbours=[1, 9]))
