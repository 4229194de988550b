"""Losses and metrics of a run, of Keras' own parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

SQUARED_ERROR = "squared_error"  # of numbers, not of classes
LOSSES = ("softmax", "sigmoid", SQUARED_ERROR)


def make_loss(name: str, label_smoothing: float, class_weights: np.ndarray | None = None) -> Callable[[Any, Any], Any]:
    """Cross-entropy of targets and logits, or the squared error of numbers, one value for each example.

    Args:
        name: `"softmax"`, `"sigmoid"`: a binary cross-entropy for each class, summed over the classes; or
            `"squared_error"` of standardised numbers, the mean over their columns: to say the mean always costs 1.
        label_smoothing: Share of each target spread evenly: over all classes (softmax), or over yes and
            no (sigmoid).
        class_weights: `[classes]`, what the value of an example of each class is multiplied by; of a mixture, their
            mean by its shares. All 1 by default.

    Returns:
        Function of targets and logits, `[batch, classes]`, that returns `[batch]`.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in LOSSES:
        raise ValueError(f"config.loss must be one of {', '.join(LOSSES)}; got {name!r}.")
    if class_weights is not None:
        plain, weights = make_loss(name, label_smoothing), class_weights.astype("float32")
        return lambda targets, logits: plain(targets, logits) * ops.sum(targets * weights, axis=-1)
    if name == "softmax":
        return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing, reduction=None)
    if name == SQUARED_ERROR:
        return keras.losses.MeanSquaredError(reduction=None)
    mean = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing, reduction=None)
    return lambda targets, logits: mean(targets, logits) * logits.shape[-1]


def make_distillation(name: str, temperature: float) -> Callable[[Any, Any], Any]:
    """Kullback-Leibler divergence of a student's probabilities from its teacher's, one value for each example.

    Args:
        name: As of `make_loss`; of `"sigmoid"` the divergences of all classes are summed.
        temperature: Divides the logits of both. The value is multiplied by its square, so that the size of gradients
            hardly depends on it (Hinton et al., 2015).

    Returns:
        Function of the teacher's and the student's logits, `[batch, classes]`, that returns `[batch]`.

    Example:
    >>> import numpy as np
    >>> from experiments.losses import make_distillation
    >>> teacher, student = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    >>> [round(float(x), 4) for x in make_distillation("softmax", 1.0)(teacher, student)]  # 0.5 log(4 / 3)
    [0.1438]
    """

    def both(logits: Any) -> Any:
        """Logarithms of all probabilities."""
        if name == "softmax":
            return ops.log_softmax(logits / temperature, axis=-1)
        return ops.concatenate([ops.log_sigmoid(logits / temperature), ops.log_sigmoid(-logits / temperature)], axis=-1)

    def divergence(teacher: Any, student: Any) -> Any:
        taught, learned = both(teacher), both(student)
        return temperature**2 * ops.sum(ops.exp(taught) * (taught - learned), axis=-1)

    return divergence


def absolute_error(targets: Any, outputs: Any) -> Any:
    """The mean distance of standardised numbers over their columns, `[batch]`: in deviations, not in units."""
    return ops.mean(ops.abs(targets - outputs), axis=-1)


def share_of_top_class(targets: Any, logits: Any) -> Any:
    """The target of the class with the highest logit: 1 if it is right, `[batch]`; precision@1 of several labels."""
    top = ops.one_hot(ops.argmax(logits, axis=-1), logits.shape[-1], dtype=targets.dtype)
    return ops.sum(targets * top, axis=-1)


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
