"""The table and the picture of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from experiments.ablation.statistics import Summary, rounded, summarise
from experiments.charts import GREY, plt
from tools.small_sets.parts import PLAIN, Measured

PICTURE = "small_sets_gains.png"
_BEGIN, _END = "<!-- small_sets -->", "<!-- /small_sets -->"

Results = dict[str, dict[str, list[Measured]]]  # by set and way, one for each seed


def write(results: Results, page: Path) -> str:
    """Writes the table into a page, and the picture beside it.

    Args:
        results: By set and way.
        page: Markdown file: between its markers, or anew if it is missing.

    Returns:
        The table.

    Raises:
        ValueError: If the page is there and has no markers.
    """
    before = page.read_text() if page.is_file() else f"{_BEGIN}\n{_END}\n"
    if not before.count(_BEGIN) == before.count(_END) == 1:
        raise ValueError(
            f"{page} needs one line {_BEGIN} and behind it one line {_END}: the table is put between them."
        )
    summaries = {
        name: {summary.name: summary for summary in summarise({way: _accuracies(runs) for way, runs in ways.items()})}
        for name, ways in results.items()
    }
    text = describe(results, summaries)
    head, rest = before.split(_BEGIN)
    page.write_text(f"{head}{_BEGIN}\n{text}{_END}{rest.split(_END)[1]}")
    _draw(summaries, page.parent / PICTURE)
    return text


def _accuracies(runs: Sequence[Measured]) -> list[float]:
    return [run["accuracy"] for run in runs]


def describe(results: Results, summaries: Mapping[str, Mapping[str, Summary]]) -> str:
    """Accuracies of all ways on all sets, and what each way adds to the plain one.

    Args:
        results: By set and way.
        summaries: Of the accuracies, likewise.

    Returns:
        Markdown.
    """
    ways = [way for way in max(results.values(), key=len)]
    seeds = len(next(iter(results.values()))[PLAIN])
    lines = [
        f"| way | {' | '.join(results)} | all: points from plain | p | seconds |",
        "| --- |" + " ---: |" * (len(results) + 3),
    ]
    for way in ways:
        cells = [_cell(of_set.get(way)) for of_set in summaries.values()]
        differences = np.concatenate(
            [of_set[way].accuracies - of_set[PLAIN].accuracies for of_set in summaries.values() if way in of_set]
        )
        seconds = [run["seconds"] for of_set in results.values() for run in of_set.get(way, [])]
        lines.append(f"| {' | '.join([way, *cells, *_gain(way, differences), f'{np.mean(seconds):.0f}'])} |")
    lines += [
        "",
        f"Held-out accuracy in percent, the mean of {seeds} seeds with its 95 % interval (Student's t), and p of the "
        "paired t-test against plain. The last columns are over all sets that a way was measured on: the mean "
        "difference from plain, p of its paired t-test over sets and seeds, and seconds of processor time of a "
        f"training with its evaluation. {_chance(summaries)}",
        "",
        f"![Points from plain fine-tuning on each set]({PICTURE})",
        "",
    ]
    return "\n".join(lines)


def _cell(summary: Summary | None) -> str:
    if summary is None:
        return ""
    several = len(summary.accuracies) > 1
    half = f" ± {summary.half_interval:.2f}" if several else ""
    return f"{summary.mean:.2f}{half}" + (f" (p {rounded(summary.p_value)})" if summary.p_value is not None else "")


def _gain(way: str, differences: np.ndarray) -> tuple[str, str]:
    if way == PLAIN:
        return "", ""
    tested = len(differences) > 1 and np.ptp(differences) > 0
    p = rounded(float(stats.ttest_1samp(differences, 0).pvalue)).removeprefix("= ") if tested else ""
    return f"{np.mean(differences):+.2f}", p


def _chance(summaries: Mapping[str, Mapping[str, Summary]]) -> str:
    tests = [summary.p_value for of_set in summaries.values() for summary in of_set.values() if summary.p_value]
    return f"Of {len(tests)} tests by set, {0.05 * len(tests):.1f} would come below 0.05 by chance." if tests else ""


def _draw(summaries: Mapping[str, Mapping[str, Summary]], path: Path) -> None:
    ways = [way for way in max(summaries.values(), key=len) if way != PLAIN]
    figure, panels = plt.subplots(
        1, len(summaries), figsize=(2 + 2.2 * len(summaries), 1.2 + 0.28 * len(ways)), sharey=True, squeeze=False
    )
    for axes, (name, of_set) in zip(panels[0], summaries.items(), strict=True):
        plain = of_set[PLAIN].accuracies
        axes.axvline(0, color=GREY, linewidth=0.8)
        for place, way in enumerate(ways):
            if way in of_set:
                gains = of_set[way].accuracies - plain
                gain = Summary(way, gains, None)
                axes.plot(gains, np.full(len(gains), place), "o", color="0.75", markersize=3)
                half = gain.half_interval if len(gains) > 1 else 0
                axes.errorbar(gain.mean, place, xerr=half, fmt="o", capsize=3, color="C0", markersize=5)
        axes.set_title(f"{name}\nplain: {plain.mean():.1f} %", fontsize=9)
        axes.tick_params(labelsize=8)
    panels[0][0].set_yticks(range(len(ways)), ways)
    panels[0][0].invert_yaxis()
    figure.supxlabel("points from plain fine-tuning; means with 95 % intervals, grey: each seed", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
