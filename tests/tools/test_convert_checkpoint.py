"""Other people's files become Keras files."""

import keras
import numpy as np
import pytest
import safetensors.numpy

import coatnet_tf
from coatnet_tf.pretrained import configs
from experiments import workdir
from tests.coatnet_tf import golden_imports as golden
from tools.convert_checkpoint import convert, convert_to_timm

NAME = "timm/coatnet_0_rw_64"


@pytest.fixture
def file(monkeypatch, tmp_path):
    monkeypatch.setitem(configs.RELATIVES, "coatnet_0_rw", golden.small_config("coatnet_0_rw"))
    tensors, _, _ = golden.read("coatnet_0_rw")
    path = tmp_path / "small.safetensors"
    safetensors.numpy.save_file(tensors, path)
    return path


def assert_outputs(model):
    _, images, logits = golden.read("coatnet_0_rw")
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(model(images.astype("float32")), probabilities, atol=1e-6)


def test_a_whole_model(file, tmp_path):
    convert(NAME, file, tmp_path / "a.keras")
    assert_outputs(keras.models.load_model(tmp_path / "a.keras"))


def test_weights_alone(file, tmp_path):
    convert(NAME, file, tmp_path / "a.weights.h5")
    model = coatnet_tf.CoAtNet("coatnet_0_rw", input_shape=(64, 64, 3), classes=10)
    coatnet_tf.load_weights(model, tmp_path / "a.weights.h5")
    assert_outputs(model)


def test_another_size(file, tmp_path):
    convert(NAME, file, tmp_path / "a.keras", image_size=96)
    assert keras.models.load_model(tmp_path / "a.keras").input_shape == (None, 96, 96, 3)


@pytest.mark.parametrize("of_run", [True, False])
def test_back_to_timm(file, tmp_path, of_run):
    convert(NAME, file, tmp_path / workdir.MODEL)
    (tmp_path / workdir.CLASSES).write_text("a\n" * 10)
    convert_to_timm(tmp_path if of_run else tmp_path / workdir.MODEL, NAME, tmp_path / "back.safetensors")
    theirs, ours = (safetensors.numpy.load_file(path) for path in (file, tmp_path / "back.safetensors"))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[n], theirs[n]) for n in theirs if not n.endswith("num_batches_tracked"))


def test_what_is_not_the_network_is_refused(file, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file .*none.keras"):
        convert_to_timm(tmp_path / "none.keras", NAME, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="--output must end in .safetensors"):
        convert_to_timm(tmp_path / "none.keras", NAME, tmp_path / "a.keras")
    config = coatnet_tf.make_config("t", (1,) * 5, (8, 16, 16, 32, 32))
    coatnet_tf.CoAtNet(config, input_shape=(64, 64, 3), classes=3).save(tmp_path / "t.keras")
    with pytest.raises(ValueError, match="'t' is not timm/coatnet_0_rw_64: .*paper's own CoAtNets have no equal"):
        convert_to_timm(tmp_path / "t.keras", NAME, tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_bad_outputs_are_refused(file, tmp_path):
    (tmp_path / "there.keras").touch()
    for output, error, message in (
        (tmp_path / "a.h5", ValueError, "--output must end in .keras or .weights.h5"),
        (tmp_path / "there.keras", FileExistsError, "exists; remove it"),
        (tmp_path / "none" / "a.keras", FileNotFoundError, "There is no folder"),
    ):
        with pytest.raises(error, match=message):
            convert(NAME, file, output)
