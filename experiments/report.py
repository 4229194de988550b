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
PREDICTIONS, TOLD = "predictions.png", "values.png"
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
    facts: Mapping[str, str],
    further: Sequence[str] = (),
) -> None:
    """Writes `report.md` with `curves.png` and `confusion.png`; `predictions.png` has to be there.

    Args:
        folder: Where to.
        title: Heading.
        rows: Rows of `metrics.jsonl`, oldest first.
        confusion: Counts by true and predicted class, `[classes, classes]`; `None` leaves its picture out.
        class_names: Names of the classes.
        facts: Further lines for the table on top.
        further: Lines of Markdown for the end.
    """
    plot_curves(rows, folder / "curves.png")
    if confusion is not None:
        plot_confusion(confusion, class_names, folder / "confusion.png")
    result = workdir.result_of(rows)
    of_classes = None if confusion is None else metrics.by_class(confusion, class_names)
    table = {
        **({"Held-out accuracy": f"{result['eval_accuracy']:.2%}"} if "eval_accuracy" in result else {}),
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
    lines += ["## Curves", "", "![Loss and what else is measured by epoch](curves.png)", ""]
    if of_classes is not None:
        lines += ["## Confusion", "", "![Counts by true and predicted class](confusion.png)", ""]
        lines += [*class_table(of_classes), ""]
    lines += ["## Predictions on held-out images", "", f"![Images with what the model says]({PREDICTIONS})", ""]
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
    """Draws loss, accuracy or error, and learning rate by epoch."""
    epochs = [row["epoch"] for row in rows]
    figure, (loss, score, rate) = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
    of_score = "accuracy" if "eval_accuracy" in rows[-1] else "absolute_error"
    for axes, quantity in ((loss, "loss"), (score, of_score)):
        for part, name in (("train", "training"), ("eval", "held out")):
            axes.plot(epochs, [row[f"{part}_{quantity}"] for row in rows], marker=".", label=name)
        unit = " (deviations)" if quantity == "absolute_error" else ""
        axes.set(title=quantity.replace("_", " ") + unit, xlabel="epoch")
        axes.legend()
    rate.plot(epochs, [row["learning_rate"] for row in rows], marker=".")
    rate.set(title="learning rate", xlabel="epoch")
    for axes in (loss, score, rate):
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
        titles = []
        for index, scores in enumerate(probabilities):
            predicted = int(scores.argmax())
            text = f"{names[predicted]} {scores[predicted]:.0%}"
            right = targets is None or targets[index][predicted]
            if targets is not None and not right:
                own = ", ".join(names[place] for place in np.flatnonzero(targets[index]))
                text += f"\nnot {charts.shorten(own, _LONGEST_TITLE)}" if own else "\nhas none"
            titles.append((text, "black" if right else charts.VERMILLION))
        _plot_sheet(images, titles, path)


def plot_values(
    images: np.ndarray, told: np.ndarray | None, predicted: np.ndarray, names: Sequence[str], path: epath.Path
) -> None:
    """Draws a contact sheet: each image with its predicted numbers, and in brackets what it was told.

    Args:
        images: `[n, height, width, channels]` in [0, 255].
        told: `[n, columns]`; `None` if the numbers are not known.
        predicted: Likewise.
        names: Names of the columns.
        path: PNG to write.
    """
    with charts.names_in_any_script(names):
        short = [charts.shorten(name, _LONGEST_TITLE) for name in names]
        titles = []
        for index, of_image in enumerate(predicted):
            known = [""] * len(short) if told is None else [f" ({number:.4g})" for number in told[index]]
            lines = [f"{name} {said:.4g}{true}" for name, said, true in zip(short, of_image, known, strict=True)]
            titles.append(("\n".join(lines), "black"))
        _plot_sheet(images, titles, path)


def _plot_sheet(images: np.ndarray, titles: Sequence[tuple[str, str]], path: epath.Path) -> None:
    """Draws images with texts and their colours above them, all in one pair of axes, whose units are inches."""
    columns, lines = 8, 1 + max(text.count("\n") for text, _ in titles)
    scale = 1.5 / max(images.shape[1:3])
    drawn_height, drawn_width = (scale * pixels for pixels in images.shape[1:3])
    text_height = 0.1 + 0.13 * lines
    width, height, rows = 1.6, text_height + drawn_height + 0.05, -(-len(images) // columns)
    figure = plt.figure(figsize=(columns * width, rows * height))
    axes = figure.add_axes((0, 0, 1, 1))
    for index, (image, (text, color)) in enumerate(zip(images, titles, strict=True)):
        center, top = (index % columns + 0.5) * width, index // columns * height + text_height
        left = center - drawn_width / 2
        extent = (left, left + drawn_width, top + drawn_height, top)
        axes.imshow(picture_of(image), cmap="gray", extent=extent, aspect="auto")
        axes.text(center, top - 0.04, text, size=8, color=color, ha="center", va="bottom")
    axes.set(xlim=(0, columns * width), ylim=(rows * height, 0))
    axes.axis("off")
    _save(figure, path)


def plot_told(told: np.ndarray, predicted: np.ndarray, names: Sequence[str], path: epath.Path) -> None:
    """Draws what a model says of numbers against what it was told, a picture for each column.

    Args:
        told: `[images, columns]`.
        predicted: Likewise.
        names: Names of the columns.
        path: PNG to write.
    """
    with charts.names_in_any_script(names):
        figure, grid = plt.subplots(1, len(names), figsize=(4.2 * len(names), 4), layout="constrained", squeeze=False)
        for axes, name, theirs, mine in zip(grid.flat, names, told.T, predicted.T, strict=True):
            axes.scatter(theirs, mine, s=12, alpha=0.6, linewidths=0)
            axes.axline((theirs.mean(), theirs.mean()), slope=1, color="black", linewidth=0.8)
            axes.set(title=charts.shorten(name, _LONGEST_NAME), xlabel="in the table", ylabel="predicted")
            axes.grid(alpha=0.3)
        _save(figure, path)


def value_table(of_values: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table of `by_value` of `metrics.measure_values`; what is not defined stays empty."""
    lines = ["| number | mean absolute error | 95 % interval | always the mean | R² | 95 % interval |"]
    lines.append("| --- |" + " ---: |" * 5)
    for name, of_value in of_values.items():
        error, baseline = (f"{of_value[key]:.4g}" for key in ("mean_absolute_error", "error_of_the_mean"))
        r2 = "" if of_value["r2"] is None else f"{of_value['r2']:.3f}"
        intervals = (
            "" if of_value[key] is None else f"{of_value[key][0]:{form}} to {of_value[key][1]:{form}}"
            for key, form in (("mean_absolute_error_interval", ".4g"), ("r2_interval", ".3f"))
        )
        first, second = intervals
        lines.append(f"| {cell(name)} | {error} | {first} | {baseline} | {r2} | {second} |")
    return lines


def _save(figure: Any, path: epath.Path) -> None:
    with path.open("wb") as file:  # which can be object storage
        figure.savefig(file, dpi=100, format="png")
    plt.close(figure)
