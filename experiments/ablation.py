"""Runs an ablation of the paper at small scale, and reports it beside the paper's numbers.

    python -m experiments.ablation --study=relative_attention --seeds=5 --workdir=runs/ablation
    python -m experiments.ablation --study=stages --seeds=3 --images=2000 --workdir=runs/ablation -- --config.epochs=12

One process after the other, all variants of a seed before the next seed; the same command goes on where it was stopped,
and more seeds add to those that are there. All studies of as many images share the runs of the paper's own network, in
`1000/paper`; the folder of the study, such as `1000/stages`, gets `study.md` (mean, standard deviation, 95 % interval,
paired t-test against the paper's own network) and `study.png`.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from absl import app, flags
from etils import epath
from scipy import stats
from tqdm import tqdm

from experiments import workdir
from experiments.recipes import small_ablations

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SIGNIFICANT = 0.05
RECIPE = "experiments/recipes/small_ablations.py"


@dataclasses.dataclass(frozen=True)
class Published:
    """What the paper says.

    Args:
        where: The table or figure, and what was measured.
        values: Accuracy in percent by variant; none where the paper has a curve only.
        larger: A variant that should be more accurate than others, and those.
    """

    where: str
    values: Mapping[str, float]
    larger: tuple[str, tuple[str, ...]]


PUBLISHED = {
    "relative_attention": Published(
        "Table 6: CoAtNet-2 on ImageNet-1K at 224", {"with": 84.1, "without": 83.8}, ("with", ("without",))
    ),
    "layout": Published(
        "Table 7: CoAtNet-2 on ImageNet-1K at 224", {"V0": 84.1, "V1": 83.4, "V2": 84.0}, ("V0", ("V1", "V2"))
    ),
    "head_size": Published(
        "Table 8: CoAtNet-2 on ImageNet-1K at 224, heads of 32 and 64", {"16": 84.1, "32": 83.9}, ("16", ("32",))
    ),
    "norm": Published(
        "Table 8: CoAtNet-2 on ImageNet-1K at 224", {"batch_norm": 84.1, "layer_norm": 84.1}, ("batch_norm", ())
    ),
    "downsampling": Published(
        "Tables 4 and 9: CoAtNet-0 on ImageNet-1K at 224",
        {"expand_conv": 81.6, "depthwise_conv": 82.0},
        ("depthwise_conv", ("expand_conv",)),
    ),
    "stages": Published(
        "Figure 1 (curves only): of few data the convolutional ones generalise best, C-C-C-C about as C-C-C-T, then "
        "C-C-T-T, then C-T-T-T, and ViT far behind",
        {},
        ("C-C-C-C", ("C-C-T-T", "C-T-T-T", "ViT")),
    ),
}


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
    summaries = []
    for name, values in accuracies.items():
        values = np.asarray(values)
        paired = summaries and len(first) > 1 and np.ptp(values - first) > 0
        summaries.append(Summary(name, values, float(stats.ttest_rel(values, first).pvalue) if paired else None))
    return summaries


def conclude(study: str, summaries: Sequence[Summary]) -> str:
    """Whether the paper's ordering shows, in one sentence."""
    larger, smaller = PUBLISHED[study].larger
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
            verdict = f"p {_rounded(p)}, " + ("more than chance" if p < SIGNIFICANT else "which may be chance")
        order = "as in the paper" if mean > 0 else "against the paper"
        parts.append(f"{larger} is {mean:+.2f} points from {name}, {order} ({verdict})")
    return "; ".join(parts) + "."


def _rounded(p: float) -> str:
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"


