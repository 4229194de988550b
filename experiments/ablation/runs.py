"""The trainings of a study, one process after the other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from etils import epath
from tqdm import tqdm

from experiments import workdir
from experiments.ablation import report
from experiments.ablation.statistics import summarise
from experiments.ablation.studies import STUDIES

RECIPE = "experiments/recipes/small_ablations.py"


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
        study: A key of `STUDIES`.
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
    variants = STUDIES[study].variants
    shared = folder / str(images)
    here = shared / study
    here.mkdir(parents=True, exist_ok=True)
    _check_overrides(shared / "overrides.txt", overrides)
    accuracies: dict[str, list[float]] = {variant: [] for variant in variants}
    runs = [(seed, variant) for seed in range(seeds) for variant in variants]
    for seed, variant in tqdm(runs, desc=study, unit="run"):
        place = (here / variant if variants[variant] else shared / "paper") / f"seed{seed}"
        accuracies[variant].append(train_one(study, variant, seed, images, place, overrides))
    return report.write(study, summarise(accuracies), images, here)


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
