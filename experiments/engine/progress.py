"""What a run counts and keeps between its steps: in variables, so that it is in the checkpoint and on the devices."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops


def _variable(shape: tuple[int, ...], dtype: str) -> keras.Variable:
    """A variable that all replicas change in the same way."""
    return keras.Variable("zeros", shape, dtype, trainable=False, aggregation="only_first_replica")


class SkippedSteps:
    """Counts steps whose loss or gradient was not finite; variables, so that it happens on the device."""

    def __init__(self) -> None:
        self._step, self._total, self._in_a_row, self._longest, self._last = self.variables = [
            _variable((), "int") for _ in range(5)
        ]

    def update(self, finite: Any) -> None:
        """Counts a step."""
        skipped = ops.cast(ops.logical_not(finite), self._step.dtype)
        in_a_row = (self._in_a_row + 1) * skipped
        self._last.assign(ops.where(finite, self._last.value, self._step.value))
        self._step.assign(self._step + 1)
        self._total.assign(self._total + skipped)
        self._in_a_row.assign(in_a_row)
        self._longest.assign(ops.maximum(self._longest.value, in_a_row))

    @property
    def total(self) -> int:
        """Steps skipped in the whole run."""
        return int(ops.convert_to_numpy(self._total))

    @property
    def longest(self) -> int:
        """Most steps skipped in a row."""
        return int(ops.convert_to_numpy(self._longest))

    @property
    def last(self) -> int:
        """The last step skipped, counted from 0."""
        return int(ops.convert_to_numpy(self._last))


class BestEpoch:
    """The weights with the lowest held-out loss so far; variables, so that they and their step are in the checkpoint.

    Args:
        weights: The weights of the model, whose values will be kept.
    """

    def __init__(self, weights: list[keras.Variable]) -> None:
        self._loss, self._step = _variable((), "float32"), _variable((), "int")
        self._weights = [_variable(weight.shape, weight.dtype) for weight in weights]
        self.variables = [self._loss, self._step, *self._weights]

    def update(self, step: int, loss: float, weights: list[keras.Variable]) -> None:
        """Keeps the weights of an evaluation if its loss is the lowest; a later one of the same loss is not."""
        loss = loss if math.isfinite(loss) else math.inf
        if not self.step or loss < float(ops.convert_to_numpy(self._loss)):
            self._loss.assign(loss)
            self._step.assign(step)
            for kept, weight in zip(self._weights, weights, strict=True):
                kept.assign(ops.copy(weight.value))

    def assign_to(self, weights: list[keras.Variable]) -> None:
        """Gives the model's weights the kept values."""
        for weight, kept in zip(weights, self._weights, strict=True):
            weight.assign(ops.copy(kept.value))

    @property
    def step(self) -> int:
        """The step of the best evaluation; 0 before the first."""
        return int(ops.convert_to_numpy(self._step))
