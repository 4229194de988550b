"""Measures what helps when few images are fine-tuned on, each part alone and all together, against plain fine-tuning.

    python -m tools.small_sets --workdir=runs/small_sets --clip_art=/usr/share/openclipart/png
    python -m tools.small_sets --workdir=runs/small_sets --timm_python=/envs/timm/bin/python --output=docs

Four sets are drawn by each seed from scikit-learn's digits, Fashion-MNIST (of Debian's package dataset-fashion-mnist)
and clip art (of openclipart-png; without --clip_art it is left out), and fine-tuned from weights of a small network
that is trained first on classes of Fashion-MNIST which no set has. The same command goes on where it was stopped, and
more --seeds add to those that are there. `small_sets.md` and `small_sets.png` in --output have the table and the
picture: accuracies with intervals, paired tests against plain fine-tuning, seconds of processor time.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from absl import app, flags, logging
from etils import epath

from experiments import logs, path_flags, train, workdir
from experiments.recipes import small_sets
from tools.small_sets import images, parts, report


def pretrain(folder: Path, places: images.Places) -> Path:
    """Trains the weights that all begin with, or finds them; returns the folder of their run."""
    start = folder / "pretrained"
    if not (start / workdir.MODEL).is_file():
        config = small_sets.get_config()
        config.dataset.name = f"csv:{images.draw('pretraining', images.PRETRAINING, 0, folder / 'images', places)}"
        train.run(config, epath.Path(start))
    return start


def measure(folder: Path, seeds: int, places: images.Places, timm_python: str) -> report.Results:
    """Measures what is not there yet.

    Args:
        folder: Of the study.
        seeds: Number of seeds, from 0.
        places: As of `images.draw`; a set without its images is left out.
        timm_python: As of `parts.ask_timm`; empty to leave timm out.

    Returns:
        By set and by way, one for each seed.
    """
    start = pretrain(folder, places)
    sets = {name: small for name, small in images.SETS.items() if small.source != "clip_art" or places.clip_art}
    found: report.Results = {}
    for name, small in sets.items():
        tables = {seed: images.draw(name, small, seed, folder / "images", places) for seed in range(seeds)}
        for way in [*parts.parts_of(small), parts.LOGISTIC, *([parts.TIMM] if timm_python else [])]:
            kept = {seed: _file_of(folder, table, way, seed) for seed, table in tables.items()}
            missing = {seed: table for seed, table in tables.items() if not kept[seed].is_file()}
            plain = found.get(name, {}).get(parts.PLAIN, [])
            for seed, measured in _measure(start, missing, small, way, timm_python, plain):
                kept[seed].parent.mkdir(parents=True, exist_ok=True)
                workdir.write_whole(epath.Path(kept[seed]), json.dumps(measured) + "\n")
                logging.info("%s, %s, seed %d: %.2f %%", name, way, seed, measured["accuracy"])
            found.setdefault(name, {})[way] = [json.loads(file.read_text()) for file in kept.values()]
    return found


def _file_of(folder: Path, table: Path, way: str, seed: int) -> Path:
    return folder / "results" / table.parent.name / way.replace(" ", "_") / f"seed{seed}.json"


def _measure(
    start: Path,
    tables: Mapping[int, Path],
    small: images.SmallSet,
    way: str,
    timm_python: str,
    plain: Sequence[parts.Measured],
) -> Iterator[tuple[int, parts.Measured]]:
    """Measures a way on the tables of some seeds."""
    if way == parts.LOGISTIC:
        return ((seed, parts.regress(start, table)) for seed, table in tables.items())
    if way == parts.TIMM:
        return (
            (seed, parts.ask_timm(timm_python, start, table, seed, plain[seed]["seconds"]))
            for seed, table in tables.items()
        )
    return parts.fine_tune_all(start, tables, parts.parts_of(small)[way])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"What does {argv[1]!r} mean? This program takes flags only.")
    logs.show_ours()
    values = flags.FLAGS
    try:
        places = images.Places(values.fashion_mnist, values.clip_art or "")
        results = measure(Path(values.workdir), values.seeds, places, values.timm_python or "")
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    print(report.write(results, Path(values.output or values.workdir)))


if __name__ == "__main__":
    path_flags.define("workdir", "runs/small_sets", "Folder of the study; the same command resumes what it holds.")
    path_flags.define("fashion_mnist", images.Places.fashion_mnist, "Folder of Fashion-MNIST's gzipped IDX files.")
    path_flags.define("clip_art", None, "Folder png of Debian's package openclipart-png; without it three sets.")
    path_flags.define("timm_python", None, "Python of an environment that has torch and timm; without it no such row.")
    path_flags.define("output", None, "Folder for the table and the picture; --workdir by default.")
    flags.DEFINE_integer("seeds", 5, "Number of seeds.", lower_bound=1)
    app.run(main)
