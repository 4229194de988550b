"""Trains a CoAtNet by a recipe, or resumes the run in the folder.

    python -m experiments.train --config=experiments/recipes/digits.py --workdir=runs/digits

Any field of the recipe can be overridden: `--config.epochs=3`, `--config.optimizer.learning_rate=5e-4`.
"""

from __future__ import annotations

from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from experiments import loop
from experiments.strategies import STRATEGIES, make_strategy


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"What does {argv[1]!r} mean? This program takes flags only.")
    logging.set_verbosity(logging.INFO)
    config, folder = flags.FLAGS.config, Path(flags.FLAGS.workdir)
    try:
        strategy = make_strategy(flags.FLAGS.strategy, flags.FLAGS.tpu)
        source = loop.prepare(config, folder, strategy)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    loop.train(config, folder, strategy, source)


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "The recipe.", lock_config=True)
    flags.DEFINE_string("workdir", None, "Folder of the run; the same command resumes what it holds.")
    flags.DEFINE_string("strategy", "one_device", f"One of {', '.join(STRATEGIES)}.")
    flags.DEFINE_string("tpu", "", "Name of the TPU, or `local` on a TPU VM; for --strategy=tpu.")
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
