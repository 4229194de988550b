"""What becomes of a tensor of somebody else's file when it becomes variables of ours: conversions, exact both ways."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Conversion(Protocol):
    """From a tensor to the values of our variables and back, exactly."""

    def to_ours(self, tensor: np.ndarray) -> Sequence[np.ndarray]:
        """The values of the variables; a ValueError if the tensor cannot hold them."""

    def to_theirs(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """The tensor."""


class Same:
    """A tensor that is the variable."""

    def to_ours(self, tensor: np.ndarray) -> Sequence[np.ndarray]:
        return [tensor]

    def to_theirs(self, values: Sequence[np.ndarray]) -> np.ndarray:
        return values[0]


@dataclasses.dataclass(frozen=True)
class Transposed:
    """A tensor whose axes stand in another order.

    Args:
        axes: Its axes in the order of the variable's.
    """

    axes: tuple[int, ...]

    def to_ours(self, tensor: np.ndarray) -> Sequence[np.ndarray]:
        return [tensor.transpose(self.axes)]

    def to_theirs(self, values: Sequence[np.ndarray]) -> np.ndarray:
        return values[0].transpose(np.argsort(self.axes))


@dataclasses.dataclass(frozen=True)
class Pointwise:
    """PyTorch's kernel of a linear layer, `[output, input]`, or of a 1x1 convolution; ours is `[input, output]`.

    Args:
        rank: 2, or 4 for the convolution. Files may have either.
        sign: -1 if ours is the negative.
    """

    rank: int
    sign: int = 1

    def to_ours(self, tensor: np.ndarray) -> Sequence[np.ndarray]:
        return [self.sign * tensor.reshape(tensor.shape[:2]).T]

    def to_theirs(self, values: Sequence[np.ndarray]) -> np.ndarray:
        kernel = self.sign * values[0].T
        return kernel.reshape(kernel.shape + (1,) * (self.rank - 2))


@dataclasses.dataclass(frozen=True)
class JoinedHeads:
    """q, k and v of the first head, then those of the next, in PyTorch's kernel or bias of one layer.

    Args:
        head_size: Channels of a head; the whole width if all q stand before all k.
        rank: 1 for the bias, 2 for a linear layer's kernel, 4 for that of a 1x1 convolution.
    """

    head_size: int
    rank: int

    def to_ours(self, tensor: np.ndarray) -> Sequence[np.ndarray]:
        if tensor.shape[0] % (3 * self.head_size):
            raise ValueError(f"does not hold q, k and v of heads of {self.head_size}")
        inputs = tensor.shape[1:2]  # none for the bias
        heads = tensor.reshape(-1, 3, self.head_size, *inputs)
        return [heads[:, part].reshape(-1, *inputs).T for part in range(3)]

    def to_theirs(self, values: Sequence[np.ndarray]) -> np.ndarray:
        inputs = values[0].shape[:-1]
        heads = np.stack([value.T.reshape(-1, self.head_size, *inputs) for value in values], axis=1)
        return heads.reshape(-1, *inputs, *(1,) * (self.rank - 1 - len(inputs)))


@dataclasses.dataclass(frozen=True)
class FlippedTable:
    """A flat bias table of distances i-i', where ours are i'-i: `[heads, 2H-1, 2W-1]`.

    Loading takes it for that of square images, as these networks were trained on.

    Args:
        heads_last: Whether it is `[positions, heads]` rather than `[heads, positions]`.
    """

    heads_last: bool

    def to_ours(self, tensor: np.ndarray) -> Sequence[np.ndarray]:
        table = tensor.T if self.heads_last else tensor
        side = math.isqrt(table.shape[-1])
        if side * side != table.shape[-1]:
            raise ValueError("is no table of a square image")
        return [table.reshape(-1, side, side)[:, ::-1, ::-1]]

    def to_theirs(self, values: Sequence[np.ndarray]) -> np.ndarray:
        table = values[0][:, ::-1, ::-1].reshape(len(values[0]), -1)
        return table.T if self.heads_last else table


class Counter:
    """A count of training steps, which is no weight: left aside when loading, and 0 in what is written."""

    def to_ours(self, tensor: np.ndarray) -> Sequence[np.ndarray]:
        del tensor
        return []

    def to_theirs(self, values: Sequence[np.ndarray]) -> np.ndarray:
        del values
        return np.zeros((), np.int64)
