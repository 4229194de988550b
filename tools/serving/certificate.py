"""What lies beside every export, so that anyone can tell that it is whole and answers as the trained model does.

`probes.npz`
    A few images, uint8 at the model's size, and the logits that the trained model gives for them, in float32 on CPUs.
`certificate.json`
    By how much the export's answers may differ, the SHA-256 of its files, and the chain that leads to them: of the
    lists of images the model was trained and evaluated on, of the run's `config.json`, of its `model.keras`.
`check.py`
    The program that compares, `tools/serving/check.py`.

An export that does not answer as the model does is not written. The `seal` is the SHA-256 of all that a certificate
says, and no signature: who can replace files can replace the certificate too, unless its seal is known from elsewhere.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging
from keras import ops

import coatnet_tf
from experiments import workdir
from tools import model_files
from tools.serving import check

FILES = (check.CERTIFICATE, check.PROBES, "check.py")
PROBES = workdir.CERTIFIED

# Float32 is computed in another order by each runtime, and by each kind of CPU. For each unit of the largest logit, in
# logits or logarithms of probabilities; see docs/serving.md for what was measured.
TOLERANCE = 1e-4
_FLOOR, _FLOOR_OF_ONE_SCORE = 1e-30, 1e-4  # 1 - p has float32's absolute precision, p its relative one


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a trained model answers.

    Args:
        images: uint8 `[n, height, width, channels]`.
        source: What these are, in words.
        logits: float32 `[n, classes]`.
        scores: What the export makes of the logits, as `check.expected` has it.
        floor: Least probability that is told from 0.
        exact: Whether the model computes in float32, and so do its exports unless they are asked for something else.
    """

    images: np.ndarray
    source: str
    logits: np.ndarray
    scores: str
    floor: float
    exact: bool


def refer(model: keras.Model, path: Path, gives_probabilities: bool, of_run: bool = True) -> Reference:
    """Asks the model that is to be exported, before anything is changed in it.

    Args:
        model: Takes images in [0, 255], gives `[n, classes]`.
        path: Its file, in the folder of its run if it is one's.
        gives_probabilities: Whether the export gives probabilities in place of logits, as those of
            `served_model.with_probabilities` do.
        of_run: Whether images of its run may lie beside the export; otherwise they are generated, and nobody's.

    Raises:
        ValueError: If its answers are not finite.
    """
    images, source = _probes(path, model.input_shape[1:], of_run)
    layer = model_files.last_layer(model)
    activation = getattr(layer, "activation", None)
    scores = {keras.activations.softmax: "softmax", keras.activations.sigmoid: "sigmoid"}.get(activation, "logits")
    with keras.device("cpu"):  # a GPU's rounding may be coarser
        if scores != "logits":
            layer.activation = keras.activations.linear
        try:
            logits = ops.convert_to_numpy(model(images.astype("float32"), training=False)).astype("float32")
        finally:
            if scores != "logits":
                layer.activation = activation
    if not np.isfinite(logits).all():
        raise ValueError(f"{path} answers with numbers that are not finite ({source}); its weights are damaged.")
    floor = _FLOOR
    if gives_probabilities and model_files.is_binary(model):
        logits, scores = np.concatenate([np.zeros_like(logits), logits], -1), "softmax"
        floor = _FLOOR_OF_ONE_SCORE
    elif gives_probabilities and activation is keras.activations.linear:
        scores = "softmax"
    exact = not any(
        layer.compute_dtype != "float32" or getattr(layer, "quantization_mode", None)
        for layer in model._flatten_layers(include_self=False)
    )
    return Reference(images, source, logits, scores, floor, exact)


def _probes(path: Path, shape: Sequence[int], of_run: bool) -> tuple[np.ndarray, str]:
    """Images of a shape, and what they are."""
    held_out = path.parent / workdir.PROBES
    if of_run and _is_of_run(path) and held_out.is_file():
        with np.load(held_out, allow_pickle=False) as file:
            images = file["images"][:PROBES]
        if images.shape[-1] == shape[-1]:
            return _resized(images, shape), "the first held-out images of the run"
    coarse = np.random.default_rng(0).integers(0, 256, (PROBES, 6, 5, shape[-1]), dtype="uint8")
    return _resized(coarse, shape), "generated: random colours, smoothed"


