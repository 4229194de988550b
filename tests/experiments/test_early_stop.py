"""Early stopping: when a run ends, and whose weights it leaves."""

import keras
import numpy as np
import pytest

from experiments import evaluate, workdir
from experiments.strategies import make_strategy
from experiments.trainer import BestEpoch


def test_run_stops_after_patience_and_leaves_the_best_epoch(run, config, scripted_losses, tmp_path):
    config.epochs, config.early_stop_patience, config.ema_decay = 9, 2, 0.5
    evaluated = scripted_losses([0.9, 0.7, 0.8, 0.75, 0.1])
    run(config, tmp_path / "run", make_strategy("mirrored"))
    rows = workdir.read_metrics(tmp_path / "run")
    assert [(row["step"], row["best_step"]) for row in rows] == [(5, 5), (10, 10), (15, 10), (20, 10)]
    assert workdir.result_of(rows) == rows[1]
    kept = keras.models.load_model(tmp_path / "run" / workdir.MODEL).get_weights()
    for of_second, left in zip(evaluated[1], kept, strict=True):
        np.testing.assert_array_equal(left, of_second)
    assert any((of_last != left).any() for of_last, left in zip(evaluated[3], kept, strict=True))
    measured = evaluate.evaluate(tmp_path / "run", tmp_path / "evaluation")
    assert measured["top1"] == pytest.approx(rows[1]["eval_accuracy"], abs=1e-6)
    text = (tmp_path / "run" / workdir.REPORT).read_text()
    assert f"| Held-out accuracy | {rows[1]['eval_accuracy']:.2%} |" in text
    assert "| Kept | epoch 2, of the lowest held-out loss in 4 epochs: the held-out images chose it" in text
    assert "optimistic, as these images chose the epoch" in (tmp_path / "evaluation" / "evaluation.md").read_text()


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
