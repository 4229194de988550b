"""Images of a folder whose labels the finished model disagrees with most: wrong labels are among them."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence

import ml_collections
import numpy as np
from etils import epath

from experiments import report, workdir
from experiments.data import pipeline
from experiments.data.damage import DamagedImages
from experiments.data.readers import ImageFiles
from experiments.data.sources import Source

LIST, SHEET = "disagreements.csv", "disagreements.png"
MAX_IMAGES = 20_000  # of a split; more are not looked at again at the end of a run
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
        image: uint8, as the model saw it.
        target: uint8 `[classes]`.
        probabilities: `[classes]`.
    """

    file: str
    split: str
    label: str
    predicted: str
    size: float
    image: np.ndarray | None
    target: np.ndarray
    probabilities: np.ndarray


def find(
    source: Source,
    config: ml_collections.ConfigDict,
    predict: Callable[[np.ndarray], np.ndarray],
    damaged: Sequence[DamagedImages | None],
    python: bool = True,
) -> list[Disagreement]:
    """Looks at all images of a folder once more.

    Args:
        source: The dataset of a run.
        config: Its recipe.
        predict: uint8 images `[batch, height, width, channels]` to probabilities `[batch, classes]`; all processes of a
            cluster have to call it as often.
        damaged: Of the held-out and of the training images; see `pipeline.evaluation_batches`.
        python: Likewise.

    Returns:
        The images that the model gives another class than their label, or of several classes another one: the worst
        first, the first `report.CONTACT_SHEET` with their images. None of a dataset that is no folder, or of a split
        of more than `MAX_IMAGES`.
    """
    found: list[Disagreement] = []
    for split, reader, of_split in zip(("held out", "training"), (source.eval, source.train), damaged, strict=True):
        if not isinstance(reader, ImageFiles) or reader.count > MAX_IMAGES:
            continue
        seen = 0
        batches = pipeline.evaluation_batches(
            dataclasses.replace(source, eval=reader), config, damaged=of_split, python=python
        )
        for images, targets, weights in batches.as_numpy_iterator():
            probabilities = predict(images)
            paths = reader.paths[seen : seen + len(images)]
            seen += len(images)
            for place, path in enumerate(paths):  # fewer than images in the last batch
                if weights[place]:
                    # Copies: a view would keep the whole batch.
                    example = (x[place].copy() for x in (images, targets, probabilities))
                    found += _disagreement(path, split, source, *example)
            found = _sorted(found)
    return found


def _disagreement(
    path: str, split: str, source: Source, image: np.ndarray, target: np.ndarray, probabilities: np.ndarray
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
    return [Disagreement(path, split, label, said, size, image, target, probabilities)]


def _sorted(found: list[Disagreement]) -> list[Disagreement]:
    """The worst first; images of those that no sheet will show are let go."""
    found = sorted(found, key=lambda entry: -entry.size)
    return [
        entry if place < report.CONTACT_SHEET or entry.image is None else dataclasses.replace(entry, image=None)
        for place, entry in enumerate(found)
    ]


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
    looked_at = [
        f"{reader.count:,} {split}"
        for split, reader in splits.items()
        if isinstance(reader, ImageFiles) and reader.count <= MAX_IMAGES
    ]
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
