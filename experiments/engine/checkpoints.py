"""Checkpoints of a run, numbered by step; the newest three are kept, and either engine goes on from the other's."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from absl import logging
from etils import epath

from experiments import workdir
from experiments.stops import RunStopped

if TYPE_CHECKING:
    from experiments.engine.devices import Devices

KEPT = 3

# Name of a group of variables and place in it, to the value that a checkpoint has.
Reader = Callable[[str, int], np.ndarray]


class Checkpoints(abc.ABC):
    """Saves and restores the state of a run; all of its processes have to take part.

    Args:
        folder: Folder of the run.
        state: Variables of the run in groups by name, in an order that one recipe always repeats on every engine.
        devices: Those of the run.
    """

    def __init__(self, folder: epath.Path, state: dict[str, list[keras.Variable]], devices: Devices) -> None:
        self._folder = folder / workdir.CHECKPOINTS
        self._run, self._state, self._devices = folder, state, devices
        self._saved = 0  # the newest step of which there is a checkpoint

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Lets what is being written come to its end, unless another process is missing for it."""
        if not isinstance(error, self._devices.lost_process):
            with contextlib.suppress(RunStopped) if error else contextlib.nullcontext():
                self.wait()

    @abc.abstractmethod
    def save(self, step: int) -> None:
        """Saves the state after `step` steps, perhaps in the background.

        Raises:
            RunStopped: If the file system refuses, such as a full disk; what was saved before is as it was.
        """

    def wait(self) -> None:  # noqa: B027  (most have nothing to wait for)
        """Waits until all that was saved is on the disk.

        Raises:
            RunStopped: As `save`.
        """

    @abc.abstractmethod
    def _is_own(self, path: epath.Path) -> bool:
        """Whether this engine wrote a checkpoint."""

    @abc.abstractmethod
    def _restore(self, path: epath.Path) -> None:
        """Restores a checkpoint of this engine."""

    @abc.abstractmethod
    def _open_other(self, path: epath.Path) -> Reader:
        """Opens a checkpoint of the other engine."""

    def restore_latest(self) -> int:
        """Restores the newest checkpoint that can be read and returns its step, or returns 0 if there is none.

        Raises:
            ValueError: If there are checkpoints and none can be read.
            ImportError: If the newest is of an engine whose libraries are not installed.
        """
        found = workdir.find_checkpoints(self._run)
        for step, path in sorted(found, key=lambda entry: (entry[0], self._is_own(entry[1])), reverse=True):
            try:
                if self._is_own(path):
                    self._restore(path)
                else:
                    self._take_over(self._open_other(path))
                    logging.info("%s was written by the other engine, whose state this one takes over.", path)
            except ImportError:
                raise
            except Exception as error:  # the libraries have many
                logging.error("%s is damaged and is passed over: %s", path, (str(error) or repr(error)).splitlines()[0])
                continue
            self._saved = step
            return step
        if found:
            raise ValueError(
                f"None of the {len(found)} checkpoints in {self._folder} can be read; restore them from a copy, "
                "or choose another --workdir to begin anew."
            )
        return 0

    def _take_over(self, read: Reader) -> None:
        """Gives each variable its value, one after the other."""
        for name, variables in self._state.items():
            for index, variable in enumerate(variables):
                variable.assign(read(name, index).astype(variable.dtype))

    def _cannot_save(self, step: int, error: Exception) -> str:
        """Why a run has to stop."""
        return (
            f"The checkpoint of step {step} could not be written to {self._folder} "
            f"({str(error).splitlines()[0]}). The last good one is of step {self._saved}; make room and repeat "
            "the command to go on from there."
        )
