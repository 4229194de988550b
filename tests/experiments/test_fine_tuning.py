"""Beginning with other weights: another resolution, other classes, and what is refused."""

import keras
import ml_collections
import numpy as np
import pytest
import safetensors.numpy

import coatnet_tf
from coatnet_tf.pretrained import catalog, configs
from coatnet_tf.weights import resize_table
from experiments import loop, workdir
from experiments.engine import connect
from experiments.model_config import make_model_config
from tests.coatnet_tf import golden_imports as golden

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]


@pytest.fixture
def pretrained(config, finished_run):
    """The folder of a run to begin with; fine-tuning is of one epoch."""
    config.epochs = 1
    return finished_run


def build(config, folder):
    devices = connect("one_device")
    source = loop.prepare(config, folder, devices)
    return loop.build(config, folder, devices, source)[0]


@pytest.mark.parametrize("is_file", [False, True])
def test_weights_are_loaded_across_resolutions(config, pretrained, tmp_path, is_file, caplog):
    config.init_from = str(pretrained / workdir.MODEL if is_file else pretrained)
    config.image_size = 16
    engine = build(config, tmp_path / "tuned")
    table = "s2_block01/s2_block01_attention/relative_bias/table"
    assert f"bias tables resized: {table} from (1, 3, 3) to (1, 7, 7)" in caplog.text
    stored = {v.path: np.array(v) for v in keras.models.load_model(pretrained / workdir.MODEL).weights}
    for variable in engine.model.weights:
        expected = stored[variable.path]
        if variable.path.endswith("table"):
            expected = resize_table(expected, (7, 7))
        np.testing.assert_array_equal(variable, expected, err_msg=variable.path)
    engine.begin(0)
    engine.train(2)
    assert 0 < float(engine.loss.result()) < 10 and not engine.skipped.total


def test_resumed_fine_tuning_does_not_begin_again(run, config, pretrained, tmp_path):
    config.init_from = str(pretrained)
    config.epochs = 2
    run(config, tmp_path / "tuned", connect("one_device"))
    (pretrained / workdir.MODEL).write_bytes((tmp_path / "tuned" / workdir.MODEL).read_bytes())
    for path in (tmp_path / "tuned" / workdir.CHECKPOINTS).glob("ckpt-10*"):
        path.unlink()
    before = workdir.read_metrics(tmp_path / "tuned")
    run(config, tmp_path / "tuned", connect("one_device"))
    after = workdir.read_metrics(tmp_path / "tuned")
    assert [row["train_loss"] for row in after] == [row["train_loss"] for row in before]


def test_other_classes_need_a_new_head(config, pretrained, tmp_path, caplog):
    for name in ("a", "b", "c"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(12):
            keras.utils.save_img(tmp_path / "images" / name / f"{index}.png", np.full((8, 8, 3), 20 * index))
    config.dataset.name = f"folder:{tmp_path / 'images'}"
    config.batch_size = 8
    config.init_from = str(pretrained)
    with pytest.raises(ValueError, match=r"is \(3, 3, 3, 8\) in the model and \(3, 3, 1, 8\).*") as refused:
        build(config, tmp_path / "tuned")  # grey digits, coloured folder
    assert str(pretrained / workdir.MODEL) in str(refused.value)  # the user's file, and no copy of it
    assert "resize=True" not in str(refused.value) and "reset_head=True" in str(refused.value)
    config.dataset.name = "digits"
    model = keras.models.load_model(pretrained / workdir.MODEL)
    trained = model.get_layer("predictions").kernel
    config.reset_head = True
    engine = build(config, tmp_path / "tuned")
    assert (np.array(engine.model.get_layer("predictions").kernel) != trained).any()
    assert "begun anew: predictions/kernel, predictions/bias" in caplog.text


def test_the_network_in_ones_own_model_begins_a_run(config, tmp_path, caplog):
    """As Keras' guide builds it, on colours: its CoAtNet is found, and fits grey images."""
    base = coatnet_tf.CoAtNet(make_model_config(config.model), input_shape=(8, 8, 3), include_top=False, name="base")
    image = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(base(image))
    keras.Model(image, keras.layers.Dense(2, name="mine")(x)).save(tmp_path / "whole.keras")
    base.save_weights(tmp_path / "base.weights.h5")
    config.reset_head = True
    for name in ("whole.keras", "base.weights.h5"):
        caplog.clear()
        config.init_from = str(tmp_path / name)
        model = build(config, tmp_path / "tuned").model
        for mine, theirs in zip(model.weights, base.weights, strict=False):
            theirs = np.array(theirs)
            theirs = theirs.sum(axis=2, keepdims=True) if mine.shape != theirs.shape else theirs
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)
        assert "stem_conv01/kernel summed for 1 channel; begun anew: head_norm/gamma" in caplog.text
    config.init_from = str(tmp_path / "whole.keras")
    config.reset_head = False
    with pytest.raises(ValueError, match=rf"The weights in '{tmp_path}/whole.keras' do not fit .* reset_head=True"):
        build(config, tmp_path / "tuned")


def test_missing_weights_are_refused_before_any_work(config, tmp_path):
    config.init_from = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="neither a weights file .* nor the folder of a finished run"):
        build(config, tmp_path / "run")
    (tmp_path / "unfinished").mkdir()
    config.init_from = str(tmp_path / "unfinished")
    with pytest.raises(FileNotFoundError, match="neither a weights file .* nor the folder of a finished run"):
        build(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_published_weights_begin_a_run(config, tmp_path, monkeypatch, caplog):
    """As `--init_from=timm/...` would after a download, on coloured images of 64 x 64 of one's own."""
    name = "timm/coatnet_bn_0_rw_224.sw_in1k"
    monkeypatch.setitem(configs.RELATIVES, "coatnet_bn_0_rw", golden.small_config("coatnet_bn_0_rw"))
    tensors, _, _ = golden.read("coatnet_bn_0_rw")
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    monkeypatch.setattr(catalog, "download", lambda entry: str(tmp_path / "model.safetensors"))
    for index, label in enumerate(("a", "b", "c")):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(12):
            pixels = np.full((64, 64, 3), 20 * number)
            pixels[..., index] = 255
            keras.utils.save_img(tmp_path / "images" / label / f"{number}.png", pixels, scale=False)
    config.dataset.name, config.dataset.train_split = f"folder:{tmp_path / 'images'}", "train"
    config.dataset.eval_split, config.image_size = "validation", 64
    config.batch_size, config.epochs, config.augment.translate = 8, 1, 0
    config.init_from, config.reset_head = name, True
    config.model = ml_collections.ConfigDict({"name": "coatnet_bn_0_rw", "drop_path_rate": 0.1})

    engine = build(config, tmp_path / "tuned")
    expected = golden.make_model("coatnet_bn_0_rw", classes=3)
    golden.load(expected, "coatnet_bn_0_rw", tensors, reset_head=True)
    for variable, value in zip(engine.model.weights, expected.weights, strict=True):
        if not variable.path.startswith("predictions"):
            np.testing.assert_array_equal(variable, value, err_msg=variable.path)
    assert "begun anew: predictions/kernel, predictions/bias" in caplog.text
    engine.begin(0)
    engine.train(2)
    assert 0 < float(engine.loss.result()) < 10 and not engine.skipped.total


def test_unknown_names_are_refused_before_any_work(config, tmp_path):
    config.init_from = "timm/coatnet_9_rw_224.sw_in1k"
    with pytest.raises(ValueError, match="There are no trained weights 'timm/coatnet_9_rw_224.sw_in1k'"):
        loop.prepare(config, tmp_path / "tuned", connect("one_device"))
