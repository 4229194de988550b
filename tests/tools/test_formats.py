"""Exports for other runtimes, each run in its own."""

import os
import platform
import subprocess
import sys

import keras
import numpy as np
import pytest

import coatnet_tf
from tests.coatnet_tf import golden_imports
from tests.tools.samples import SIZE, photo
from tools.benchmarks import operations
from tools.benchmarks.inference import as_trained
from tools.export_saved_model import ExportOptions, export
from tools.serving import exported, runtimes, tensorflow_kernels

pytestmark = pytest.mark.slow

PIXELS = np.stack([photo(SIZE, SIZE), photo(SIZE, SIZE)[::-1], photo(SIZE, SIZE)[:, ::-1]]).astype("float32")


def make_model(**fields):
    """A network whose widths TensorFlow has kernels for, as after training."""
    keras.utils.set_random_seed(0)
    config = coatnet_tf.make_config("tiny", (2, 1, 1, 1, 1), (32, 32, 32, 64, 64), **fields)
    return as_trained(coatnet_tf.CoAtNet(config, input_shape=(SIZE, SIZE, 3), classes=7))


def answers(folder, images):
    """What the export answers in its runtime; the test is skipped where that is not installed."""
    module = {"onnx": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert"}
    if name := module.get(exported.format_of(folder)):
        pytest.importorskip(name)
    return exported.load_export(folder).classify(images)


@pytest.fixture(scope="module")
def onnx_folder(model_file, tmp_path_factory):
    """The folded model for ONNX Runtime."""
    output = tmp_path_factory.mktemp("onnx")
    return export(ExportOptions(output=output, weights=model_file, format="onnx", fold=True))


@pytest.fixture(scope="module")
def for_tensorflow(tmp_path_factory):
    """A network with kernels of its own, and its folded export."""
    folder = tmp_path_factory.mktemp("kernels")
    model = make_model()
    model.save(folder / "model.keras")
    return model, export(ExportOptions(output=folder / "folded", weights=folder / "model.keras", fold=True))


@pytest.mark.parametrize("fold", [False, True], ids=["as it is", "folded"])
@pytest.mark.parametrize("name", ["onnx", "openvino", "litert"])
def test_another_runtime_gives_the_models_answers(name, fold, model_file, model, onnx_folder, tmp_path):
    folder = onnx_folder
    if (name, fold) != ("onnx", True):
        folder = export(ExportOptions(output=tmp_path, weights=model_file, format=name, fold=fold))
    images = np.random.default_rng(0).uniform(0, 255, (3, SIZE, SIZE, 3)).astype("float32")
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(answers(folder, images), expected, rtol=1e-3, atol=1e-5)
    assert (folder / "classes.txt").read_text().splitlines() == [str(i) for i in range(7)]
    assert (folder / "model_card.md").exists()


@pytest.mark.parametrize(
    ("network", "fold", "name"),
    [
        ("coatnet_0_rw", True, "onnx"),  # norms that stay, and squeeze-and-excitation before one
        ("coatnet_rmlp_2_rw", True, "openvino"),  # averages in place of largest
        ("coatnet_0_rw", True, "tf_saved_model"),
        ("coatnet_rmlp_2_rw", True, "tf_saved_model"),
        ("kecam_coatnet0", False, "onnx"),  # exact GELU, and a pool that has no equal
    ],
)
def test_networks_of_other_people(network, fold, name, tmp_path):
    """With statistics and biases as after training, which their exact GELU and the norms that stay depend on."""
    keras.utils.set_random_seed(0)
    model = as_trained(golden_imports.make_model(network, classifier_activation="softmax"))
    model.save(tmp_path / "model.keras")
    folder = export(ExportOptions(output=tmp_path / "out", weights=tmp_path / "model.keras", format=name, fold=fold))
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    np.testing.assert_allclose(answers(folder, images), model.predict(images, verbose=0), rtol=1e-3, atol=1e-5)


def test_layers_over_the_last_axis_keep_it(tmp_path):
    """Softmax over channels in a head of one's own; with channels first it would be over columns."""
    config = coatnet_tf.make_config("tiny", (1, 1), (8, 16), "C", kernel_initializer="lecun_normal")
    backbone = coatnet_tf.CoAtNet(config, include_top=False, input_shape=(SIZE, SIZE, 3))
    shares = keras.layers.Activation("softmax")(keras.layers.Conv2D(5, 1)(backbone.output))
    model = keras.Model(backbone.input, keras.layers.GlobalMaxPooling2D()(shares))
    model.save(tmp_path / "model.keras")
    folder = export(ExportOptions(output=tmp_path / "out", weights=tmp_path / "model.keras", format="onnx", fold=True))
    images = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3)).astype("float32")
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(answers(folder, images), expected, rtol=1e-4)


