"""Early stopping by a history of losses; `test_nothing_lost.py` has the whole run."""

import keras
import numpy as np
import pytest

from experiments.engine.progress import BestEpoch


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


def test_negative_patience_is_refused(run, config, devices, tmp_path):
    config.early_stop_patience = -1
    with pytest.raises(ValueError, match="config.early_stop_patience must be at least 0; got -1"):
        run(config, tmp_path / "run", devices)
