"""Exports for other runtimes, each run in its own."""

import keras
import numpy as np
import pytest

from tools.export_saved_model import Options, export

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
def test_another_runtime_gives_the_models_answers(name, fold, model_file, tmp_path):
    folder = export(Options(output=tmp_path, weights=model_file, format=name, fold=fold))
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype("float32")
    expected = keras.models.load_model(model_file).predict(images, verbose=0)
    np.testing.assert_allclose(RUNTIMES[name](folder, images), expected, rtol=1e-3, atol=1e-5)
    assert (folder / "classes.txt").read_text().splitlines() == [str(i) for i in range(7)]
    assert (folder / "model_card.md").exists()
