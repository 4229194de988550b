"""What becomes of a model before it is served: another dtype, probabilities of its scores, images in [0, 255]."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import coatnet_tf
from tests.tools.samples import SIZE, photo, small_config
from tools import model_files
from tools.benchmarks.inference import as_trained
from tools.export_saved_model import ExportOptions, export
from tools.serving import runtimes, served_model

PIXELS = np.stack([photo(SIZE, SIZE, seed=seed) for seed in range(16)]).astype("float32")
CONFIG = coatnet_tf.make_config("small", (1, 1, 1), (8, 16, 32), "C-T", head_size=16, kernel_initializer="lecun_normal")


def small(**arguments):
    keras.utils.set_random_seed(0)
    return coatnet_tf.CoAtNet(CONFIG, input_shape=(SIZE, SIZE, 3), **arguments)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def served(model, folder, pixels=PIXELS, **options):
    """What the export of a model answers, and what its card says."""
    model.save(folder / "model.keras")
    version = export(ExportOptions(output=folder / "out", weights=folder / "model.keras", **options))
    signature = tf.saved_model.load(str(version)).signatures["serving_default"]
    return signature(images=tf.constant(pixels))["probabilities"].numpy(), (version / "model_card.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"dtype": "bfloat16"}, {"dtype": "bfloat16", "fold": True}, {"quantize": "int8", "fold": True}]
)
def test_bfloat16_and_int8_agree_with_float32(changes, tmp_path):
    model = small(classes=7)
    found, _ = served(model, tmp_path, **changes)
    expected = model.predict(PIXELS, verbose=0)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 0.05
    assert not np.array_equal(found, expected)


def nested():
    """A CoAtNet in a model of one's own, as Keras' guide to transfer learning builds it."""
    base = small(include_top=False, pooling="avg")
    image = keras.Input((SIZE, SIZE, 3))
    return keras.Model(image, keras.layers.Dense(5, activation="softmax", name="own")(base(image)))


def test_a_nested_network_is_served_at_another_size(tmp_path, caplog):
    """Its tables are resized, and the layers around it follow."""
    larger, _ = served(nested(), tmp_path, np.repeat(PIXELS, 2, axis=2), image_size=(SIZE, 2 * SIZE))
    assert f"at {SIZE} x {2 * SIZE}: bias tables resized: s2_block01" in caplog.text
    base = coatnet_tf.CoAtNet(CONFIG, input_shape=(SIZE, 2 * SIZE, 3), include_top=False, pooling="avg")
    image = keras.Input((SIZE, 2 * SIZE, 3))
    expected = keras.Model(image, keras.layers.Dense(5, activation="softmax", name="own")(base(image)))
    nested().save(tmp_path / "nested.keras")
    coatnet_tf.load_weights(expected, tmp_path / "nested.keras", resize=True)
    np.testing.assert_allclose(larger, expected.predict(np.repeat(PIXELS, 2, axis=2), verbose=0), rtol=1e-4)


@pytest.mark.parametrize(("policy", "weights"), [("mixed_bfloat16", "float32"), ("bfloat16", "bfloat16")])
def test_nested_models_compute_in_bfloat16_too(policy, weights):
    model = nested()
    copy = served_model.in_bfloat16(model, policy)
    layers = list(copy._flatten_layers(include_self=False))
    blocks = [layer for layer in layers if isinstance(layer, coatnet_tf.layers.MBConv)]
    assert len(blocks) == 1
    for layer in (*blocks, *(layer for layer in layers if isinstance(layer, coatnet_tf.layers.TransformerBlock))):
        assert layer.compute_dtype == "bfloat16"
    assert blocks[0].expand_conv.kernel.dtype == weights
    assert copy.get_layer("own").compute_dtype == "float32"
    found, expected = copy.predict(PIXELS, verbose=0), model.predict(PIXELS, verbose=0)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.05


def test_a_quantised_model_is_refused_in_bfloat16():
    model = coatnet_tf.CoAtNet(small_config(), input_shape=(SIZE, SIZE, 3), classes=3)
    model.quantize("int8")
    with pytest.raises(ValueError, match="is quantised, which bfloat16 would undo; export it as it is"):
        served_model.in_bfloat16(model, "bfloat16")


@pytest.mark.filterwarnings("ignore:.*bias tables resized")
@pytest.mark.parametrize("kind", ["sequential", "input_tensor"])
def test_models_built_in_other_ways_change_their_size_and_range(kind):
    """As of those that are functional; with images in [-1, 1] for the ones without preprocessing."""
    image, options = keras.Input((SIZE, SIZE, 3)), {"include_preprocessing": False, "classes": 3}
    flat = coatnet_tf.CoAtNet(small_config(), input_tensor=image, **options)
    model = flat if kind == "input_tensor" else keras.Sequential([keras.Input((SIZE, SIZE, 3)), *flat.layers[1:]])
    pixels = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3)).astype("float32")
    whole = model_files.with_preprocessing(model, Path("a.keras"), "tf")
    np.testing.assert_allclose(whole(pixels), flat(coatnet_tf.rescale(pixels)), atol=1e-5)
    larger = served_model.at_size(whole, Path("a.keras"), (64, 64))
    assert larger.input_shape == (None, 64, 64, 3)
    same = served_model.at_size(whole, Path("a.keras"), (SIZE, SIZE))
    np.testing.assert_allclose(same(pixels), whole(pixels), atol=1e-5)


def test_a_folded_nested_model_computes_in_bfloat16():
    model = nested()
    copy = served_model.in_bfloat16(coatnet_tf.fold_for_inference(model), "bfloat16")
    dtypes = {layer.compute_dtype for layer in copy._flatten_layers(include_self=False) if layer.weights}
    assert dtypes - {"float32"} == {"bfloat16"} and copy.get_layer("own").compute_dtype == "float32"
    found, expected = copy.predict(PIXELS, verbose=0), model.predict(PIXELS, verbose=0)
    assert 0 < np.abs(found - expected).max() < 0.05


def test_logits_are_served_as_probabilities_and_that_is_said(tmp_path, caplog):
    model = small(classes=3, classifier_activation=None)
    found, card = served(model, tmp_path, fold=True)
    np.testing.assert_allclose(found, softmax(model.predict(PIXELS, verbose=0)), rtol=1e-4)
    assert "model.keras gives logits; their softmax is exported" in caplog.text
    assert "| Probabilities | softmax of the model's logits |" in card


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_score_is_two_classes(activation, tmp_path):
    model = small(classes=1, classifier_activation=activation)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    found, card = served(model, tmp_path, labels=tmp_path / "labels.txt")
    score = model.predict(PIXELS, verbose=0)
    dog = score if activation else 1 / (1 + np.exp(-score))
    np.testing.assert_allclose(found, np.concatenate([1 - dog, dog], axis=-1), rtol=1e-4)
    assert "| Classes | 2 |" in card and "of both classes, from the score of the second" in card


def test_probabilities_stay_as_they_are(model, model_file):
    several_labels = small(classes=3, classifier_activation="sigmoid")
    cast = keras.Model(model.input, keras.layers.Activation("linear", dtype="float32")(model.output))
    for given in (model, several_labels, nested(), cast):
        found, added = served_model.with_probabilities(given, model_file)
        assert found is given and added == ""


def test_models_without_preprocessing_are_served_images_of_0_to_255(tmp_path):
    config = dataclasses.replace(CONFIG, preprocessing="torch")
    whole, bare = (
        coatnet_tf.CoAtNet(config, input_shape=(SIZE, SIZE, 3), classes=3, include_preprocessing=include)
        for include in (True, False)
    )
    bare.set_weights(whole.get_weights())
    with pytest.raises(ValueError, match="its name, small, is of no known network, .* Give --preprocessing=tf"):
        served(bare, tmp_path)
    found, _ = served(bare, tmp_path, preprocessing="torch", fold=True)
    np.testing.assert_allclose(found, whole.predict(PIXELS, verbose=0), rtol=1e-4)


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "litert", "tf_saved_model"])
@pytest.mark.parametrize("strides", [(1, 2, 2), (2, 2, 1)])
def test_images_as_wide_as_they_have_channels(runtime, strides):
    """Keras' TensorFlow backend takes a bias of channels in front for one over the width, where both are equal."""
    keras.utils.set_random_seed(0)
    options = {"strides": strides, "head_size": 16, "kernel_initializer": "lecun_normal"}
    config = coatnet_tf.make_config("wide", (1, 1, 1), (8, 16, 32), "C-T", **options)
    model = as_trained(coatnet_tf.CoAtNet(config, input_shape=(32, 32, 3), classes=4))
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    rewritten = runtimes.for_runtime(coatnet_tf.fold_for_inference(model), runtime)
    np.testing.assert_allclose(rewritten(images), model(images), atol=1e-5)
