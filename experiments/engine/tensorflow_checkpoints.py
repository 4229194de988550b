"""TensorFlow's checkpoints."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from etils import epath

from experiments import workdir
from experiments.engine.checkpoints import KEPT, Checkpoints, Reader
from experiments.engine.devices import Devices
from experiments.stops import RunStopped


class TensorFlowCheckpoints(Checkpoints):
    """Checkpoints by `tf.train.CheckpointManager`.

    Random number generators are variables among the others; tracking the model would not find these.

    Args:
        folder: Folder of the run.
        state: Variables of the run.
        devices: Those of the run.
        worker: Number of this process. All but the chief save to a folder of their own that is emptied again.
    """

    def __init__(
        self, folder: epath.Path, state: dict[str, list[keras.Variable]], devices: Devices, worker: int
    ) -> None:
        super().__init__(folder, state, devices)
        self._checkpoint = tf.train.Checkpoint(**{name: [v.value for v in group] for name, group in state.items()})
        own = self._folder if devices.is_chief else folder / f"{workdir.CHECKPOINTS}-worker{worker}"
        if devices.is_chief:
            _remove_unfinished(own)
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(own), max_to_keep=KEPT)

    def save(self, step: int) -> None:
        try:
            self._manager.save(checkpoint_number=step)
        except self._devices.lost_process:
            raise
        except (tf.errors.OpError, OSError) as error:
            _remove_unfinished(epath.Path(self._manager.directory))
            raise RunStopped(self._cannot_save(step, error)) from error
        self._saved = step
        if not self._devices.is_chief:
            tf.io.gfile.rmtree(self._manager.directory)

    def _is_own(self, path: epath.Path) -> bool:
        return path.name.startswith("ckpt-")

    def _restore(self, path: epath.Path) -> None:
        self._checkpoint.restore(str(path)).assert_existing_objects_matched()

    def _open_other(self, path: epath.Path) -> Reader:
        try:
            from experiments.engine import orbax_checkpoints
        except ImportError as error:
            raise ImportError(
                f"{path} was written by --strategy=sharded; to go on from it, pip install 'coatnet_tf[sharded]'."
            ) from error
        return orbax_checkpoints.read(path)


def read(path: epath.Path) -> Reader:
    """Opens a checkpoint of TensorFlow's engine."""
    reader = tf.train.load_checkpoint(str(path))

    def value(name: str, index: int) -> np.ndarray:
        return np.asarray(reader.get_tensor(f"{name}/{index}/.ATTRIBUTES/VARIABLE_VALUE"))

    return value


def _remove_unfinished(folder: epath.Path) -> None:
    """Removes what a killed process left of a checkpoint: parts without an index, which is written last."""
    for path in folder.glob("ckpt-*"):
        step = path.name.partition(".")[0]
        if not (folder / f"{step}.index").exists():
            tf.io.gfile.rmtree(str(path)) if path.is_dir() else path.unlink()
            logging.warning("Removed %s, a part of an unfinished checkpoint.", path)
