"""Numbers that are learned in place of classes: how they are standardised, and what puts them into their units."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import ml_collections
import numpy as np
import tensorflow as tf

DEFAULT_COLUMN = "value"
LAYER = "values"  # the last of a model that gives numbers


@dataclasses.dataclass(frozen=True)
class Values:
    """Columns of numbers, by the training images.

    Args:
        names: Of the columns.
        means: Of each, over the training images.
        deviations: Likewise; above 0.
    """

    names: tuple[str, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    def standardised(self, numbers: tf.Tensor) -> tf.Tensor:
        """Numbers in their units, float64 `[count, columns]`, as they are learned, float32."""
        means, deviations = (tf.constant(of_columns, tf.float64) for of_columns in (self.means, self.deviations))
        return tf.cast((numbers - means) / deviations, tf.float32)

    def in_units(self, outputs: Any) -> Any:
        """What a network says, float32 `[count, columns]`, in their units; on any backend."""
        means, deviations = (np.array(of_columns, "float32") for of_columns in (self.means, self.deviations))
        return outputs * deviations + means

    def layer(self) -> keras.layers.Layer:
        """`in_units` as the last layer of a model: by it a model's file says that it gives numbers."""
        return keras.layers.Rescaling(list(self.deviations), list(self.means), dtype="float32", name=LAYER)


def of_training(names: tuple[str, ...], numbers: np.ndarray) -> Values:
    """Mean and deviation of the training images' numbers, float64 `[count, columns]`.

    The deviation of a column that does not vary is 1: such a table can be evaluated, but not trained on.
    """
    deviations = numbers.std(axis=0)
    deviations[numbers.min(axis=0) == numbers.max(axis=0)] = 1.0
    return Values(names, tuple(numbers.mean(axis=0).tolist()), tuple(deviations.tolist()))


def columns_of(dataset: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The columns of a table that a recipe's dataset names as numbers; none if it has classes."""
    names = (name.strip() for name in dataset.get("value_columns", "").split(","))
    return tuple(filter(None, names))


def gives_values(model: keras.Model) -> bool:
    """Whether a model gives numbers in their units, not scores of classes."""
    last = model.layers[-1]
    return gives_values(last) if isinstance(last, keras.Model) else isinstance(last, keras.layers.Rescaling)
