"""Images of a folder whose labels the finished model disagrees with most: wrong labels are among them."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from experiments import predictions, report, workdir
from experiments.data import pipeline
from experiments.data.readers import ImageFiles, Reader, ValueFiles
from experiments.data.sources import Source

LIST, SHEET = "disagreements.csv", "disagreements.png"
MAX_IMAGES = 20_000  # of a split; more are not looked at again at the end of a run
_NAMES = {"eval": "held out", "train": "training"}  # of the splits of a source
_SURE = 0.5  # of several classes each is predicted above it


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """An image and what the model says in place of its label.

    Args:
        file: Its path.
        split: `"held out"` or `"training"`.
        label: Its class; of several their names, with `|` between them.
        predicted: What the model says, likewise.
        size: 1 less the probability of the label; of several classes the distance of the worst.
        target: uint8 `[classes]`.
        probabilities: `[classes]`.
        image: uint8, as the model saw it; `None` beyond those that are shown.
    """

    file: str
    split: str
    label: str
    predicted: str
    size: float
    target: np.ndarray
    probabilities: np.ndarray
    image: np.ndarray | None = None


def looks_at(reader: Reader) -> bool:
    """Whether the labels of a split are looked at: the classes of image files, unless there are too many."""
    return isinstance(reader, ImageFiles) and not isinstance(reader, ValueFiles) and reader.count <= MAX_IMAGES


def find(
    source: Source,
    config: ml_collections.ConfigDict,
    said: Mapping[str, predictions.Predictions],
) -> list[Disagreement]:
    """Compares labels with what a model says.

    Args:
        source: The dataset of a run.
        config: Its recipe.
        said: By split, `"eval"` and `"train"`, what the model says of those that `looks_at` names.

    Returns:
        The images that the model gives another class than their label, or of several classes another one: the worst
        first, the first `report.CONTACT_SHEET` with their images, which alone are read.
    """
    found: list[Disagreement] = []
    for split, of_split in said.items():
        reader: Any = getattr(source, split)
        for place in np.flatnonzero(of_split.read):
            example = reader.paths[place], _NAMES[split], source, of_split.targets[place], of_split.outputs[place]
            found += _disagreement(*example)
    found.sort(key=lambda entry: -entry.size)
    shown = found[: report.CONTACT_SHEET]
    return [*_with_images(shown, source, config), *found[len(shown) :]] if shown else []


def _disagreement(
    path: str, split: str, source: Source, target: np.ndarray, probabilities: np.ndarray
) -> list[Disagreement]:
    """The image, if the model disagrees."""
    if source.multi_label:
        predicted = probabilities > _SURE
        size = float(np.abs(target - probabilities).max())
    else:
        predicted = np.arange(len(target)) == probabilities.argmax()
        size = 1 - float(probabilities[target.argmax()])
    if (predicted == target).all():
        return []
    label, said = (
        "|".join(source.class_names[index] for index in np.flatnonzero(which)) for which in (target, predicted)
    )
    return [Disagreement(path, split, label, said, size, target, probabilities)]


def _with_images(
    found: Sequence[Disagreement], source: Source, config: ml_collections.ConfigDict
) -> list[Disagreement]:
    """The same with their images."""
    files = ImageFiles(tuple(entry.file for entry in found), (0,) * len(found))  # of one class, which nobody asks for
    images = pipeline.read_images(files, dataclasses.replace(source, multi_label=False), config)
    return [dataclasses.replace(entry, image=image) for entry, (_, image, _) in zip(found, images, strict=True)]


def write(found: Sequence[Disagreement], source: Source, folder: epath.Path) -> list[str]:
    """Writes `disagreements.csv` and `disagreements.png`.

    Args:
        found: From `find`.
        source: The dataset.
        folder: Where to.

    Returns:
        The lines of the report; none for a dataset of which nothing was looked at.
    """
    splits = {"held-out": source.eval, "training": source.train}
    looked_at = [f"{reader.count:,} {split}" for split, reader in splits.items() if looks_at(reader)]
    if not looked_at:
        return []
    lines = ["## Labels to look at", ""]
    looked = f"of {' and '.join(looked_at)} images"
    if not found:
        return [*lines, f"The model gives each {looked} its label.", ""]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "split", "label", "predicted", "disagreement"])
    table.writerows([entry.file, entry.split, entry.label, entry.predicted, f"{entry.size:.4f}"] for entry in found)
    workdir.write_whole(folder / LIST, text.getvalue())
    shown = found[: report.CONTACT_SHEET]
    images, targets, probabilities = (
        np.stack([getattr(entry, field) for entry in shown]) for field in ("image", "target", "probabilities")
    )
    report.plot_predictions(images, targets, probabilities, source.class_names, folder / SHEET)
    return [
        *lines,
        f"The model disagrees with the labels of {len(found):,} {looked}. Among those on top are the wrong labels, if "
        f"there are any: the training images it has learned with their labels, and disagrees nevertheless. "
        f"[{LIST}]({LIST}) lists all, the worst first.",
        "",
        f"![Images with what the model says and their labels]({SHEET})",
        "",
    ]
