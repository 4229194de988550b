"""The examples of README and docs/ in Python, run as they stand there, on small networks."""

import functools
import os
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import coatnet_tf

ROOT = Path(__file__).parents[2]


def examples_of(page):
    return re.findall("```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.fixture
def small(monkeypatch):
    """A small network that has the name of CoAtNet-0."""
    config = coatnet_tf.make_config("coatnet-0", (1, 1, 1, 1, 1), (8, 8, 8, 16, 16), head_size=8)
    monkeypatch.setitem(coatnet_tf.FAMILY, "coatnet-0", config)
    monkeypatch.setattr(coatnet_tf, "CoAtNet0", functools.partial(coatnet_tf.CoAtNet, config))


@pytest.mark.slow
@pytest.mark.parametrize(
    "page, shown, printed",
    [
        ("README.md", ["model.compile"], ""),
        ("docs/models.md", ["model.compile", "make_config", "profile(", "UpSampling2D"], r"coatnet-7"),
        ("docs/serving.md", ["fold_for_inference"], r"^[\d.]+e-0[5-9]$"),
        ("docs/sharing.md", ["CoAtNetImageClassifier", "ImageClassifier.from_preset", "RetinaNetObjectDetector"], ""),
    ],
)
def test_examples_run(page, shown, printed, small, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", os.devnull)
    monkeypatch.chdir(tmp_path)
    blocks, names = examples_of(page), {}
    for word in shown:
        exec(next(block for block in blocks if word in block), names)
    assert re.search(printed, capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("with_lora", [False, True])
def test_fine_tuning_in_plain_keras(with_lora, small, tmp_path, monkeypatch):
    blocks = examples_of("docs/own_images.md")
    begin, lora, end = (
        next(b for b in blocks if word in b) for word in ("from_directory", "enable_lora", "model.fit(t")
    )
    monkeypatch.chdir(tmp_path)
    trained = coatnet_tf.CoAtNet0(input_shape=(224, 224, 3))
    trained.save_weights("coatnet-0.weights.h5")
    for color, name in enumerate(("red", "green", "blue")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(5):
            keras.utils.save_img(
                tmp_path / "photos" / name / f"{index}.png",
                np.eye(3)[color] * np.full((9, 9, 3), 200 + index),
                scale=False,
            )
    names: dict = {}
    exec(begin, names)
    if with_lora:
        exec(lora, names)
    exec(end.replace("epochs=30", "epochs=2"), names)
    model = names["model"]

    before = {variable.path: variable.numpy() for variable in trained.weights}
    same = [v.path for v in model.weights if np.array_equal(v, before.get(v.path))]
    head = ("head", "predictions")
    assert [path for path in before if not path.startswith(head)] == [
        path for path in same if not path.startswith(head)
    ]
    assert not [path for path in same if path.startswith(head) and path.endswith("kernel")]
    plain = coatnet_tf.CoAtNet0(input_shape=(224, 224, 3), classes=3)
    coatnet_tf.load_weights(plain, "mine.keras")
    images = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)).astype("float32")
    np.testing.assert_allclose(plain(images), model(images), atol=1e-6)
    changed = np.abs(
        plain.get_layer("s4_block01").attention.query.kernel - before["s4_block01/s4_block01_attention/query/kernel"]
    )
    assert (changed.max() > 0) == with_lora
