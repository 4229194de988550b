"""One contender of the inference benchmark, in a process of its own.

    python -m tools.benchmarks.worker KIND PATH

It loads, answers a first batch of one image and writes a line of JSON, `{"seconds": time of both, "answer": [...]}`.
For each line on its standard input, a batch size, it answers one batch and writes the seconds that took. So do the
programs of `peers/`.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tools.serving import exported

SIZE = 224
CEILING_SIDE = 2048  # of the square matrices whose product is the ceiling

Classify = Callable[[np.ndarray], Any]


def keras_call(path: str) -> Classify:
    import keras

    import coatnet_tf  # noqa: F401  (registers the layers)

    model = keras.models.load_model(path, compile=False)
    return lambda images: np.asarray(model(images, training=False))


def tf_function(path: str) -> Classify:
    import keras
    import tensorflow as tf

    import coatnet_tf  # noqa: F401  (registers the layers)

    model = keras.models.load_model(path, compile=False)
    shape = tf.TensorSpec((None, SIZE, SIZE, 3))
    call = tf.function(lambda images: model(images, training=False), input_signature=[shape])
    return lambda images: call(images).numpy()


def _of_export(load: Callable[..., exported.ExportedModel], *arguments: str) -> Callable[[str], Classify]:
    return lambda path: load(Path(path), *arguments).classify


def _ceiling(dtype: str) -> Classify:
    import tensorflow as tf

    left, right = (tf.cast(tf.random.normal((CEILING_SIDE, CEILING_SIDE)), dtype) for _ in range(2))
    product = tf.function(tf.matmul)
    return lambda images: product(left, right).numpy()


def ceiling(path: str) -> Classify:
    return _ceiling("float32")


def ceiling_bfloat16(path: str) -> Classify:
    return _ceiling("bfloat16")


# What each imports first, which is not counted as loading.
KINDS: dict[str, tuple[Callable[[str], Classify], tuple[str, ...]]] = {
    "keras_call": (keras_call, ("keras", "coatnet_tf")),
    "tf_function": (tf_function, ("keras", "coatnet_tf")),
    "saved_model": (_of_export(exported.load_saved_model), ("tensorflow",)),
    "onnx": (_of_export(exported.load_onnx), ("onnxruntime",)),
    "openvino": (_of_export(exported.load_openvino), ("openvino",)),
    "openvino_bfloat16": (_of_export(exported.load_openvino, "bf16"), ("openvino",)),
    "litert": (_of_export(exported.load_litert), ("ai_edge_litert.interpreter",)),
    "ceiling": (ceiling, ("tensorflow",)),
    "ceiling_bfloat16": (ceiling_bfloat16, ("tensorflow",)),
}


def serve(make: Callable[[], Classify]) -> None:
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
