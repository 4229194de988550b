"""The folder of a run: which run it belongs to, its checkpoints and its history of metrics."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:  # export and serving need neither
    import keras
    import ml_collections

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
MODEL = "model.keras"
CLASSES = "classes.txt"
REPORT = "report.md"
_KEPT_CHECKPOINTS = 3


def check(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Refuses a folder that holds another run's checkpoints or metrics.

    Args:
        workdir: Folder of the run; it need not exist.
        config: The recipe with all overrides.

    Raises:
        ValueError: If the folder holds another run, or is a file.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir={workdir} is a file; give a folder.")
    if not (tf.train.latest_checkpoint(str(workdir / CHECKPOINTS)) or (workdir / METRICS).exists()):
        return  # a run that failed before its first checkpoint has no claim
    if not (workdir / CONFIG).is_file():
        raise ValueError(f"{workdir} holds checkpoints or metrics but no {CONFIG}: choose another --workdir.")
    different = sorted(_different_fields(json.loads(config.to_json()), json.loads((workdir / CONFIG).read_text())))
    if different:
        raise ValueError(
            f"{workdir} holds another run, whose config differs in {', '.join(different)}: choose another "
            "--workdir, or repeat that run's command to resume it."
        )


def claim(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Writes the config of the run into its folder, which is made if it is missing."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_whole(workdir / CONFIG, json.dumps(json.loads(config.to_json()), indent=2, sort_keys=True) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes a file that readers see whole or not at all."""
    unfinished = path.with_name(f".unfinished-{path.name}")
    unfinished.write_text(text)
    os.replace(unfinished, path)


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
    """The rows of `metrics.jsonl`, oldest first; none if there is no such file.

    A last line without an end was cut off when the run was killed, and is left out.
    """
    path = workdir / METRICS
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def drop_metrics_after(workdir: Path, step: int) -> None:
    """Removes rows that a resumed run will write again."""
    if (workdir / METRICS).exists():
        rows = [row for row in read_metrics(workdir) if row["step"] <= step]
        write_whole(workdir / METRICS, "".join(json.dumps(row) + "\n" for row in rows))


def append_metrics(workdir: Path, row: dict[str, Any]) -> None:
    """Adds a row to `metrics.jsonl`."""
    with (workdir / METRICS).open("a") as file:
        file.write(json.dumps(row) + "\n")
