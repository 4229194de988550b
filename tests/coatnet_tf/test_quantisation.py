"""Models that Keras quantised come back from their files with the same outputs."""

import gc

import keras
import numpy as np
import pytest

import coatnet_tf

pytestmark = pytest.mark.slow

SHAPE = (32, 32, 3)
TINY = coatnet_tf.make_config("tiny", (1, 1, 1), (8, 8, 16), "CT", head_size=8, kernel_initializer="lecun_normal")


@pytest.fixture(autouse=True)
def _quick_collections():
    """Keras collects garbage for each kernel that it replaces; what TensorFlow imported need not be looked through."""
    gc.freeze()
    yield
    gc.unfreeze()


def make(kind):
    if kind == "plain":
        return coatnet_tf.CoAtNet(TINY, input_shape=SHAPE, classes=3, classifier_activation=None)
    if kind == "rmlp":
        return coatnet_tf.CoAtNet(TINY, input_shape=SHAPE, classes=3, relative_mlp_units=8)
    if kind == "folded":
        return coatnet_tf.fold_for_inference(coatnet_tf.CoAtNet(TINY, input_shape=SHAPE, classes=3))
    backbone = coatnet_tf.CoAtNetBackbone(TINY, input_shape=SHAPE, name="backbone")
    if kind == "backbone":
        return backbone
    image = keras.Input(SHAPE)
    return keras.Model(image, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(backbone(image))))


def outputs(model):
    images = np.random.default_rng(0).uniform(0, 255, (2, *SHAPE)).astype("float32")
    return keras.ops.convert_to_numpy(model(images))


def quantised_layers(model):
    return [
        (layer.path, layer.quantization_mode)
        for layer in model._flatten_layers()
        if layer.quantization_mode and layer.weights
    ]


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(kind, "int8") for kind in ("plain", "rmlp", "folded", "backbone", "nested")]
    + [("folded", "int4"), ("nested", "int4")],
)
def test_saved_and_loaded(tmp_path, kind, mode):
    model = make(kind)
    before = outputs(model)
    model.quantize(mode)
    expected = outputs(model)
    assert np.abs(expected - before).max() > 0
    assert len(quantised_layers(model)) >= 8
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert quantised_layers(loaded) == quantised_layers(model)
    np.testing.assert_array_equal(outputs(loaded), expected)
    copy = type(loaded).from_config(loaded.get_config())  # from a model that was itself loaded
    for file in ("model.keras", "model.weights.h5"):
        coatnet_tf.load_weights(copy, tmp_path / file)
        np.testing.assert_array_equal(outputs(copy), expected)


def test_a_preset(tmp_path):
    backbone = make("backbone")
    backbone.quantize("int8")
    backbone.save_to_preset(tmp_path)
    np.testing.assert_array_equal(outputs(coatnet_tf.CoAtNetBackbone.from_preset(tmp_path)), outputs(backbone))


def test_layers_that_were_left_out(tmp_path):
    """Each layer keeps its own mode."""
    if "filters" not in keras.Model.quantize.__code__.co_varnames:
        pytest.skip("this Keras quantises all layers")
    model = make("plain")
    model.quantize("int8", filters=".*query|.*key")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    names = {path.rpartition("/")[2] for path, _ in quantised_layers(loaded)}
    assert names == {"query", "key"}
    np.testing.assert_array_equal(outputs(loaded), outputs(model))


def test_a_configuration_of_quantisers_is_kept(tmp_path):
    if not hasattr(keras.quantizers, "Int4QuantizationConfig"):
        pytest.skip("this Keras has no configurations of quantisers")
    model = make("plain")
    model.quantize(config=keras.quantizers.Int4QuantizationConfig(block_size=8))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs(loaded), outputs(model))
