"""What evaluation measures, by scikit-learn and SciPy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics

CALIBRATION_BINS = 15


def measure(probabilities: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Measures predictions.

    Args:
        probabilities: `[images, classes]`.
        labels: int `[images]`.
        class_names: Names of the classes.

    Returns:
        `images`, `top1`, `top1_interval` (95 %), `balanced_accuracy` (the mean recall of the classes), `top5`, `loss`
        (cross-entropy), `calibration_error`, `confused` (see `most_confused`), and `by_class` with `images`, `recall`
        (`None` for a class without images) and `precision` (`None` for one that is never predicted).

    Example:
    >>> import numpy as np
    >>> from experiments.metrics import measure
    >>> measured = measure(np.array([[0.8, 0.2], [0.6, 0.4]]), np.array([0, 1]), ("cat", "dog"))
    >>> measured["top1"], round(measured["calibration_error"], 3)
    (0.5, 0.4)
    """
    predicted = probabilities.argmax(axis=-1)
    right = predicted == labels
    by_class = _by_class(predicted, labels, class_names)
    # scikit-learn's log_loss clips at 2e-16, and wants probabilities that sum to 1, which a sigmoid's do not.
    chance = np.maximum(probabilities[np.arange(len(labels)), labels], np.finfo("float32").tiny)
    return {
        "images": len(labels),
        "top1": float(metrics.accuracy_score(labels, predicted)),
        "top1_interval": wilson_interval(int(right.sum()), len(labels)),
        "balanced_accuracy": float(np.mean([c["recall"] for c in by_class.values() if c["recall"] is not None])),
        "top5": top_k_accuracy(probabilities, labels, 5),
        "loss": float(-np.log(chance).mean()),
        "calibration_error": calibration_error(probabilities.max(axis=-1), right),
        "confused": most_confused(confusion_matrix(probabilities, labels), class_names),
        "by_class": by_class,
    }


def _by_class(predicted: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    precision, recall, _, images = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(len(class_names)), zero_division=np.nan
    )
    return {
        name: {
            "images": int(images[index]),
            "recall": None if math.isnan(recall[index]) else float(recall[index]),
            "precision": None if math.isnan(precision[index]) else float(precision[index]),
        }
        for index, name in enumerate(class_names)
    }


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
