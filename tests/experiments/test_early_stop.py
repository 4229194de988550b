"""Early stopping by a history of losses, and intervals; `test_nothing_lost.py` has the whole run."""

import keras
import numpy as np
import pytest

from experiments import evaluate
from experiments.strategies import make_strategy
from experiments.trainer import BestEpoch


def test_best_epoch_of_a_history():
    weight = keras.Variable(np.zeros(3, "float32"))
    best = BestEpoch([weight])
    seen = []
    for step, loss in enumerate([float("nan"), 2.0, 2.0, float("nan"), 1.0, 1.5], start=1):
        weight.assign(np.full(3, step, "float32"))
        best.update(step, loss, [weight])
        seen.append(best.step)
    assert seen == [1, 2, 2, 2, 5, 5]
    best.assign_to([weight])
    assert weight.numpy().tolist() == [5, 5, 5]


def test_negative_patience_is_refused(run, config, tmp_path):
    config.early_stop_patience = -1
    with pytest.raises(ValueError, match="config.early_stop_patience must be at least 0; got -1"):
        run(config, tmp_path / "run", make_strategy("one_device"))


# Newcombe (1998, Statistics in Medicine 17), Table I, method 3.
@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_interval_is_newcombes(right, images, low, high):
    assert evaluate.wilson_interval(right, images) == pytest.approx([low, high], abs=5e-5)
    mirrored = evaluate.wilson_interval(images - right, images)
    assert mirrored == pytest.approx([1 - high, 1 - low], abs=5e-5)
