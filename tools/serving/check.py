"""Says whether the exported model beside this file is the certified one, and answers as it must: yes or no.

    python check.py

needs numpy and what `certificate.json` names, the runtime of this format, and nothing else of the project that wrote
it. The files must have the SHA-256 that the certificate says, and the answers to the images in `probes.npz` may differ
from those of the trained model by no more than it allows. The exit status is 0 for yes and 1 for no.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

CERTIFICATE, PROBES = "certificate.json", "probes.npz"
NEEDS = {  # packages, as pip knows them
    "tf_saved_model": "tensorflow",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "litert": "ai-edge-litert",
    "keras_hub": "coatnet_tf and keras-hub",
    "safetensors": "coatnet_tf and safetensors",
}
Answer = Callable[[np.ndarray], np.ndarray]


class Refused(Exception):
    """Why the answer is no."""


def sha256(path: Path) -> str:
    """Checksum of a file, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def seal(certificate: Mapping[str, Any]) -> str:
    """Checksum of all else that a certificate says."""
    rest = {key: value for key, value in certificate.items() if key != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _answers_of_tensorflow(folder: Path) -> Answer:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    with tf.device("CPU"):  # a GPU's rounding may be coarser
        loaded = tf.saved_model.load(str(folder))
    serve = loaded.signatures["serving_default"]
    serve.owner = loaded  # which must live as long
    dtype = serve.structured_input_signature[1]["images"].dtype

    def answer(images: np.ndarray) -> np.ndarray:
        with tf.device("CPU"):
            (answers,) = serve(images=tf.constant(images, dtype)).values()  # probabilities, or numbers
            return answers.numpy()

    return answer


def _answers_of_onnx(folder: Path) -> Answer:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (name,) = (tensor.name for tensor in session.get_inputs())
    return lambda images: session.run(None, {name: images.astype("float32")})[0]


def _answers_of_openvino(folder: Path) -> Answer:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(folder / "model.xml", "CPU", settings)
    return lambda images: model(images.astype("float32"))[0]


def _answers_of_litert(folder: Path) -> Answer:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / "model.tflite"))
    (place,) = (tensor["index"] for tensor in interpreter.get_input_details())

    def answer(images: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(place, images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(place, images.astype("float32"))
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return answer


def _answers_of_keras_hub(folder: Path) -> Answer:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import keras_hub

    import coatnet_tf.keras_hub  # noqa: F401  (makes its classes known)

    def answer(images: np.ndarray) -> np.ndarray:
        with keras.device("cpu"):
            classifier = keras_hub.models.ImageClassifier.from_preset(str(folder))
            return np.asarray(classifier.predict(images.astype("float32"), verbose=0))

    return answer


def _answers_of_safetensors(folder: Path) -> Answer:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    import coatnet_tf

    def answer(images: np.ndarray) -> np.ndarray:
        with keras.device("cpu"):
            model = coatnet_tf.from_pretrained("hf://certified/model", path=folder)
            return keras.ops.convert_to_numpy(model(images.astype("float32"), training=False))

    return answer


_RUNTIMES: dict[str, Callable[[Path], Answer]] = {
    "tf_saved_model": _answers_of_tensorflow,
    "onnx": _answers_of_onnx,
    "openvino": _answers_of_openvino,
    "litert": _answers_of_litert,
    "keras_hub": _answers_of_keras_hub,
    "safetensors": _answers_of_safetensors,
}


def answers(folder: Path, name: str, images: np.ndarray) -> np.ndarray:
    """What an export of one of the formats answers to images, uint8 `[n, height, width, channels]`.

    Raises:
        ImportError: If what the format needs is not installed.
    """
    return _RUNTIMES[name](folder)(images)


def expected(logits: np.ndarray, scores: str, floor: float) -> np.ndarray:
    """What is compared, of the trained model: logarithms of the probabilities, or the logits if it gives those.

    Args:
        logits: `[n, classes]`.
        scores: What the model makes of them, `"softmax"`, `"sigmoid"`, or `"logits"` for nothing.
        floor: Least probability that is told from 0.
    """
    logits = logits.astype("float64")
    if scores == "logits":
        return logits
    if scores == "sigmoid":
        found = -np.logaddexp(0, -logits)
    else:
        found = logits - logits.max(-1, keepdims=True)
        found -= np.log(np.exp(found).sum(-1, keepdims=True))
    return np.maximum(found, np.log(floor))


def difference(found: np.ndarray, logits: np.ndarray, scores: str, floor: float) -> float:
    """The largest difference of what an export answers, as `expected` compares it; NaN if a number is.

    Raises:
        Refused: If the answers have another shape.
    """
    if found.shape != logits.shape:
        raise Refused(f"its answers are {found.shape} and must be {logits.shape}")
    found = found.astype("float64")
    if scores != "logits":
        found = np.log(np.maximum(found, floor))
    return float(np.abs(found - expected(logits, scores, floor)).max())


def _read(folder: Path) -> dict[str, Any]:
    """The certificate, whole and as it was written."""
    path = folder / CERTIFICATE
    if not path.is_file():
        raise Refused(f"there is no {CERTIFICATE} in {folder}; copy the export with all its files")
    try:
        certificate = json.loads(path.read_bytes())
        written = certificate["seal"]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{CERTIFICATE} is damaged ({type(error).__name__}); export the model again") from error
    if written != seal(certificate):
        raise Refused(f"{CERTIFICATE} has changed since it was written; take it from where the export came from")
    return certificate


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            raise Refused(f"{name} is missing; copy the export with all its files")
        if (found := sha256(path)) != digest:
            raise Refused(f"{name} has changed: its SHA-256 begins with {found[:12]}, not with {digest[:12]}")


def check(folder: Path) -> str:
    """Checks the export in a folder.

    Args:
        folder: The folder, with its `certificate.json`.

    Returns:
        What was found, as one line.

    Raises:
        Refused: If it is not the certified export, does not answer as it must, or cannot be asked.
    """
    certificate = _read(folder)
    _check_files(folder, certificate["files"])
    name = certificate["format"]
    with np.load(folder / PROBES, allow_pickle=False) as probes:
        images, logits = probes["images"], probes["logits"]
    try:
        found = answers(folder, name, images)
    except ImportError as error:
        raise Refused(f"it cannot be asked here without {NEEDS[name]} ({error}); install what is missing") from error
    except Exception as error:  # of any runtime
        line = (str(error).strip().splitlines() or [""])[0]
        raise Refused(f"its runtime cannot answer ({type(error).__name__}: {line[:300]})") from error
    worst = difference(found, logits, certificate["scores"], certificate["floor"])
    allowed = f"{certificate['tolerance']:.2g} is allowed"
    if not worst <= certificate["tolerance"]:
        raise Refused(f"its answers to the {len(images)} images differ by {worst:.2g}, and {allowed}")
    return (
        f"{len(images)} images, largest difference {worst:.2g} ({allowed}), {len(certificate['files'])} files as "
        f"certified, seal {certificate['seal'][:12]}"
    )


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Keeps what runtimes say of themselves, also outside Python, from the terminal."""
    sys.stderr.flush()
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def main() -> int:
    """Prints the answer, and returns the exit status."""
    try:
        with _without_chatter():
            found = check(Path(__file__).resolve().parent)
        print(f"yes: {found}")
    except Refused as refused:
        print(f"no: {refused}.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
