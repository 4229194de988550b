"""One contender of the inference benchmark, in a process of its own.

    python -m tools.benchmarks.worker KIND PATH

It loads, answers a first batch of one image and writes a line of JSON, `{"seconds": time of both, "answer": [...]}`.
For each line on its standard input, a batch size, it answers one batch and writes the seconds that took. So do the
programs of `peers/`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIZE = 224
CEILING_SIDE = 2048  # of the square matrices whose product is the ceiling

Answer = Callable[[np.ndarray], Any]


def keras_call(path: str) -> Answer:
    import keras

    import coatnet_tf  # noqa: F401  (registers the layers)

    model = keras.models.load_model(path, compile=False)
    return lambda images: np.asarray(model(images, training=False))


def tf_function(path: str) -> Answer:
    import keras
    import tensorflow as tf

    import coatnet_tf  # noqa: F401  (registers the layers)

    model = keras.models.load_model(path, compile=False)
    shape = tf.TensorSpec((None, SIZE, SIZE, 3))
    call = tf.function(lambda images: model(images, training=False), input_signature=[shape])
    return lambda images: call(images).numpy()


def saved_model(path: str) -> Answer:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]
    serve.owner = loaded  # which must live as long
    return lambda images: serve(images=tf.constant(images))["probabilities"].numpy()


def onnx(path: str) -> Answer:
    import onnxruntime

    session = onnxruntime.InferenceSession(f"{path}/model.onnx")
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _openvino(path: str, precision: str) -> Answer:
    import openvino

    # Latency, as one caller after another sees it.
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    (file,) = [file for file in (f"{path}/model.xml", f"{path}/model.onnx") if os.path.exists(file)]
    model = openvino.Core().compile_model(file, "CPU", settings)
    return lambda images: model(images)[0]


def openvino(path: str) -> Answer:
    return _openvino(path, "f32")


def openvino_bfloat16(path: str) -> Answer:
    return _openvino(path, "bf16")


def litert(path: str) -> Answer:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(f"{path}/model.tflite", num_threads=os.cpu_count())
    index = interpreter.get_input_details()[0]["index"]

    shape = ()

    def answer(images: np.ndarray) -> np.ndarray:
        nonlocal shape
        if images.shape != shape:
            shape = images.shape
            interpreter.resize_tensor_input(index, shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(index, images)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return answer


def _ceiling(dtype: str) -> Answer:
    import tensorflow as tf

    left, right = (tf.cast(tf.random.normal((CEILING_SIDE, CEILING_SIDE)), dtype) for _ in range(2))
    product = tf.function(tf.matmul)
    return lambda images: product(left, right).numpy()


def ceiling(path: str) -> Answer:
    return _ceiling("float32")


def ceiling_bfloat16(path: str) -> Answer:
    return _ceiling("bfloat16")


# What each imports first, which is not counted as loading.
KINDS: dict[str, tuple[Callable[[str], Answer], tuple[str, ...]]] = {
    "keras_call": (keras_call, ("keras", "coatnet_tf")),
    "tf_function": (tf_function, ("keras", "coatnet_tf")),
    "saved_model": (saved_model, ("tensorflow",)),
    "onnx": (onnx, ("onnxruntime",)),
    "openvino": (openvino, ("openvino",)),
    "openvino_bfloat16": (openvino_bfloat16, ("openvino",)),
    "litert": (litert, ("ai_edge_litert.interpreter",)),
    "ceiling": (ceiling, ("tensorflow",)),
    "ceiling_bfloat16": (ceiling_bfloat16, ("tensorflow",)),
}


def serve(make: Callable[[], Answer]) -> None:
    """Answers batches until the standard input ends; what is imported before is not counted as loading."""
    output, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not come between
    generator = np.random.default_rng(0)
    started = time.perf_counter()
    answer = make()
    first = answer(generator.uniform(0, 255, (1, SIZE, SIZE, 3)).astype("float32"))
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "answer": np.ravel(first).tolist()}), file=output, flush=True)
    for line in sys.stdin:
        images = generator.uniform(0, 255, (int(line), SIZE, SIZE, 3)).astype("float32")
        started = time.perf_counter()
        answer(images)
        print(time.perf_counter() - started, file=output, flush=True)


if __name__ == "__main__":
    kind, path = sys.argv[1:]
    make_answer, modules = KINDS[kind]
    for module in modules:
        importlib.import_module(module)
    serve(lambda: make_answer(path))
