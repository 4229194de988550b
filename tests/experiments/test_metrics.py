"""What evaluation measures, against values counted by hand and published ones."""

import math

import numpy as np
import pytest

from experiments import metrics

# By true class: two images of a, both right; two of b, one taken for a; none of c, which is predicted once for d; and
# d, never predicted, whose other image is taken for a.
PROBABILITIES = np.array(
    [
        [0.7, 0.1, 0.1, 0.1],
        [0.4, 0.3, 0.2, 0.1],
        [0.2, 0.6, 0.1, 0.1],
        [0.5, 0.3, 0.1, 0.1],
        [0.1, 0.1, 0.6, 0.2],
        [0.9, 0.05, 0.05, 0.0],
    ]
)
LABELS = np.array([0, 0, 1, 1, 3, 3])


def test_values_counted_by_hand():
    measured = metrics.measure(PROBABILITIES, LABELS, ("a", "b", "c", "d"))
    assert (measured["images"], measured["top1"], measured["top5"]) == (6, 0.5, 1.0)
    assert measured["by_class"] == {
        "a": {"images": 2, "recall": 1.0, "precision": 0.5, "f1": pytest.approx(2 / 3)},
        "b": {"images": 2, "recall": 0.5, "precision": 1.0, "f1": pytest.approx(2 / 3)},
        "c": {"images": 0, "recall": None, "precision": 0.0, "f1": 0.0},
        "d": {"images": 2, "recall": 0.0, "precision": None, "f1": 0.0},
    }
    assert measured["balanced_accuracy"] == 0.5  # of the three classes that have images
    assert measured["confused"] == [
        {"true": "b", "predicted": "a", "images": 1, "of": 2},
        {"true": "d", "predicted": "a", "images": 1, "of": 2},
        {"true": "d", "predicted": "c", "images": 1, "of": 2},
    ]
    chances = (0.7, 0.4, 0.6, 0.3, 0.2, np.finfo("float32").tiny)  # the last is 0 for the model
    assert measured["loss"] == pytest.approx(-sum(map(math.log, chances)) / 6)
    np.testing.assert_array_equal(
        metrics.confusion_matrix(PROBABILITIES, LABELS), [[2, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]
    )


def test_improbable_classes_are_not_clipped_and_need_not_sum_to_one():
    """A softmax in float32 goes below 1e-16, and the outputs of sigmoids have any sum."""
    probabilities = np.array([[1e-30, 0.9], [0.9, 0.8]], "float32")
    measured = metrics.measure(probabilities, np.array([0, 1]), ("a", "b"))
    assert measured["loss"] == pytest.approx(-(math.log(1e-30) + math.log(0.8)) / 2, rel=1e-6)


@pytest.mark.parametrize(("k", "expected"), [(1, 3 / 6), (2, 5 / 6), (3, 5 / 6), (4, 1.0), (5, 1.0)])
def test_top_k(k, expected):
    assert metrics.top_k_accuracy(PROBABILITIES, LABELS, k) == pytest.approx(expected)


@pytest.mark.parametrize(("label", "expected"), [(0, 1.0), (2, 1.0), (3, 0.0), (5, 0.0)])
def test_of_equally_likely_classes_the_first_count(label, expected):
    """As a softmax that is sure leaves them: all others are 0."""
    probabilities = np.array([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    assert metrics.top_k_accuracy(probabilities, np.array([label]), 3) == expected


def test_two_classes_and_one_image():
    measured = metrics.measure(np.array([[0.2, 0.8]]), np.array([1]), ("no", "yes"))
    assert (measured["top1"], measured["top5"]) == (1.0, 1.0)
    assert measured["by_class"]["no"] == {"images": 0, "recall": None, "precision": None, "f1": None}
    assert measured["by_class"]["yes"] == {"images": 1, "recall": 1.0, "precision": 1.0, "f1": 1.0}


# Newcombe (1998, Statistics in Medicine 17), Table I, method 3.
@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_interval_is_newcombes(right, images, low, high):
    assert metrics.wilson_interval(right, images) == pytest.approx([low, high], abs=5e-5)
    mirrored = metrics.wilson_interval(images - right, images)
    assert mirrored == pytest.approx([1 - high, 1 - low], abs=5e-5)


def test_calibration_error_of_known_bins():
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False])
    assert metrics.calibration_error(confidence, right) == pytest.approx((2 * 0.05 + 2 * 0.05) / 4)
    assert metrics.calibration_error(np.array([1.0]), np.array([True])) == 0  # the end of the last bin
