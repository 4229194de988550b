"""Which learning rate suits a recipe: some steps of its training at rates that rise, and where their loss falls.

The range test of Smith (2017), "Cyclical learning rates for training neural networks", and the suggestion that fastai
makes by default, `valley`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import ml_collections
import numpy as np
import tqdm
from etils import epath

from experiments import charts, loop
from experiments.charts import plt
from experiments.data.sources import Source
from experiments.engine.devices import Devices

_SMOOTHING = 0.98  # of the moving average, as in fastai
_DIVERGED = 4  # times the lowest loss end the test, likewise
_NO_RUN = epath.Path("unwritten")  # no folder
_LEFT_OUT = 5  # last steps, which diverge
_FEWEST_FALLING = 10  # steps that a suggestion needs


@dataclasses.dataclass(frozen=True)
class Test:
    """A range test.

    Args:
        rates: Of the steps, rising.
        losses: The training loss of each.
    """

    rates: np.ndarray
    losses: np.ndarray

    @property
    def suggestion(self) -> float | None:
        """A rate in the middle of where the loss falls, fastai's `valley`; `None` if it hardly falls."""
        rates, losses = self._looked_at
        first, last = _longest_fall(losses)
        if last - first < _FEWEST_FALLING:
            return None
        third = (last - first) / 3
        return float(rates[first + int(third) + int(third / 2)])

    @property
    def steepest(self) -> float:
        """The rate where the loss falls fastest, fastai's `steep`, from the suggestion on: before it, it is noise."""
        rates, losses = self._looked_at
        slopes = np.diff(losses) / np.diff(np.log(rates))
        return float(rates[np.argmin(np.where(rates[:-1] < (self.suggestion or 0), np.inf, slopes))])

    @property
    def _looked_at(self) -> tuple[np.ndarray, np.ndarray]:
        """Rates and smoothed losses without the first tenth of the steps and the last five, as in fastai."""
        steps = slice(len(self.rates) // 10, -_LEFT_OUT)
        return self.rates[steps], smoothed(self.losses)[steps]


def smoothed(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    """The exponential moving average of losses, without its bias to the beginning."""
    average, values = 0.0, []
    for number, loss in enumerate(losses, start=1):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        values.append(average / (1 - _SMOOTHING**number))
    return np.array(values)


def _longest_fall(values: np.ndarray) -> tuple[int, int]:
    """Beginning and end of the longest falling subsequence, as fastai counts its length back from the end."""
    lengths = np.ones(len(values), int)
    for index in range(1, len(values)):
        higher = lengths[:index][values[:index] > values[index]]
        lengths[index] = 1 + higher.max(initial=0)
    last = int(lengths.argmax())
    return max(0, last - int(lengths[last])), last


@dataclasses.dataclass(frozen=True)
class Range:
    """Which rates are tried.

    Args:
        steps: Training steps to take, one for each rate.
        lowest: The first rate.
        highest: The last.
    """

    steps: int = 100
    lowest: float = 1e-6
    highest: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.lowest < self.highest < math.inf:
            raise ValueError(f"--lowest={self.lowest} must be above 0, and below --highest={self.highest}.")
        if self.steps < 2 * _FEWEST_FALLING:
            raise ValueError(f"--steps must be at least {2 * _FEWEST_FALLING}; got {self.steps}.")

    def rate(self, step: Any) -> Any:
        return self.lowest * (self.highest / self.lowest) ** (step / (self.steps - 1))


def find(config: ml_collections.ConfigDict, devices: Devices, tried: Range, picture: str) -> str:
    """Tests the rates of a recipe and draws the picture.

    Args:
        config: The recipe.
        devices: As of a run.
        tried: Which rates.
        picture: Path of the PNG file to write.

    Returns:
        What to tell the user.

    Raises:
        ValueError: If the recipe does not fit its data, or no step can be taken.
        OSError: If files are missing, or the picture has no folder.
    """
    path = epath.Path(picture)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} for {path.name}; make it first.")
    source = loop.prepare(config, _NO_RUN, devices)
    test = take_steps(config, devices, source, tried)
    draw(test, path)
    return f"{describe(test)}\n{path}: the losses."


def take_steps(config: ml_collections.ConfigDict, devices: Devices, source: Source, tried: Range) -> Test:
    """Takes the first training steps of a recipe at rising rates; no folder is written.

    Args:
        config: The recipe; its rate and schedule are left aside.
        devices: As of a run.
        source: From `loop.prepare`.
        tried: The rates. The test ends before them if the loss is far above its lowest, or is not finite.

    Returns:
        A `Test`.

    Raises:
        ValueError: If weights do not fit, or the first steps are not finite.
    """
    rising = keras.optimizers.schedules.ExponentialDecay(tried.lowest, tried.steps - 1, tried.highest / tried.lowest)
    engine = loop.make_engine(config, _NO_RUN, devices, source, rising)
    engine.begin(0)
    losses: list[float] = []
    for _ in tqdm.trange(tried.steps, unit="step"):
        engine.train(1)
        if engine.skipped.total:
            break
        losses.append(float(engine.loss.result()))
        engine.loss.reset_state()
        smooth = smoothed(losses)
        if smooth[-1] > _DIVERGED * smooth.min():
            break
    if len(losses) < 2:
        raise ValueError(f"The loss is not finite at a rate of {tried.lowest:g} already; give a lower --lowest.")
    if len(losses) <= _LEFT_OUT:
        raise ValueError(f"The loss diverges {len(losses)} steps from {tried.lowest:g} on; give a lower --lowest.")
    return Test(tried.rate(np.arange(len(losses))), np.array(losses))


def describe(test: Test) -> str:
    """What a test says, for people."""
    begin, end = test.rates[0], test.rates[-1]
    if test.suggestion is None:
        return (
            f"The loss hardly falls at rates from {begin:.1e} to {end:.1e}, so that none is suggested: give another "
            "range by --lowest and --highest, or more --steps."
        )
    return (
        f"Suggested: --config.optimizer.learning_rate={test.suggestion:.1e}, in the middle of where the loss falls; "
        f"above it, it falls fastest at {test.steepest:.1e}."
    )


def draw(test: Test, path: epath.Path) -> None:
    """Draws losses over rates, with the suggestion."""
    figure, axes = plt.subplots(figsize=(6, 3.8))
    axes.plot(test.rates, test.losses, "o", color="0.75", markersize=3, label="each step")
    axes.plot(test.rates, smoothed(test.losses), label="smoothed")
    if test.suggestion is not None:
        axes.axvline(test.suggestion, color=charts.VERMILLION, label=f"suggested: {test.suggestion:.1e}")
        axes.axvline(test.steepest, color=charts.GREEN, linestyle="--", label=f"falls fastest: {test.steepest:.1e}")
    axes.set_xscale("log")
    lowest, begin = float(test.losses.min()), float(smoothed(test.losses)[len(test.losses) // 10])
    margin = 0.5 * (begin - lowest) or 1.0
    axes.set_ylim(lowest - margin, begin + margin)  # what is far above is of no use
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.legend()
    figure.tight_layout()
    with path.open("wb") as file:
        figure.savefig(file, dpi=100, format="png")
    plt.close(figure)
