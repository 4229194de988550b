"""Exported models as their own runtimes answer them, without `coatnet_tf`.

Each runtime is imported where it is needed: none of them but TensorFlow has to be installed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# What Keras exports, and the file that tells it.
FORMATS = {"tf_saved_model": "saved_model.pb", "onnx": "model.onnx", "openvino": "model.xml", "litert": "model.tflite"}
_WEIGHTS = {"tf_saved_model": "variables/*", "onnx": "model.onnx", "openvino": "model.bin", "litert": "model.tflite"}


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """An exported model that its runtime has loaded.

    Args:
        image_shape: `(height, width, channels)` of its images.
        dtype: Of its images, `"float32"` or `"uint8"`.
        classify: One image or more in [0, 255], `[n, height, width, channels]` of that dtype, to probabilities,
            float32 `[n, classes]`, or to numbers.
    """

    image_shape: tuple[int, int, int]
    dtype: str
    classify: Callable[[np.ndarray], np.ndarray]


def load_export(folder: Path) -> ExportedModel:
    """Loads an export in the runtime that it is for.

    Args:
        folder: Folder of a version, as `tools.export_saved_model` writes it.

    Raises:
        FileNotFoundError: If the folder holds no export.
        ValueError: If it is damaged, or a SavedModel without the signature `serving_default` of images.
    """
    loaders = {"tf_saved_model": load_saved_model, "onnx": load_onnx, "openvino": load_openvino, "litert": load_litert}
    return loaders[format_of(folder)](folder)


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[None]:
    """Says of what a runtime cannot load that it is not whole."""
    try:
        yield
    except Exception as error:  # each runtime has its own
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{folder} cannot be loaded: it is damaged, or not all of its files were copied; copy it again ({said})."
        ) from error


def format_of(folder: Path) -> str:
    """Which of `FORMATS` a folder holds.

    Raises:
        FileNotFoundError: If it holds none.
    """
    for name, file in FORMATS.items():
        if (folder / file).is_file():
            return name
    raise FileNotFoundError(
        f"{folder} holds no export: there is no file {', '.join(FORMATS.values())} in it. Give the folder of a "
        "version, as tools.export_saved_model writes it."
    )


def megabytes_of_weights(folder: Path) -> float:
    """Size on disk of the files with an export's weights."""
    return sum(file.stat().st_size for file in folder.glob(_WEIGHTS[format_of(folder)])) / 1e6


def load_saved_model(folder: Path) -> ExportedModel:
    """Loads a SavedModel with TensorFlow's loader alone; refuses as `load_export`."""
    import tensorflow as tf

    format_of(folder)
    with _whole(folder):
        loaded = tf.saved_model.load(str(folder))
    serve: Any = loaded.signatures.get("serving_default")
    spec = serve.structured_input_signature[1].get("images") if serve else None
    if spec is None:
        raise ValueError(
            f"{folder} has no signature serving_default that takes images; export it with tools.export_saved_model."
        )
    serve.owner = loaded  # which must live as long
    return ExportedModel(
        tuple(spec.shape[1:]),
        spec.dtype.name,
        lambda images: next(iter(serve(images=tf.constant(images)).values())).numpy(),  # its one output
    )


def load_onnx(folder: Path) -> ExportedModel:
    """Loads an ONNX model in ONNX Runtime."""
    import onnxruntime

    with _whole(folder):
        session = onnxruntime.InferenceSession(folder / FORMATS["onnx"])
    (images,) = session.get_inputs()
    dtype = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}[images.type]
    return ExportedModel(tuple(images.shape[1:]), dtype, lambda batch: session.run(None, {images.name: batch})[0])


def import_openvino() -> Any:
    """OpenVINO, whose first import takes absl's handler off the root of the log; it is put back."""
    handlers = list(logging.root.handlers)
    import openvino

    for handler in handlers:
        logging.root.addHandler(handler)  # no second time if it is there
    return openvino


def load_openvino(folder: Path, precision: str = "f32") -> ExportedModel:
    """Loads an OpenVINO model, or an ONNX model, in OpenVINO, which computes in another precision if asked to."""
    openvino = import_openvino()
    # Latency, as one caller after another sees it.
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    (file,) = [path for name in ("openvino", "onnx") if (path := folder / FORMATS[name]).is_file()]
    with _whole(folder):
        model = openvino.Core().compile_model(file, "CPU", settings)
    _, height, width, channels = model.input(0).get_partial_shape()
    shape = height.get_length(), width.get_length(), channels.get_length()
    dtype = np.dtype(model.input(0).get_element_type().to_dtype()).name
    return ExportedModel(shape, dtype, lambda images: model(images)[0])


def load_litert(folder: Path) -> ExportedModel:
    """Loads a LiteRT model."""
    from ai_edge_litert.interpreter import Interpreter

    with _whole(folder):
        interpreter = Interpreter(str(folder / FORMATS["litert"]), num_threads=os.cpu_count())
    (images,) = interpreter.get_input_details()
    batch_shape: tuple[int, ...] = ()

    def classify(batch: np.ndarray) -> np.ndarray:
        nonlocal batch_shape
        if batch.shape != batch_shape:
            batch_shape = batch.shape
            interpreter.resize_tensor_input(images["index"], batch_shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(images["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    _, height, width, channels = map(int, images["shape"])
    return ExportedModel((height, width, channels), np.dtype(images["dtype"]).name, classify)
