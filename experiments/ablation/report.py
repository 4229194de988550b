"""The table and the picture of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.ablation.statistics import Summary, conclude, rounded
from experiments.ablation.studies import STUDIES
from experiments.charts import plt


def write(name: str, summaries: Sequence[Summary], images: int, folder: Path) -> str:
    """Writes `study.md` and `study.png`.

    Args:
        name: Of the study.
        summaries: Of all variants.
        images: Number of training images.
        folder: Where to.

    Returns:
        The text of `study.md`.
    """
    study = STUDIES[name]
    seeds = len(summaries[0].accuracies)
    lines = [
        f"# {name}: {seeds} seed{'s' * (seeds > 1)}, {images:,} images of Fashion-MNIST",
        "",
        "| variant | accuracy, % | deviation | 95 % interval of the mean | p against the first | the paper's |",
        "| --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for summary in summaries:
        low, high = summary.mean - summary.half_interval, summary.mean + summary.half_interval
        cells = [
            summary.name,
            f"{summary.mean:.2f}",
            f"{summary.deviation:.2f}" if seeds > 1 else "",
            f"{low:.2f} to {high:.2f}" if seeds > 1 else "",
            "" if summary.p_value is None else rounded(summary.p_value).removeprefix("= "),
            f"{study.published[summary.name]:.1f}" if summary.name in study.published else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", conclude(study, summaries), "", f"The paper: {study.where}.", "", "![](study.png)", ""]
    text = "\n".join(lines)
    (folder / "study.md").write_text(text)
    _plot(name, summaries, folder / "study.png")
    return text


def _plot(name: str, summaries: Sequence[Summary], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(max(5.0, 1.5 + 1.3 * len(summaries)), 3.8))
    places = np.arange(len(summaries))
    for of_a_seed in zip(*(summary.accuracies for summary in summaries), strict=True):
        axes.plot(places, of_a_seed, "o-", color="0.75", markersize=4, linewidth=0.8)
    means = [summary.mean for summary in summaries]
    axes.errorbar(places, means, [summary.half_interval for summary in summaries], fmt="o", capsize=5)
    axes.set_xticks(places, [summary.name for summary in summaries])
    axes.set_xlim(-0.5, len(summaries) - 0.5)
    axes.set_ylabel("held-out accuracy, %")
    axes.set_title(f"{name}: means with 95 % intervals; grey: each seed", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