def test_convolutions_have_no_transpositions_around_them(onnx_folder):
    """One before the first, one behind the last of each path to attention, and those within attention."""
    onnx = pytest.importorskip("onnx")
    nodes = onnx.load(onnx_folder / "model.onnx").graph.node
    by_output = {output: node for node in nodes for output in node.output}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert len(convolutions) == 14
    before = [by_output[conv.input[0]].op_type for conv in convolutions if conv.input[0] in by_output]
    assert before.count("Transpose") == 1, before


def test_convolutions_for_litert_give_the_same_numbers(model):
    folded = coatnet_tf.fold_for_inference(model)
    swapped = runtimes.for_runtime(folded, "litert")
    kinds = [type(layer) for layer in swapped.layers]
    assert kinds.count(keras.layers.Conv2D) == 12  # stem, shortcuts, both products of four blocks
    pixels = photo(SIZE, SIZE)[None].astype("float32")
    np.testing.assert_allclose(swapped.predict(pixels, verbose=0), folded.predict(pixels, verbose=0), rtol=1e-5)


@pytest.mark.parametrize(("norm", "norms", "gelus"), [("batch_norm", 5, 3), ("layer_norm", 12, 5)])
def test_layers_for_tensorflow_give_the_same_numbers(norm, norms, gelus):
    """Two LayerNorms of each Transformer block and the head's; of the others the stem's and three of each MBConv."""
    folded = coatnet_tf.fold_for_inference(make_model(conv_norm=norm))
    fused = runtimes.for_runtime(folded, "tf_saved_model")
    kinds = [type(layer) for layer in fused.layers]
    assert kinds.count(tensorflow_kernels.FusedLayerNormalization) == norms
    assert kinds.count(tensorflow_kernels.FusedGelu) == gelus
    assert kinds.count(tensorflow_kernels.FusedSelfAttention) == 2
    assert kinds.count(tensorflow_kernels.GatedConvolution) == 2
    np.testing.assert_allclose(fused.predict(PIXELS, verbose=0), folded.predict(PIXELS, verbose=0), rtol=1e-5)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorFlow uses oneDNN by itself on x86-64 alone")
def test_tensorflow_has_one_kernel_for_each_of_its_layers(for_tensorflow, tmp_path):
    model, folded = for_tensorflow
    model.save(tmp_path / "model.keras")
    plain = export(ExportOptions(output=tmp_path / "plain", weights=tmp_path / "model.keras"))
    single = {"_MklLayerNorm", "_MklFusedBatchMatMulV2", "_MklNativeFusedMatMul"}
    assert single <= operations.milliseconds(str(folded), PIXELS).keys()
    several = {"Tanh", "SquaredDifference", "Rsqrt"}
    assert several <= operations.milliseconds(str(plain), PIXELS).keys()
    assert not several & operations.milliseconds(str(folded), PIXELS).keys()


def test_layers_for_tensorflow_without_those_kernels(for_tensorflow, tmp_path):
    model, folder = for_tensorflow
    np.save(tmp_path / "images.npy", PIXELS)
    program = (
        "import sys, numpy as np, tensorflow as tf\n"
        "serve = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "np.save(sys.argv[3], serve(images=tf.constant(np.load(sys.argv[2])))['probabilities'])\n"
    )
    output = tmp_path / "answers.npy"
    command = [sys.executable, "-c", program, folder, tmp_path / "images.npy", output]
    subprocess.run(command, check=True, env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"})
    np.testing.assert_allclose(np.load(output), model.predict(PIXELS, verbose=0), rtol=1e-4)
