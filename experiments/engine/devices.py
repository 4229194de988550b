"""What a run's batches are shared among: devices, of one process or several."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import keras
import ml_collections
from etils import epath

from experiments.data.sources import Source

if TYPE_CHECKING:
    from experiments.engine.checkpoints import Checkpoints
    from experiments.engine.engine import Engine


class Devices(abc.ABC):
    """The devices that share each batch of a run, and the processes that they belong to."""

    # How the others of a cluster learn that one is gone.
    lost_process: tuple[type[Exception], ...] = ()
    # Whether damaged images are counted: where a host's input runs no Python, they are not.
    counts_damaged = True

    @property
    @abc.abstractmethod
    def replicas(self) -> int:
        """Number of the devices, of all processes together."""

    @property
    @abc.abstractmethod
    def is_chief(self) -> bool:
        """Whether this process writes metrics and reports."""

    @property
    @abc.abstractmethod
    def hold_features(self) -> bool:
        """Whether features of all images can be computed and held: by one process."""

    @property
    @abc.abstractmethod
    def meets_in_parts(self) -> bool:
        """Whether BatchNorm can be of all devices where a batch is taken in parts or activations are recomputed."""

    @abc.abstractmethod
    def __str__(self) -> str:
        """The devices for people."""

    @abc.abstractmethod
    def gather(self, numbers: Sequence[int]) -> list[int]:
        """The numbers of all processes, at least one of each, one after the other; all have to ask, and wait."""

    def engine(
        self,
        config: ml_collections.ConfigDict,
        source: Source,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        load: Callable[[keras.Model], None] | None = None,
    ) -> Engine:
        """The model of a recipe on these devices, with its step; arguments as of `Engine`."""
        return self._engine_class()(config, source, schedule, self, load)

    @abc.abstractmethod
    def _engine_class(self) -> type[Engine]:
        """What trains on these devices."""

    @abc.abstractmethod
    def checkpoints(self, workdir: epath.Path, state: dict[str, list[keras.Variable]]) -> Checkpoints:
        """The checkpoints of a run.

        Args:
            workdir: Folder of the run.
            state: See `Engine.state`.
        """

    def on_any_process(self, condition: bool) -> bool:
        """Whether a condition holds on any process; all have to ask, and wait for one another."""
        return any(self.gather([condition]))

    def same_on_all(self, value: int) -> bool:
        """Whether all processes have the same value; all have to ask, and wait for one another."""
        return len(set(self.gather([value]))) == 1

    def union_over_processes(self, names: Iterable[str]) -> set[str]:
        """The names, without line breaks, that any process has; all have to ask, and wait for one another."""
        letters = self.gather([*"".join(f"{name}\n" for name in {*names, ""}).encode()])
        return {*bytes(letters).decode().split("\n")} - {""}

    def chief_first(self, do: Callable[[], None]) -> None:
        """Calls a function on the chief, then on the other processes, which wait for it.

        What the chief prepares in a folder that all share is there when the others look.
        """
        error: Exception | None = None
        if self.is_chief:
            try:
                do()
            except Exception as raised:
                error = raised
        if self.on_any_process(error is not None):
            raise error or ValueError("The chief of the cluster has stopped; its log says why.")
        if not self.is_chief:
            do()
