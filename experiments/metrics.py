"""What evaluation measures, by scikit-learn and SciPy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics

CALIBRATION_BINS = 15
_RESAMPLES = 1000  # of a bootstrap interval
_OF_CLASS = ("precision", "recall", "f1")


def measure(probabilities: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Measures predictions.

    Args:
        probabilities: `[images, classes]`.
        labels: int `[images]`.
        class_names: Names of the classes.

    Returns:
        `images`, `top1`, `top1_interval` (95 %), `balanced_accuracy` (the mean of the recalls), `top5`, `loss`
        (cross-entropy), `calibration_error`, `confused` (see `most_confused`), and `by_class` with `images`,
        `precision` (`None` for a class that is never predicted), `recall` (`None` for one without images) and `f1`
        (`None` for one that is neither).

    Example:
    >>> import numpy as np
    >>> from experiments.metrics import measure
    >>> measured = measure(np.array([[0.8, 0.2], [0.6, 0.4]]), np.array([0, 1]), ("cat", "dog"))
    >>> measured["top1"], round(measured["calibration_error"], 3)
    (0.5, 0.4)
    """
    predicted = probabilities.argmax(axis=-1)
    right = predicted == labels
    confusion = confusion_matrix(probabilities, labels)
    of_classes = by_class(confusion, class_names)
    # scikit-learn's log_loss clips at 2e-16, and wants probabilities that sum to 1, which a sigmoid's do not.
    chance = np.maximum(probabilities[np.arange(len(labels)), labels], np.finfo("float32").tiny)
    return {
        "images": len(labels),
        "top1": float(metrics.accuracy_score(labels, predicted)),
        "top1_interval": wilson_interval(int(right.sum()), len(labels)),
        "balanced_accuracy": balanced_accuracy(of_classes),
        "top5": top_k_accuracy(probabilities, labels, 5),
        "loss": float(-np.log(chance).mean()),
        "calibration_error": calibration_error(probabilities.max(axis=-1), right),
        "confused": most_confused(confusion, class_names),
        "by_class": of_classes,
    }


