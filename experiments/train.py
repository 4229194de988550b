"""Trains a CoAtNet by a recipe, or resumes the run in the folder.

    python -m experiments.train --config=experiments/recipes/digits.py --workdir=runs/digits

Any field of the recipe can be overridden: `--config.epochs=3`, `--config.optimizer.learning_rate=5e-4`.
`--verbosity=1` adds what TensorFlow says.
Exit status: 0 when the run is complete, 75 when SIGTERM or the loss of another process stopped it and the same command
goes on, 1 otherwise.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import ml_collections
from absl import app, flags, logging
from etils import epath

from experiments import command_line, engine, loop, path_flags, recipe_flags
from experiments.stops import PREEMPTED_STATUS, Preempted, RunStopped


def main(argv: list[str]) -> None:
    command_line.begin(argv)
    options = {name: flags.FLAGS[name].value for name in ("tpu", "shards", "coordinator", "process_id", "processes")}
    run(recipe_flags.recipe(), epath.Path(flags.FLAGS.workdir), flags.FLAGS.strategy, **options)


def run(config: ml_collections.ConfigDict, folder: epath.Path, strategy: str = "one_device", **options: Any) -> None:
    """Trains, or resumes the run in the folder; ends the process with its status if it cannot be completed.

    Args:
        config: The recipe.
        folder: Folder of the run.
        strategy: See `engine.connect`.
        **options: Likewise.
    """
    signal.signal(signal.SIGTERM, _leave)  # the training loop has its own, which saves
    try:
        devices = engine.connect(strategy, **options)
    except (ValueError, ImportError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    try:
        _run(config, folder, devices)
    except Preempted as notice:
        logging.warning("%s", notice)
        sys.exit(PREEMPTED_STATUS)
    except RunStopped as reason:
        raise SystemExit(f"Stopped: {reason}") from reason
    except devices.lost_process as error:
        logging.error("Another process of the cluster is gone: %s", str(error).splitlines()[0])
        logging.error("Start all of them again with the same command, to go on from the newest checkpoint.")
        logging.flush()
        os._exit(PREEMPTED_STATUS)  # an ordinary exit would wait for the lost one


def _leave(*_: object) -> None:
    """Ends the process; before and after training nothing is lost that the same command would not do again."""
    logging.warning("Stopped by SIGTERM; the same command goes on.")
    logging.flush()
    os._exit(PREEMPTED_STATUS)


def _run(config: ml_collections.ConfigDict, folder: epath.Path, devices: engine.Devices) -> None:
    """Checks, builds and trains, in this order."""
    try:
        source = loop.prepare(config, folder, devices)
        start = loop.build(config, folder, devices, source)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    try:
        loop.train(config, folder, devices, source, *start)
    except OSError as error:  # of the folder; a full disk stops the run
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    recipe_flags.define_file(required=True)
    recipe_flags.define_start()
    path_flags.define("workdir", None, "Folder of the run; the same command resumes what it holds.")
    flags.DEFINE_string("strategy", "one_device", f"One of {', '.join(engine.STRATEGIES)}.")
    flags.DEFINE_string("tpu", None, "Name of the TPU, or `local` on a TPU VM; for --strategy=tpu.")
    flags.DEFINE_integer("shards", None, "Devices that hold one copy of the state together; all of them by default.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where several processes share a run.")
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0; for --coordinator.")
    flags.DEFINE_integer("processes", None, "Number of processes; for --coordinator.")
    flags.mark_flag_as_required("workdir")
    app.run(main)
