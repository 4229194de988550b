"""Why a run stops before its end."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from absl import logging

PREEMPTED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: repeat the command


class RunStopped(Exception):
    """The run cannot go on; its message says why, and what to do."""


class Preempted(Exception):
    """The machine is wanted back; the state has been saved."""


class Preemption:
    """Notes SIGTERM, so that the run can save its state at the end of the step it is in.

    TensorFlow's `PreemptionCheckpointHandler` does so too, but counts calls of its own and saves in a folder of
    its own; here the state is an ordinary checkpoint of the run.
    """

    noticed = False

    def __enter__(self) -> Preemption:
        self._previous: Any = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self.noticed = True
        logging.warning("SIGTERM: saving after the current steps, then stopping.")
