"""Cross-validation on a folder or a table of images: a run for each fold, and one report of them all."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from experiments import evaluate, metrics, report, train, workdir
from experiments.ablation.statistics import Summary
from experiments.data.folds import Fold

REPORT = "folds.md"
_SHARES = ("top-1", "balanced accuracy", "mean average precision")


def run(configure: Callable[[Fold], ml_collections.ConfigDict], folds: Sequence[Fold], output: epath.Path) -> str:
    """Trains and evaluates on each fold, or goes on where that stopped.

    Args:
        configure: Makes the recipe of a fold.
        folds: All of them.
        output: Folder for the report and for the runs, `fold_1` and so on.

    Returns:
        The text of the report, `folds.md`; `folds.json` has its numbers.
    """
    measured = []
    for fold in folds:
        folder = output / f"fold_{fold.number}"
        train.run(configure(fold), folder)
        row = workdir.result_of(workdir.read_metrics(folder))
        measured.append({**evaluate.evaluate(folder, folder / "evaluation"), "epoch": row["epoch"]})
    text = describe(measured)
    workdir.write_whole(output / "folds.json", json.dumps(measured, indent=2) + "\n")
    workdir.write_whole(output / REPORT, text)
    return text


def describe(measured: Sequence[dict[str, Any]]) -> str:
    """The report.

    Args:
        measured: By fold, what `evaluate.evaluate` returns and `epoch`, the one that was kept.
    """
    scores = [_scores(of_fold) for of_fold in measured]
    titles = [title for title in scores[0] if all(title in of_fold for of_fold in scores)]
    lines = [f"# {len(measured)} folds", ""]
    lines += [
        f"| fold | held-out images | {' | '.join(titles)} | loss | kept epoch |",
        "| ---: " * (4 + len(titles)) + "|",
    ]
    for number, (of_fold, mine) in enumerate(zip(measured, scores, strict=True), start=1):
        cells = [str(number), f"{of_fold['images']:,}", *(_shown(title, mine[title]) for title in titles)]
        lines.append("| " + " | ".join([*cells, f"{of_fold['loss']:.4f}", f"{of_fold['epoch']:g}"]) + " |")
    lines.append("")
    for title in titles:
        lines.append(_mean(title, [of_fold[title] for of_fold in scores]))
    images = sum(of_fold["images"] for of_fold in measured)
    about = "The intervals are by Student's t over the folds."
    if "top1" in measured[0]:
        right = round(sum(of_fold["top1"] * of_fold["images"] for of_fold in measured))
        low, high = (100 * end for end in metrics.wilson_interval(right, images))
        lines.append(
            f"All {images:,} images, each held out once: {right:,} right, 95 % interval {low:.2f} to {high:.2f} %."
        )
        about = "The first intervals are by Student's t over the folds, the last by Wilson over the images."
    else:
        lines.append(f"All {images:,} images are held out once.")
    lines += [
        "",
        f"{about} The folds share most of their training images, so that the true intervals are somewhat wider.",
    ]
    if any(of_fold["chose_the_weights"] for of_fold in measured):
        lines.append("All are a little optimistic, as the images of a fold chose the weights that it keeps.")
    return "\n".join(lines) + "\n"


def _scores(measured: dict[str, Any]) -> dict[str, float]:
    """What is compared of a fold, by title."""
    if "by_value" in measured:
        kinds = {"mean absolute error": "mean_absolute_error", "error of the mean": "error_of_the_mean", "R²": "r2"}
        pairs = (
            (f"{name}: {kind}", of_value[key])
            for name, of_value in measured["by_value"].items()
            for kind, key in kinds.items()
        )
        return {report.cell(title): value for title, value in pairs if value is not None}
    if "top1" in measured:
        return {"top-1": measured["top1"], "balanced accuracy": measured["balanced_accuracy"]}
    return {"mean average precision": measured["mean_average_precision"]}


def _shown(title: str, value: float) -> str:
    return f"{value:.4g}" if title not in _SHARES else f"{value:.2%}"


def _mean(title: str, values: Sequence[float]) -> str:
    """The mean of a score over the folds, with its interval."""
    is_share = title in _SHARES
    summary = Summary(title, np.array(values) * (100 if is_share else 1), None)
    low, high = summary.mean - summary.half_interval, summary.mean + summary.half_interval
    if is_share:
        interval = f"{max(0, low):.2f} to {min(100, high):.2f} %"
        return f"{title[0].upper()}{title[1:]}: {summary.mean:.2f} % in the mean, 95 % interval {interval}."
    low, high = (low, min(1, high)) if title.endswith("R²") else (max(0, low), high)  # errors are not negative
    return f"{title} {summary.mean:.4g} in the mean, 95 % interval {low:.4g} to {high:.4g}."
