"""Means over seeds, their intervals, and whether variants differ by more than chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from experiments.ablation.studies import Study

SIGNIFICANT = 0.05


@dataclasses.dataclass(frozen=True)
class Summary:
    """A variant over the seeds, in percent.

    Args:
        name: Of the variant.
        accuracies: By seed.
        p_value: Of the paired t-test against the first variant; `None` for that one, and for fewer than two seeds.
    """

    name: str
    accuracies: np.ndarray
    p_value: float | None

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds; not a number for one."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else float("nan")

    @property
    def half_interval(self) -> float:
        """Half of the 95 % interval of the mean, by Student's t."""
        count = len(self.accuracies)
        return float(stats.t.ppf(0.975, count - 1) * self.deviation / count**0.5) if count > 1 else float("nan")


def summarise(accuracies: Mapping[str, Sequence[float]]) -> list[Summary]:
    """Compares variants with the first.

    Args:
        accuracies: By variant, in percent, one a seed in the same order.

    Returns:
        A `Summary` each.
    """
    first = np.asarray(next(iter(accuracies.values())))
    summaries: list[Summary] = []
    for name, by_seed in accuracies.items():
        values = np.asarray(by_seed)
        paired = summaries and len(first) > 1 and np.ptp(values - first) > 0
        summaries.append(Summary(name, values, float(stats.ttest_rel(values, first).pvalue) if paired else None))
    return summaries


def conclude(study: Study, summaries: Sequence[Summary]) -> str:
    """Whether the paper's ordering shows, in one sentence."""
    larger, smaller = study.larger
    by_name = {summary.name: summary for summary in summaries}
    if not smaller:
        gap = max(summary.mean for summary in summaries) - min(summary.mean for summary in summaries)
        return f"The paper finds no difference; here the means differ by {gap:.2f} points."
    parts = []
    for name in smaller:
        difference = by_name[larger].accuracies - by_name[name].accuracies
        mean = float(np.mean(difference))
        if len(difference) < 2:
            verdict = "one seed says nothing about chance"
        else:
            p = float(stats.ttest_1samp(difference, 0).pvalue) if np.ptp(difference) else 0.0
            verdict = f"p {rounded(p)}, " + ("more than chance" if p < SIGNIFICANT else "which may be chance")
        order = "as in the paper" if mean > 0 else "against the paper"
        parts.append(f"{larger} is {mean:+.2f} points from {name}, {order} ({verdict})")
    return "; ".join(parts) + "."


def rounded(p: float) -> str:
    """A p-value with its sign of comparison."""
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"