def measure_several(probabilities: np.ndarray, targets: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Measures predictions of images that can have several classes.

    Args:
        probabilities: Of each class by itself, `[images, classes]`.
        targets: `[images, classes]` with 1 for each class of the image.
        class_names: Names of the classes.

    Returns:
        `images`, `mean_average_precision` (of the classes that have images), `loss` (binary cross-entropy, summed over
        the classes), and `by_class` with `images`, `average_precision` (`None` for a class without images), and
        `precision`, `recall` and `f1` above a probability of 1/2, as `measure` has them.

    Example:
    >>> import numpy as np
    >>> from experiments.metrics import measure_several
    >>> measured = measure_several(np.array([[0.9, 0.2], [0.4, 0.6]]), np.array([[1, 0], [1, 1]]), ("cat", "dog"))
    >>> measured["mean_average_precision"], measured["by_class"]["cat"]["recall"]
    (1.0, 0.5)
    """
    chance = np.where(targets == 1, probabilities, 1 - probabilities)
    chance = np.maximum(chance.astype("float64"), np.finfo("float32").tiny)
    numbers = metrics.precision_recall_fscore_support(targets, probabilities > 0.5, zero_division=np.nan)
    of_classes = _named(numbers, class_names)
    for name, mine, theirs in zip(class_names, targets.T, probabilities.T, strict=True):
        precision = float(metrics.average_precision_score(mine, theirs)) if mine.any() else None
        of_classes[name] = {"images": int(mine.sum()), "average_precision": precision, **of_classes[name]}
    precisions = [of_class["average_precision"] for of_class in of_classes.values()]
    return {
        "images": len(targets),
        "mean_average_precision": float(np.mean([value for value in precisions if value is not None])),
        "loss": float(-np.log(chance).sum(axis=-1).mean()),
        "by_class": of_classes,
    }


def measure_values(
    predicted: np.ndarray, told: np.ndarray, means: Sequence[float], deviations: Sequence[float], names: Sequence[str]
) -> dict[str, Any]:
    """Measures predictions of numbers.

    Args:
        predicted: In their units, `[images, columns]`.
        told: What the table says, likewise.
        means: Of the training images, by column.
        deviations: Likewise.
        names: Names of the columns.

    Returns:
        `images`, `loss` (the mean squared error in deviations), and `by_value` with `mean_absolute_error` and `r2`,
        each with its `..._interval` (95 %, by the bootstrap over the images), and `error_of_the_mean`: the mean
        absolute error of always saying the training images' mean. R2 and the intervals are `None` where they are not
        defined: of one image, and R2 of images with equal numbers.

    Example:
    >>> import numpy as np
    >>> from experiments.metrics import measure_values
    >>> predicted, told = np.array([[1.0], [2.0], [4.0]]), np.array([[1.0], [2.0], [3.0]])
    >>> measured = measure_values(predicted, told, [2.5], [1.0], ["age"])["by_value"]["age"]
    >>> round(measured["mean_absolute_error"], 3), round(measured["r2"], 3), round(measured["error_of_the_mean"], 3)
    (0.333, 0.5, 0.833)
    """
    of_values = {}
    for name, mean, mine, theirs in zip(names, means, predicted.T.astype("float64"), told.T, strict=True):
        varies = theirs.min() < theirs.max()
        of_values[name] = {
            "mean_absolute_error": float(metrics.mean_absolute_error(theirs, mine)),
            "mean_absolute_error_interval": _interval(metrics.mean_absolute_error, theirs, mine),
            "r2": float(metrics.r2_score(theirs, mine)) if varies else None,
            "r2_interval": _interval(metrics.r2_score, theirs, mine) if varies else None,
            "error_of_the_mean": float(np.abs(theirs - mean).mean()),
        }
    return {
        "images": len(told),
        "loss": float(np.square((predicted - told) / np.array(deviations)).mean()),
        "by_value": of_values,
    }


def _interval(score: Callable[..., float], told: np.ndarray, predicted: np.ndarray) -> list[float] | None:
    """The 95 % interval of a score by the percentile bootstrap; `None` of one image."""
    if len(told) < 2:
        return None
    options: dict[str, Any] = {"paired": True, "vectorized": False, "method": "percentile", "random_state": 0}
    found = stats.bootstrap((told, predicted), score, n_resamples=_RESAMPLES, **options).confidence_interval
    return [float(found.low), float(found.high)]


def by_class(confusion: np.ndarray, class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Measures each class.

    Args:
        confusion: Counts of images by true class (rows) and predicted class (columns), `[classes, classes]`.
        class_names: Names of the classes.

    Returns:
        `images`, `precision`, `recall` and `f1` by class, as `measure` has them.

    Example:
    >>> import numpy as np
    >>> from experiments.metrics import by_class
    >>> by_class(np.array([[3, 1], [0, 2]]), ("cat", "dog"))["cat"]
    {'images': 4, 'precision': 1.0, 'recall': 0.75, 'f1': 0.8571428571428571}
    """
    true, predicted = np.indices(confusion.shape).reshape(2, -1)
    measured = metrics.precision_recall_fscore_support(
        true,
        predicted,
        labels=range(len(class_names)),
        sample_weight=confusion.ravel(),
        zero_division=np.nan,
    )
    of_classes = _named(measured, class_names)
    return {
        name: {"images": int(images), **of_classes[name]}
        for name, images in zip(class_names, confusion.sum(axis=1), strict=True)
    }


def _named(measured: Sequence[Any], class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Precision, recall and F1 of scikit-learn by class; what is not defined is `None`."""
    return {
        name: {key: None if math.isnan(value) else float(value) for key, value in zip(_OF_CLASS, values, strict=True)}
        for name, *values in zip(class_names, *measured[:3], strict=True)
    }


def balanced_accuracy(of_classes: Mapping[str, Mapping[str, Any]]) -> float:
    """The mean of the recalls of the classes that have images, from `by_class`."""
    return float(np.mean([of_class["recall"] for of_class in of_classes.values() if of_class["recall"] is not None]))


def top_k_accuracy(probabilities: np.ndarray, labels: np.ndarray, k: int) -> float:
    """The share of images whose class is among the `k` likeliest, of equally likely ones the first.

    Args:
        probabilities: `[images, classes]`.
        labels: int `[images]`.
        k: Number of classes.

    Returns:
        0 to 1.
    """
    classes = probabilities.shape[-1]
    if k >= classes:  # which scikit-learn warns of, and refuses for two classes
        return 1.0
    # Of equally likely classes scikit-learn takes the last.
    return float(metrics.top_k_accuracy_score(classes - 1 - labels, probabilities[:, ::-1], k=k, labels=range(classes)))


def wilson_interval(right: int, images: int) -> list[float]:
    """The 95 % confidence interval of a share (Wilson, 1927), which holds for few images and near 0 and 1 too.

    Args:
        right: How many were right.
        images: Of how many, at least 1.

    Returns:
        Lower and upper end.

    Example:
    >>> from experiments.metrics import wilson_interval
    >>> [round(end, 3) for end in wilson_interval(57, 60)]
    [0.863, 0.983]
    """
    return [float(end) for end in stats.binomtest(right, images).proportion_ci(0.95, method="wilson")]


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error (Guo et al., arXiv:1706.04599) over 15 bins of equal width.

    scikit-learn's `calibration_curve` leaves out how many images a bin has.

    Args:
        confidence: Highest probability of each image, `[images]`.
        right: Whether its class is the image's, `[images]`.

    Returns:
        Mean distance of confidence and accuracy of the bins, weighted by their images; 0 to 1.
    """
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = [abs(np.sum(confidence[bins == b] - right[bins == b])) for b in range(CALIBRATION_BINS)]
    return float(np.sum(gaps) / len(right))


def most_confused(confusion: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """The pairs of classes that are confused most, at most five.

    Args:
        confusion: Counts by true and predicted class, `[classes, classes]`.
        class_names: Names of the classes.

    Returns:
        By falling number: `true` and `predicted` (names), `images` (how many of the one were taken for the other) and
        `of` (how many of the one there are).

    Example:
    >>> import numpy as np
    >>> from experiments.metrics import most_confused
    >>> most_confused(np.array([[8, 2], [0, 9]]), ("cat", "dog"))
    [{'true': 'cat', 'predicted': 'dog', 'images': 2, 'of': 10}]
    """
    wrong = confusion - np.diag(np.diag(confusion))
    places = zip(*np.unravel_index(np.argsort(-wrong, axis=None, kind="stable"), wrong.shape), strict=True)
    return [
        {
            "true": class_names[true],
            "predicted": class_names[predicted],
            "images": int(wrong[true, predicted]),
            "of": int(confusion[true].sum()),
        }
        for true, predicted in itertools.islice(places, 5)
        if wrong[true, predicted]
    ]


def confusion_matrix(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts of images by true class (rows) and predicted class (columns), `[classes, classes]`."""
    return metrics.confusion_matrix(labels, probabilities.argmax(axis=-1), labels=range(probabilities.shape[-1]))
