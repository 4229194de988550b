"""The folder of a run: which run it belongs to, its checkpoints and its history of metrics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import ml_collections
import tensorflow as tf

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
MODEL = "model.keras"
CLASSES = "classes.txt"
REPORT = "report.md"
_KEPT_CHECKPOINTS = 3


def claim(workdir: Path, config: ml_collections.ConfigDict, writes: bool = True) -> None:
    """Makes a folder this run's own, or recognises it as such.

    Args:
        workdir: Folder of the run; made if it is missing.
        config: The recipe with all overrides.
        writes: Whether this process is the one that writes.

    Raises:
        ValueError: If the folder holds another run.
    """
    path = workdir / CONFIG
    mine = json.loads(config.to_json())
    if path.is_file():
        theirs = json.loads(path.read_text())
        different = sorted(_different_fields(mine, theirs))
        if different:
            raise ValueError(
                f"{workdir} holds another run, whose config differs in {', '.join(different)}: choose another "
                "--workdir, or repeat that run's command to resume it."
            )
    elif tf.train.latest_checkpoint(str(workdir / CHECKPOINTS)) or (workdir / METRICS).exists():
        raise ValueError(f"{workdir} holds checkpoints or metrics but no {CONFIG}: choose another --workdir.")
    elif writes:
        workdir.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(mine, indent=2, sort_keys=True) + "\n")


def _different_fields(mine: Any, theirs: Any, prefix: str = "config") -> list[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return [
            field
            for key in mine.keys() | theirs.keys()
            for field in _different_fields(mine.get(key), theirs.get(key), f"{prefix}.{key}")
        ]
    return [] if mine == theirs else [f"{prefix} ({theirs!r} there, {mine!r} here)"]


class Checkpoints:
    """Checkpoints of a run, numbered by step; the newest three are kept.

    Args:
        workdir: Folder of the run.
        writes: Whether this process is the one whose checkpoints count. The others of a cluster have to
            take part in saving, and save to a folder of their own that is emptied again.
        worker: Number of this process.
        **variables: Keras variables of the run, in groups and in their order, which one recipe always
            repeats. Random number generators are among them; tracking the model would not find these.
    """

    def __init__(self, workdir: Path, writes: bool, worker: int, **variables: Sequence[keras.Variable]) -> None:
        groups = {name: [variable.value for variable in group] for name, group in variables.items()}
        self._checkpoint = tf.train.Checkpoint(**groups)
        self._read_folder = str(workdir / CHECKPOINTS)
        folder = self._read_folder if writes else str(workdir / f"{CHECKPOINTS}-worker{worker}")
        self._manager = tf.train.CheckpointManager(self._checkpoint, folder, max_to_keep=_KEPT_CHECKPOINTS)
        self._writes = writes

    def save(self, step: int) -> None:
        """Saves the state after `step` steps."""
        self._manager.save(checkpoint_number=step)
        if not self._writes:
            tf.io.gfile.rmtree(self._manager.directory)

    def restore_latest(self) -> int:
        """Restores the newest checkpoint and returns its step, or returns 0 if there is none."""
        path = tf.train.latest_checkpoint(self._read_folder)
        if path is None:
            return 0
        self._checkpoint.restore(path).assert_existing_objects_matched()
        return int(path.rpartition("-")[2])


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`, oldest first; none if there is no such file."""
    path = workdir / METRICS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def drop_metrics_after(workdir: Path, step: int) -> None:
    """Removes rows that a resumed run will write again."""
    rows = [row for row in read_metrics(workdir) if row["step"] <= step]
    if (workdir / METRICS).exists():
        (workdir / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))


def append_metrics(workdir: Path, row: dict[str, Any]) -> None:
    """Adds a row to `metrics.jsonl`."""
    with (workdir / METRICS).open("a") as file:
        file.write(json.dumps(row) + "\n")
