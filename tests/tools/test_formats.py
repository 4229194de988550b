"""Exports for other runtimes, each run in its own."""

import keras
import numpy as np
import pytest

import coatnet_tf
from tests.coatnet_tf import golden_imports
from tests.tools.samples import SIZE, photo
from tools.benchmarks.inference import as_trained
from tools.export_saved_model import Options, export
from tools.serving import runtimes

RUNTIMES = {}


def runtime(function):
    RUNTIMES[function.__name__] = function
    return function


@runtime
def onnx(folder, images):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return session.run(None, {session.get_inputs()[0].name: images})[0]


@runtime
def openvino(folder, images):
    runtime = pytest.importorskip("openvino")
    model = runtime.Core().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return model(images)[0]


@runtime
def litert(folder, images):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(folder / "model.tflite"))
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, images)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.parametrize("fold", [False, True], ids=["as it is", "folded"])
@pytest.mark.parametrize("name", ["onnx", "openvino", "litert"])
def test_another_runtime_gives_the_models_answers(name, fold, model_file, model, tmp_path):
    folder = export(Options(output=tmp_path, weights=model_file, format=name, fold=fold))
    images = np.random.default_rng(0).uniform(0, 255, (3, SIZE, SIZE, 3)).astype("float32")
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(RUNTIMES[name](folder, images), expected, rtol=1e-3, atol=1e-5)
    assert (folder / "classes.txt").read_text().splitlines() == [str(i) for i in range(7)]
    assert (folder / "model_card.md").exists()


def test_int8_in_onnx(model_file, model, tmp_path):
    folder = export(Options(output=tmp_path, weights=model_file, format="onnx", fold=True, quantize="int8"))
    images = np.random.default_rng(0).uniform(0, 255, (3, SIZE, SIZE, 3)).astype("float32")
    found, expected = RUNTIMES["onnx"](folder, images), model.predict(images, verbose=0)
    assert 0 < np.abs(found - expected).max() < 0.05


@pytest.mark.parametrize(
    ("network", "fold", "name"),
    [
        ("coatnet_0_rw", True, "onnx"),  # norms that stay, and squeeze-and-excitation before one
        ("coatnet_rmlp_2_rw", True, "openvino"),  # averages in place of largest
        ("kecam_coatnet0", False, "onnx"),  # exact GELU, and a pool that has no equal
    ],
)
def test_networks_of_other_people(network, fold, name, tmp_path):
    """With statistics and biases as after training, which their exact GELU and the norms that stay depend on."""
    keras.utils.set_random_seed(0)
    model = as_trained(golden_imports.make_model(network, classifier_activation="softmax"))
    model.save(tmp_path / "model.keras")
    folder = export(Options(output=tmp_path / "out", weights=tmp_path / "model.keras", format=name, fold=fold))
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    np.testing.assert_allclose(RUNTIMES[name](folder, images), model.predict(images, verbose=0), rtol=1e-3, atol=1e-5)


def test_layers_over_the_last_axis_keep_it(tmp_path):
    """Softmax over channels in a head of one's own; with channels first it would be over columns."""
    config = coatnet_tf.make_config("tiny", (1, 1), (8, 16), "C", kernel_initializer="lecun_normal")
    backbone = coatnet_tf.CoAtNet(config, include_top=False, input_shape=(SIZE, SIZE, 3))
    shares = keras.layers.Activation("softmax")(keras.layers.Conv2D(5, 1)(backbone.output))
    model = keras.Model(backbone.input, keras.layers.GlobalMaxPooling2D()(shares))
    model.save(tmp_path / "model.keras")
    folder = export(Options(output=tmp_path / "out", weights=tmp_path / "model.keras", format="onnx", fold=True))
    images = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3)).astype("float32")
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(RUNTIMES["onnx"](folder, images), expected, rtol=1e-4)


def test_convolutions_have_no_transpositions_around_them(model_file, tmp_path):
    """One before the first, one behind the last of each path to attention, and those within attention."""
    onnx = pytest.importorskip("onnx")
    folder = export(Options(output=tmp_path, weights=model_file, format="onnx", fold=True))
    nodes = onnx.load(folder / "model.onnx").graph.node
    by_output = {output: node for node in nodes for output in node.output}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert len(convolutions) == 14
    before = [by_output[conv.input[0]].op_type for conv in convolutions if conv.input[0] in by_output]
    assert before.count("Transpose") == 1, before


@pytest.mark.parametrize(
    ("runtime", "kind", "count"),
    [
        ("tf_saved_model", "FusedGelu", 3),
        ("litert", "Conv2D", 12),
    ],
)
def test_other_layers_give_the_same_numbers(model, runtime, kind, count):
    folded = coatnet_tf.fold_for_inference(model)
    swapped = runtimes.for_runtime(folded, runtime)
    kinds = [type(layer).__name__ for layer in swapped.layers]
    assert kinds.count(kind) == count  # three GELUs; stem, shortcuts, both products of four blocks
    pixels = photo(SIZE, SIZE)[None].astype("float32")
    np.testing.assert_allclose(swapped.predict(pixels, verbose=0), folded.predict(pixels, verbose=0), rtol=1e-5)
