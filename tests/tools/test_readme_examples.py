"""The README's examples of fine-tuning in plain Keras, run as they stand there on a small network."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

import coatnet_tf

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
@pytest.mark.parametrize("with_lora", [False, True])
def test_fine_tuning_in_plain_keras(with_lora, tmp_path, monkeypatch):
    blocks = re.findall("```python\n(.*?)```", README.read_text(), re.DOTALL)
    begin, lora, end = (
        next(b for b in blocks if word in b) for word in ("from_directory", "enable_lora", "model.fit(t")
    )
    monkeypatch.chdir(tmp_path)
    config = coatnet_tf.make_config("coatnet-0", (1, 1, 1, 1, 1), (8, 8, 8, 16, 16), head_size=8)
    monkeypatch.setitem(coatnet_tf.FAMILY, "coatnet-0", config)
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
