"""What a model says of all images of a split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

# From a batch of what a model takes, images in [0, 255] or features, to what it says, `[batch, outputs]`.
Predict = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says of a split, in the order in which it is stored.

    Args:
        outputs: float32 `[count, outputs]`.
        targets: As the batches have them, `[count, outputs]`.
        read: bool `[count]`, false for an image that could not be decoded, of which nothing is said.
    """

    outputs: np.ndarray
    targets: np.ndarray
    read: np.ndarray


def collect(batches: tf.data.Dataset, predict: Predict, count: int) -> Predictions:
    """Goes once through a split.

    Args:
        batches: Such as `pipeline.evaluation_batches`.
        predict: What to ask of each.
        count: Number of images of the split; what follows fills the last batch.
    """
    parts = [(predict(inputs), targets, weights > 0) for inputs, targets, weights in batches.as_numpy_iterator()]
    return Predictions(*(np.concatenate(part)[:count] for part in zip(*parts, strict=True)))
