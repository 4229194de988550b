"""Losses and metrics of a run; the loss is Keras' own, summed so that replicas add up to one batch."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def make_loss(label_smoothing: float) -> keras.losses.Loss:
    """Softmax cross-entropy of logits and one-hot labels, one value for each example.

    Args:
        label_smoothing: Share of the label spread evenly over all classes, 0 to 1.

    Returns:
        A Keras loss without reduction.
    """
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing, reduction=None)


class ConfusionMatrix(keras.metrics.Metric):
    """Counts examples by true class (rows) and predicted class (columns).

    Args:
        num_classes: Number of classes.
        **kwargs: Arguments of `keras.metrics.Metric`.

    Example:
    >>> import numpy as np
    >>> from experiments.losses import ConfusionMatrix
    >>> metric = ConfusionMatrix(num_classes=2)
    >>> metric.update_state(np.array([0, 1, 1]), np.array([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]]))
    >>> np.asarray(metric.result()).astype(int).tolist()
    [[1, 0], [1, 1]]
    """

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.counts = self.add_variable((num_classes, num_classes), initializer="zeros", name="counts")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        true = ops.one_hot(y_true, self.num_classes)
        predicted = ops.one_hot(ops.argmax(y_pred, axis=-1), self.num_classes)
        if sample_weight is not None:
            true = true * ops.expand_dims(ops.cast(sample_weight, true.dtype), -1)
        self.counts.assign_add(ops.matmul(ops.transpose(true), predicted))

    def result(self) -> Any:
        return ops.convert_to_tensor(self.counts)
