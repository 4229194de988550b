"""Cross-validation on a folder of images: a run for each fold, and one report of them all."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from experiments import evaluate, metrics, train, workdir
from experiments.ablation.statistics import Summary
from experiments.data.folds import Fold

REPORT = "folds.md"


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
    lines = [f"# {len(measured)} folds", ""]
    lines += ["| fold | held-out images | top-1 | balanced accuracy | loss | kept epoch |", "| ---: " * 6 + "|"]
    for number, of_fold in enumerate(measured, start=1):
        cells = [str(number), f"{of_fold['images']:,}", f"{of_fold['top1']:.2%}", f"{of_fold['balanced_accuracy']:.2%}"]
        lines.append("| " + " | ".join([*cells, f"{of_fold['loss']:.4f}", f"{of_fold['epoch']:g}"]) + " |")
    lines.append("")
    for name, title in (("top1", "Top-1"), ("balanced_accuracy", "Balanced accuracy")):
        summary = Summary(name, 100 * np.array([of_fold[name] for of_fold in measured]), None)
        low, high = max(0, summary.mean - summary.half_interval), min(100, summary.mean + summary.half_interval)
        lines.append(f"{title}: {summary.mean:.2f} % in the mean, 95 % interval {low:.2f} to {high:.2f} %.")
    images = sum(of_fold["images"] for of_fold in measured)
    right = round(sum(of_fold["top1"] * of_fold["images"] for of_fold in measured))
    low, high = (100 * end for end in metrics.wilson_interval(right, images))
    lines += [
        f"All {images:,} images, each held out once: {right:,} right, 95 % interval {low:.2f} to {high:.2f} %.",
        "",
        "The first interval is by Student's t over the folds, the last by Wilson over the images. The folds share most "
        "of their training images, so that the true intervals are somewhat wider.",
    ]
    if any(of_fold["chose_the_epoch"] for of_fold in measured):
        lines.append("All are a little optimistic, as the images of a fold chose the epoch that it keeps.")
    return "\n".join(lines) + "\n"
