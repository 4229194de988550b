"""Measures what helps when few images are fine-tuned on, each part alone and all together, against plain fine-tuning.

    python -m tools.small_sets --workdir=runs/small_sets --clip_art=/usr/share/openclipart/png
    python -m tools.small_sets --workdir=runs/small_sets --timm_python=/envs/timm/bin/python
    python -m tools.small_sets --workdir=runs/small_sets --report_only --write=docs/small_sets.md

Four sets are drawn by each seed from scikit-learn's digits, Fashion-MNIST (of Debian's package dataset-fashion-mnist)
and clip art (of openclipart-png; without --clip_art it is left out), and fine-tuned from weights of a small network
that is trained first on classes of Fashion-MNIST which no set has. A way is measured on all sets before the next way;
the same command goes on where it was stopped, and more --seeds add to those that are there. The table of what all seeds
have, with a picture, is in `study.md`, or between the markers of the page that --write names: accuracies with
intervals, paired tests against plain fine-tuning, seconds of processor time.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from absl import app, flags, logging
from etils import epath

from experiments import command_line, path_flags, train, workdir
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


def measure(folder: Path, ways: Sequence[str], seeds: int, places: images.Places, timm_python: str) -> None:
    """Measures what is not there yet.

    Args:
        folder: Of the study.
        ways: Some of `parts.WAYS`.
        seeds: Number of seeds, from 0.
        places: As of `images.draw`; a set without its images is left out.
        timm_python: As of `parts.ask_timm`; empty to leave timm out.
    """
    drawn = {
        name: {seed: images.draw(name, small, seed, folder / "images", places) for seed in range(seeds)}
        for name, small in images.SETS.items()
        if small.source != "clip_art" or places.clip_art
    }
    start = pretrain(folder, places)
    for way in ways:
        for name, tables in drawn.items():
            if not parts.is_for(way, images.SETS[name]) or (way in parts.OF_TIMM and not timm_python):
                continue
            missing = {seed: table for seed, table in tables.items() if not _file(folder, name, way, seed).is_file()}
            for seed, measured in _measure(folder, start, name, way, missing, timm_python):
                file = _file(folder, name, way, seed)
                file.parent.mkdir(parents=True, exist_ok=True)
                workdir.write_whole(epath.Path(file), json.dumps(measured) + "\n")
                logging.info("%s, %s, seed %d: %.2f %%", way, name, seed, measured["accuracy"])


def _measure(
    folder: Path, start: Path, name: str, way: str, tables: Mapping[int, Path], timm_python: str
) -> Iterator[tuple[int, parts.Measured]]:
    """Measures a way on the tables of some seeds."""
    if way != parts.LOGISTIC and way not in parts.OF_TIMM:
        yield from parts.fine_tune_all(start, tables, parts.part_of(way, images.SETS[name]))
        return
    for seed, table in tables.items():
        if way == parts.LOGISTIC:
            yield seed, parts.regress(start, table)
        else:
            ours = json.loads(_file(folder, name, parts.OF_TIMM[way], seed).read_text())
            yield seed, parts.ask_timm(timm_python, start, table, seed, ours["seconds"])


def _file(folder: Path, name: str, way: str, seed: int) -> Path:
    """Where a result is kept."""
    return folder / "results" / name.replace(" ", "_") / way.replace(" ", "_") / f"seed{seed}.json"


def read(folder: Path, seeds: int) -> report.Results:
    """The results of the ways that all seeds have."""
    found: report.Results = {}
    for name in images.SETS:
        for way in parts.WAYS:
            files = [_file(folder, name, way, seed) for seed in range(seeds)]
            if all(file.is_file() for file in files):
                found.setdefault(name, {})[way] = [json.loads(file.read_text()) for file in files]
    if not found or any(parts.PLAIN not in of_set for of_set in found.values()):
        raise ValueError(f"{folder} has no results of {seeds} seeds of plain fine-tuning, to compare with.")
    return found


def main(argv: list[str]) -> None:
    command_line.begin(argv)
    values = flags.FLAGS
    folder, places = Path(values.workdir), images.Places(values.fashion_mnist, values.clip_art or "")
    try:
        if not values.report_only:
            measure(folder, values.way, values.seeds, places, values.timm_python or "")
        print(report.write(read(folder, values.seeds), Path(values.write or folder / "study.md")))
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    path_flags.define("workdir", "runs/small_sets", "Folder of the study; the same command resumes what it holds.")
    path_flags.define("fashion_mnist", images.Places.fashion_mnist, "Folder of Fashion-MNIST's gzipped IDX files.")
    path_flags.define("clip_art", None, "Folder png of Debian's package openclipart-png; without it three sets.")
    path_flags.define("timm_python", None, "Python of an environment that has torch and timm; without it no such row.")
    path_flags.define("write", None, "Markdown file that gets the table, and beside it the picture.")
    flags.DEFINE_multi_enum("way", list(parts.WAYS), list(parts.WAYS), "What to measure, in this order; all of them.")
    flags.DEFINE_integer("seeds", 5, "Number of seeds.", lower_bound=1)
    flags.DEFINE_bool("report_only", False, "Measure nothing more.")
    app.run(main)
