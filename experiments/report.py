"""Pictures and the report of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from experiments import charts, metrics, workdir
from experiments.charts import plt

CONTACT_SHEET = 40  # images
_COUNTS_SHOWN_UP_TO = 20  # classes
_LONGEST_NAME, _LONGEST_TITLE = 30, 15  # letters of a class beside the counts, and above an image
_INCHES_PER_LETTER = 0.09


def write(
    folder: epath.Path,
    *,
    title: str,
    rows: Sequence[Mapping[str, float]],
    confusion: np.ndarray | None,
    class_names: Sequence[str],
    examples: tuple[np.ndarray, np.ndarray, np.ndarray],
    facts: Mapping[str, str],
    further: Sequence[str] = (),
) -> None:
    """Writes `report.md` with `curves.png`, `confusion.png` and `predictions.png`.

    Args:
        folder: Where to.
        title: Heading.
        rows: Rows of `metrics.jsonl`, oldest first.
        confusion: Counts by true and predicted class, `[classes, classes]`; `None` leaves its picture out.
        class_names: Names of the classes.
        examples: Images `[n, height, width, channels]` in [0, 255], targets `[n, classes]` with 1 for each
            class of the image, and probabilities `[n, classes]`.
        facts: Further lines for the table on top.
        further: Lines of Markdown for the end.
    """
    plot_curves(rows, folder / "curves.png")
    if confusion is not None:
        plot_confusion(confusion, class_names, folder / "confusion.png")
    plot_predictions(*examples, class_names, folder / "predictions.png")
    result = workdir.result_of(rows)
    of_classes = None if confusion is None else metrics.by_class(confusion, class_names)
    table = {
        "Held-out accuracy": f"{result['eval_accuracy']:.2%}",
        **({"Balanced accuracy (mean recall)": f"{metrics.balanced_accuracy(of_classes):.2%}"} if of_classes else {}),
        "Held-out loss": f"{result['eval_loss']:.4f}",
        **facts,
        "Epochs": f"{rows[-1]['epoch']:g}",
        "Training speed": f"{np.median([row['images_per_second'] for row in rows]):,.0f} images/s (median of epochs)",
    }
    lines = [
        f"# {cell(title)}",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {cell(value)} |" for name, value in table.items()),
        "",
    ]
    lines += ["## Curves", "", "![Loss and accuracy by epoch](curves.png)", ""]
    if of_classes is not None:
        lines += ["## Confusion", "", "![Counts by true and predicted class](confusion.png)", ""]
        lines += [*class_table(of_classes), ""]
    lines += ["## Predictions on held-out images", "", "![Images with predicted classes](predictions.png)", ""]
    lines += further
    (folder / workdir.REPORT).write_text("\n".join(lines))


def class_table(of_classes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table of what `metrics.by_class` returns; what is not defined stays empty."""

    def percent(share: float | None) -> str:
        return "" if share is None else f"{share:.2%}"

    keys = [key for key in next(iter(of_classes.values())) if key != "images"]
    titles = ["F1" if key == "f1" else key.replace("_", " ") for key in keys]
    lines = [f"| class | images | {' | '.join(titles)} |", "| --- | ---: |" + " ---: |" * len(keys)]
    for name, of_class in of_classes.items():
        lines.append(
            f"| {cell(name)} | {of_class['images']:,} | {' | '.join(percent(of_class[key]) for key in keys)} |"
        )
    return lines


def cell(text: str) -> str:
    r"""Text for a cell of a Markdown table, such as a name that others chose.

    >>> print(cell("a|b *c*"))
    a\|b \*c\*
    """
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def picture_of(image: np.ndarray) -> np.ndarray:
    """What is drawn of an image: `[height, width, 3]` of its first three channels, or `[height, width]` of the first.

    Args:
        image: `[height, width, channels]` in [0, 255].
    """
    shown = np.clip(image, 0, 255).astype(np.uint8)
    return shown[..., :3] if image.shape[-1] >= 3 else shown[..., 0]


def plot_curves(rows: Sequence[Mapping[str, float]], path: epath.Path) -> None:
    """Draws loss, accuracy and learning rate by epoch."""
    epochs = [row["epoch"] for row in rows]
    figure, (loss, accuracy, rate) = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
    for axes, quantity in ((loss, "loss"), (accuracy, "accuracy")):
        for part, name in (("train", "training"), ("eval", "held out")):
            axes.plot(epochs, [row[f"{part}_{quantity}"] for row in rows], marker=".", label=name)
        axes.set(title=quantity, xlabel="epoch")
        axes.legend()
    rate.plot(epochs, [row["learning_rate"] for row in rows], marker=".")
    rate.set(title="learning rate", xlabel="epoch")
    for axes in (loss, accuracy, rate):
        axes.grid(alpha=0.3)
    _save(figure, path)


def plot_confusion(confusion: np.ndarray, class_names: Sequence[str], path: epath.Path) -> None:
    """Draws counts by true class (rows) and predicted class (columns), coloured by share of the row."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    with charts.names_in_any_script(class_names):
        names = [charts.shorten(name, _LONGEST_NAME) for name in class_names]
        side = min(12.0, 3.0 + 0.5 * len(names))
        if len(names) <= _COUNTS_SHOWN_UP_TO:
            side += _INCHES_PER_LETTER * max(map(charts.width, names))
        figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
        axes.imshow(shares, cmap=charts.SHARES, vmin=0, vmax=1)
        if len(class_names) <= _COUNTS_SHOWN_UP_TO:
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names)
            for row, column in np.ndindex(*confusion.shape):
                if confusion[row, column]:
                    color = "white" if shares[row, column] > 0.5 else "black"
                    axes.text(
                        column, row, f"{confusion[row, column]:.0f}", ha="center", va="center", color=color, size=8
                    )
        axes.set(xlabel="predicted", ylabel="true", title=f"accuracy {confusion.trace() / confusion.sum():.2%}")
        _save(figure, path)


def plot_predictions(
    images: np.ndarray,
    targets: np.ndarray | None,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    path: epath.Path,
) -> None:
    """Draws a contact sheet: each image with its predicted class and probability, and its own class if that is another.

    Args:
        images: `[n, height, width, channels]` in [0, 255].
        targets: `[n, classes]` with 1 for each class of the image; `None` if they are not known.
        probabilities: `[n, classes]`.
        class_names: Names of the classes.
        path: PNG to write.
    """
    with charts.names_in_any_script(class_names):
        names = [charts.shorten(name, _LONGEST_TITLE) for name in class_names]
        columns = 8
        rows = -(-len(images) // columns)
        figure, grid = plt.subplots(
            rows, columns, figsize=(1.6 * columns, 2.0 * rows), layout="constrained", squeeze=False
        )
        for axes in grid.flat:
            axes.axis("off")
        for index, (axes, image, scores) in enumerate(zip(grid.flat, images, probabilities, strict=False)):
            predicted = int(scores.argmax())
            axes.imshow(picture_of(image), cmap="gray")
            text = f"{names[predicted]} {scores[predicted]:.0%}"
            right = targets is None or targets[index][predicted]
            if targets is not None and not right:
                text += f"\nnot {names[int(targets[index].argmax())]}"
            axes.set_title(text, size=8, color="black" if right else charts.VERMILLION)
        _save(figure, path)


def _save(figure: Any, path: epath.Path) -> None:
    with path.open("wb") as file:  # which can be object storage
        figure.savefig(file, dpi=100, format="png")
    plt.close(figure)
