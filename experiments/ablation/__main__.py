"""Runs an ablation of the paper at small scale, and reports it beside the paper's numbers.

    python -m experiments.ablation --study=relative_attention --seeds=5 --workdir=runs/ablation
    python -m experiments.ablation --study=stages --seeds=3 --images=2000 --workdir=runs/ablation -- --config.epochs=12

One process after the other, all variants of a seed before the next seed; the same command goes on where it was stopped,
and more seeds add to those that are there. All studies of as many images share the runs of the paper's own network, in
`1000/paper`; the folder of the study, such as `1000/stages`, gets `study.md` (mean, standard deviation, 95 % interval,
paired t-test against the paper's own network) and `study.png`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments import path_flags
from experiments.ablation import runs
from experiments.ablation.studies import STUDIES


def main(argv: Sequence[str]) -> None:
    values = flags.FLAGS
    try:
        print(runs.run(values.study, values.seeds, values.images, Path(values.workdir), argv[1:]))
    except RuntimeError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    flags.DEFINE_enum("study", None, list(STUDIES), "What to vary.")
    flags.DEFINE_integer("seeds", 5, "Number of seeds.", lower_bound=1)
    flags.DEFINE_integer("images", 1000, "Number of training images.", lower_bound=100)
    path_flags.define("workdir", "runs/ablation", "Folder of all studies.")
    flags.mark_flags_as_required(["study"])
    app.run(main)
