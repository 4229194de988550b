"""Weights of other people's files, put into a model: each tensor is used exactly once, or nothing is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from coatnet_tf.weights.keras_file import Loaded, enumerate_names, resize_table

Convert = Callable[[np.ndarray], np.ndarray]
_BLOCK = re.compile(r"s(\d+)_block(\d+)")


class Assignment:
    """Collects which tensor goes into which variable, and loads them all or none.

    Args:
        model: A built model.
        tensors: Tensors of the file by name.
        source: What to call the file in messages.
    """

    def __init__(self, model: keras.Model, tensors: Mapping[str, np.ndarray], source: str) -> None:
        self.model = model
        self.source = source
        self._left = dict(tensors)
        self._values: dict[str, tuple[Any, np.ndarray]] = {}
        self._problems: list[str] = []
        self._kept: list[str] = []
        self._resized: list[str] = []

    def take(self, name: str) -> np.ndarray | None:
        """A tensor by name, which then counts as used; `None`, and a problem noted, if there is none."""
        if name not in self._left:
            self._problems.append(f"{name} is missing in the file")
            return None
        return self._left.pop(name)

    def ignore(self, name: str) -> None:
        """Marks a tensor that no model needs, such as a counter, as used."""
        self._left.pop(name, None)

    def put(self, variable: Any, name: str, convert: Convert | None = None) -> None:
        """Assigns the tensor of that name, converted."""
        value = self.take(name)
        if value is not None:
            self.put_value(variable, name, value if convert is None else convert(value))

    def put_value(self, variable: Any, name: str, value: np.ndarray) -> None:
        """Assigns a value that was made from the tensor of that name."""
        shape = tuple(variable.shape)
        if tuple(value.shape) != shape:
            self._problems.append(f"{name} makes {tuple(value.shape)}, and {variable.path} of the model is {shape}")
        self._values[variable.path] = (variable, value)

    def put_table(self, variable: Any, name: str, table: np.ndarray) -> None:
        """Assigns a bias table `[heads, 2H-1, 2W-1]`, resized to the model's grid if that is another."""
        shape = tuple(variable.shape)
        if table.shape[0] == shape[0] and tuple(table.shape) != shape:
            self._resized.append(f"{variable.path} from {tuple(table.shape)} to {shape}")
            table = resize_table(table, shape[1:])
        self.put_value(variable, name, table)

    def keep(self, variable: Any, *names: str) -> None:
        """Leaves a variable as it is, and the tensors that were for it aside."""
        self._kept.append(variable.path)
        for name in names:
            self.ignore(name)

    def load(self) -> Loaded:
        """Sets all variables.

        Raises:
            ValueError: If a tensor was missing, is left over or has another shape, or a variable got none.
        """
        given = {*self._values, *self._kept}
        problems = [
            *self._problems,
            *(f"{name} {tuple(x.shape)} is used by no layer" for name, x in self._left.items()),
        ]
        if not problems:
            problems = [f"{v.path} gets no tensor" for v in self.model.weights if v.path not in given]
        if problems:
            raise ValueError(
                f"The weights in {self.source} do not fit {self.model.name}: {enumerate_names(problems, '; ')}. "
                "Nothing was loaded; build the model with the configuration and classes that they were trained with."
            )
        for variable, value in self._values.values():
            variable.assign(value)
        return Loaded(tuple(self._resized), tuple(self._kept))


def block_position(layer: keras.layers.Layer) -> tuple[int, int] | None:
    """Stage and block of a layer of a CoAtNet, both counted from 1; `None` for the stem and the head."""
    match = _BLOCK.fullmatch(layer.name)
    return (int(match[1]), int(match[2])) if match else None