def _resized(images: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    if images.shape[1:] == tuple(shape):
        return images
    resized = ops.image.resize(images.astype("float32"), shape[:2], interpolation="bicubic", antialias=True)
    return np.clip(np.rint(ops.convert_to_numpy(resized)), 0, 255).astype("uint8")


def _is_of_run(path: Path) -> bool:
    return path.name == workdir.MODEL and (path.parent / workdir.DATA).is_file()


def _chain(path: Path) -> list[dict[str, str]]:
    """The links from the data to the weights, as far as they are known."""
    links = {}
    if _is_of_run(path):
        of_data = json.loads((path.parent / workdir.DATA).read_text())["files"]
        links["list of the training images"] = of_data["train"]
        links["list of the held-out images"] = of_data["eval"]
        links[workdir.CONFIG] = check.sha256(path.parent / workdir.CONFIG)
    links[path.name] = check.sha256(path)
    return [{"of": name, "sha256": digest} for name, digest in links.items()]


def write(
    folder: Path,
    name: str,
    reference: Reference,
    path: Path,
    exact: bool = True,
    leave_out: Sequence[str] = (),
) -> None:
    """Asks a finished export, and writes its certificate.

    Args:
        folder: Folder of the export.
        name: Its format, one of `check.NEEDS`.
        reference: What the model answers.
        path: The model's file.
        exact: Whether the export computes in float32. If not, its tolerance is twice what it differs by here, as other
            CPUs may round everything the other way.
        leave_out: Files that people may change later.

    Raises:
        ValueError: If the export does not answer as the model does; or if its tolerance depends on what its runtime
            answers, which is not installed.
    """
    tolerance = TOLERANCE * max(1.0, float(np.abs(reference.logits).max()))
    measured = _measure(folder, name, reference)
    exact = exact and reference.exact
    if measured is None and not exact:
        raise ValueError(
            f"How far the answers of such an export may be off is measured in its runtime: install {check.NEEDS[name]}."
        )
    if measured is not None and not exact:
        tolerance += 2 * measured
    if measured is not None and measured > tolerance:
        raise ValueError(
            f"The export ({name}) does not answer as {path} does: by {measured:.2g} at most in the logits of "
            f"{len(reference.images)} images, where {tolerance:.2g} is rounding. It was not written; please report it."
        )
    np.savez_compressed(folder / check.PROBES, images=reference.images, logits=reference.logits)
    shutil.copyfile(check.__file__, folder / "check.py")
    kept = {check.CERTIFICATE, *leave_out}
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name not in kept]
    certificate: dict[str, Any] = {
        "format": name,
        "written_by": f"coatnet_tf {coatnet_tf.__version__}, keras {keras.__version__}",
        "probes": reference.source,
        "scores": reference.scores,
        "floor": reference.floor,
        "tolerance": tolerance,
        "measured": measured,
        "chain": _chain(path),
        "files": {file.relative_to(folder).as_posix(): check.sha256(file) for file in files},
    }
    certificate["seal"] = check.seal(certificate)
    (folder / check.CERTIFICATE).write_text(json.dumps(certificate, indent=2) + "\n")


def _measure(folder: Path, name: str, reference: Reference) -> float | None:
    """The largest difference of the export's answers; `None` if its runtime is not installed."""
    try:
        found = check.answers(folder, name, reference.images)
    except ImportError as error:
        logging.warning("The export was not asked (%s): python check.py in its folder does it elsewhere.", error)
        return None
    except Exception as error:  # of any runtime
        raise ValueError(f"The export ({name}) was not written, as its runtime cannot answer: {error}") from error
    try:
        worst = check.difference(found, reference.logits, reference.scores, reference.floor)
    except check.Refused as refused:
        raise ValueError(f"The export ({name}) does not answer as the model does: {refused}.") from refused
    if np.isnan(worst):
        raise ValueError(f"The export ({name}) answers with numbers that are not finite; it was not written.")
    return worst
