"""Checkpoints of sharded states, by Orbax: each process writes and reads its shards."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from experiments.engine.checkpoints import KEPT, Checkpoints, Reader
from experiments.engine.devices import Devices
from experiments.stops import RunStopped

_SUMS = "sums"


class OrbaxCheckpoints(Checkpoints):
    """Checkpoints by `orbax.checkpoint.CheckpointManager`, written in the background; see `Checkpoints`."""

    def __init__(self, folder: epath.Path, state: dict[str, list[keras.Variable]], devices: Devices) -> None:
        super().__init__(folder, state, devices)
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, step_prefix="step", cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self._folder.absolute(), options=options)
        self._writing = 0  # the step that is being written

    def save(self, step: int) -> None:
        self.wait()
        state = values_of(self._state)
        try:
            if step in self._manager.all_steps(read=True):
                self._manager.delete(step)  # one that was passed over
            self._manager.save(step, args=ocp.args.StandardSave({**state, _SUMS: _sums(state)}), force=True)
        except OSError as error:
            raise RunStopped(self._cannot_save(step, error)) from error
        self._writing = step

    def wait(self) -> None:
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:  # tensorstore raises ValueError
            raise RunStopped(self._cannot_save(self._writing, error)) from error
        self._saved = max(self._saved, self._writing)

    def _is_own(self, path: epath.Path) -> bool:
        return path.name.startswith("step_")

    def _restore(self, path: epath.Path) -> None:
        def place(variable: keras.Variable) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(variable.shape, variable.value.dtype, sharding=variable.value.sharding)

        target = {name: [place(variable) for variable in group] for name, group in self._state.items()}
        target[_SUMS] = jax.eval_shape(_sums, target)
        step = int(path.name.removeprefix("step_"))
        values = self._manager.restore(step, args=ocp.args.StandardRestore(target))
        sums = values.pop(_SUMS)
        if jax.tree.map(int, sums) != jax.tree.map(int, _sums(values)):
            raise ValueError("the sums of its values are not those that were saved")
        for name, group in self._state.items():
            for variable, value in zip(group, values[name], strict=True):
                variable.assign(value)

    def _open_other(self, path: epath.Path) -> Reader:
        from experiments.engine import tensorflow_checkpoints

        return tensorflow_checkpoints.read(path)


@jax.jit
def _sums(state: dict[str, list[jax.Array]]) -> list[jax.Array]:
    """A sum of the bits of each array: tensorstore notices what is missing, but not what has changed."""
    return [_sum_of_bits(value) for _, group in sorted(state.items()) for value in group]


def _sum_of_bits(value: jax.Array) -> jax.Array:
    words = jax.lax.bitcast_convert_type(value, jnp.dtype(f"uint{8 * value.dtype.itemsize}"))
    return jnp.sum(words, dtype=jnp.uint32)


def values_of(state: dict[str, list[keras.Variable]]) -> dict[str, list[jax.Array]]:
    """The values that variables have now."""
    return {name: [variable.value for variable in group] for name, group in state.items()}


def write(path: epath.Path, state: dict[str, list[keras.Variable]]) -> None:
    """Writes variables as a checkpoint of its own."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), values_of(state), force=True)


def read(path: epath.Path) -> Reader:
    """Opens a checkpoint; each value is read when it is asked for, whole, on this process alone."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="read"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    checkpointer = ocp.Checkpointer(handler, multiprocessing_options=alone)
    path = (path / "default" if (path / "default").exists() else path).absolute()  # a manager's, or one of its own
    saved = checkpointer.metadata(path).item_metadata.tree

    def value(name: str, index: int) -> np.ndarray:
        wanted = {group: [ocp.PLACEHOLDER] * len(values) for group, values in saved.items()}
        wanted[name][index] = 0
        as_arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        return checkpointer.restore(path, args=ocp.args.PyTreeRestore(wanted, as_arrays))[name][index]

    return value


class Stored:
    """A value that stays in a checkpoint until somebody needs it as an array."""

    def __init__(self, read: Reader, name: str, index: int) -> None:
        self._read, self._place = read, (name, index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._read(*self._place).astype(dtype)