def report(study: str, summaries: Sequence[Summary], images: int, folder: Path) -> str:
    """Writes `study.md` and `study.png`.

    Args:
        study: Its name.
        summaries: Of all variants.
        images: Number of training images.
        folder: Where to.

    Returns:
        The text of `study.md`.
    """
    published = PUBLISHED[study]
    seeds = len(summaries[0].accuracies)
    lines = [
        f"# {study}: {seeds} seed{'s' * (seeds > 1)}, {images:,} images of Fashion-MNIST",
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
            "" if summary.p_value is None else _rounded(summary.p_value).removeprefix("= "),
            f"{published.values[summary.name]:.1f}" if summary.name in published.values else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", conclude(study, summaries), "", f"The paper: {published.where}.", "", "![](study.png)", ""]
    text = "\n".join(lines)
    (folder / "study.md").write_text(text)
    _plot(study, summaries, folder / "study.png")
    return text


def _plot(study: str, summaries: Sequence[Summary], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(max(5.0, 1.5 + 1.3 * len(summaries)), 3.8))
    places = np.arange(len(summaries))
    for of_a_seed in zip(*(summary.accuracies for summary in summaries), strict=True):
        axes.plot(places, of_a_seed, "o-", color="0.75", markersize=4, linewidth=0.8)
    means = [summary.mean for summary in summaries]
    axes.errorbar(places, means, [summary.half_interval for summary in summaries], fmt="o", capsize=5)
    axes.set_xticks(places, [summary.name for summary in summaries])
    axes.set_xlim(-0.5, len(summaries) - 0.5)
    axes.set_ylabel("held-out accuracy, %")
    axes.set_title(f"{study}: means with 95 % intervals; grey: each seed", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def train(study: str, variant: str, seed: int, images: int, folder: Path, overrides: Sequence[str]) -> float:
    """Trains one run in a process of its own, or reads a finished one.

    Args:
        study: Its name.
        variant: A variant of it.
        seed: The seed.
        images: Number of training images.
        folder: Folder of the run.
        overrides: Further flags for `experiments.train`.

    Returns:
        Held-out accuracy in percent.

    Raises:
        RuntimeError: If the run fails; its output is in `train.log`.
    """
    if not (folder / workdir.MODEL).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        config = f"--config={RECIPE}:{study},{variant},{images}"
        command = [sys.executable, "-m", "experiments.train", config, f"--workdir={folder}", f"--config.seed={seed}"]
        with (folder / "train.log").open("a") as log:
            done = subprocess.run([*command, *overrides], stdout=log, stderr=subprocess.STDOUT, env=os.environ)
        if done.returncode:
            raise RuntimeError(
                f"{study}, {variant}, seed {seed} ended with status {done.returncode}; see {folder / 'train.log'}, and "
                "run the same command again to go on."
            )
    return 100 * float(workdir.result_of(workdir.read_metrics(epath.Path(folder)))["eval_accuracy"])


def run(
    study: str,
    seeds: int,
    images: int,
    folder: Path,
    overrides: Sequence[str] = (),
    train_one: Callable[..., float] = train,
) -> str:
    """Runs a study, or what of it is missing.

    Args:
        study: A key of `small_ablations.STUDIES`.
        seeds: Number of seeds, from 0.
        images: Number of training images.
        folder: Folder of all studies.
        overrides: Further flags for `experiments.train`, such as `--config.dataset.data_dir=DIR`.
        train_one: What trains a run.

    Returns:
        The report.

    Raises:
        RuntimeError: If a run fails, or the folder holds runs with other overrides.
    """
    variants = small_ablations.STUDIES[study]
    shared = folder / str(images)
    here = shared / study
    here.mkdir(parents=True, exist_ok=True)
    _check_overrides(shared / "overrides.txt", overrides)
    accuracies: dict[str, list[float]] = {variant: [] for variant in variants}
    runs = [(seed, variant) for seed in range(seeds) for variant in variants]
    for seed, variant in tqdm(runs, desc=study, unit="run"):
        place = (here / variant if variants[variant] else shared / "paper") / f"seed{seed}"
        accuracies[variant].append(train_one(study, variant, seed, images, place, overrides))
    return report(study, summarise(accuracies), images, here)


def _check_overrides(record: Path, overrides: Sequence[str]) -> None:
    """Refuses to compare runs with runs that were trained otherwise."""
    given = " ".join(overrides)
    found = record.read_text() if record.is_file() else given
    if found != given:
        raise RuntimeError(
            f"The runs in {record.parent} were trained with {found or 'no overrides'}, not with "
            f"{given or 'none'}: give the same, or another --workdir."
        )
    record.write_text(given)


def main(argv: Sequence[str]) -> None:
    values = flags.FLAGS
    try:
        print(run(values.study, values.seeds, values.images, Path(values.workdir), argv[1:]))
    except RuntimeError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    flags.DEFINE_enum("study", None, list(small_ablations.STUDIES), "What to vary.")
    flags.DEFINE_integer("seeds", 5, "Number of seeds.", lower_bound=1)
    flags.DEFINE_integer("images", 1000, "Number of training images.", lower_bound=100)
    flags.DEFINE_string("workdir", "runs/ablation", "Folder of all studies.")
    flags.mark_flags_as_required(["study"])
    app.run(main)
