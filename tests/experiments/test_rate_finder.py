"""The range test of learning rates: its steps, what it suggests, what it leaves alone."""

import keras
import numpy as np
import pytest

from experiments import loop, rate_finder


def valley(lrs, losses):
    """`fastai.callback.schedule.valley` (Apache-2.0) in the words of its authors: the index it suggests."""
    n = len(losses)
    max_start, max_end = 0, 0
    lds = [1] * n
    for i in range(1, n):
        for j in range(0, i):
            if (losses[i] < losses[j]) and (lds[i] < lds[j] + 1):
                lds[i] = lds[j] + 1
            if lds[max_end] < lds[i]:
                max_end = i
                max_start = max_end - lds[max_end]
    sections = (max_end - max_start) / 3
    return float(lrs[max_start + int(sections) + int(sections / 2)])


@pytest.mark.parametrize("seed", range(5))
def test_the_suggestion_is_fastais(seed):
    tried = rate_finder.Range()
    rates = tried.rate(np.arange(tried.steps))
    noise = np.random.default_rng(seed).normal(0, 0.1, tried.steps)
    losses = 2.3 - 1.5 / (1 + np.exp(-2 * (np.log10(rates) + 3))) + 40 * np.maximum(0, np.log10(rates) + 1) + noise
    found = rate_finder.Test(rates, losses)
    assert found.suggestion == valley(rates[10:-5], list(rate_finder.smoothed(losses)[10:-5]))
    assert found.suggestion < found.steepest < 0.1
    assert 1e-4 < found.suggestion < 1e-1


def test_a_loss_that_only_rises_suggests_nothing(tmp_path):
    rates = rate_finder.Range().rate(np.arange(100))
    found = rate_finder.Test(rates, np.linspace(1, 2, 100))
    assert found.suggestion is None
    assert "hardly falls at rates from 1.0e-06 to 1.0e+00, so that none is suggested" in rate_finder.describe(found)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lowest": 0.1, "highest": 0.01}, "--lowest=0.1 must be above 0, and below --highest=0.01"),
        ({"lowest": 0.0}, "--lowest=0.0 must be above 0"),
        ({"steps": 5}, "--steps must be at least 20; got 5"),
    ],
)
def test_no_range_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        rate_finder.Range(**values)


def test_the_steps_are_those_of_the_training_at_rising_rates(config, devices, tmp_path, monkeypatch):
    """As many steps by hand, with the rates of the test in the place of the schedule: the same losses."""
    monkeypatch.chdir(tmp_path)
    config.model.drop_path_rate = 0.0
    tried = rate_finder.Range(steps=20, lowest=1e-4, highest=1e-1)
    source = loop.prepare(config, tmp_path / "run", devices)
    found = rate_finder.take_steps(config, devices, source, tried)
    assert not list(tmp_path.iterdir())
    np.testing.assert_allclose(found.rates, np.geomspace(1e-4, 1e-1, 20), rtol=1e-6)

    class Rates(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return keras.ops.take(keras.ops.convert_to_tensor(found.rates.astype("float32")), step)

    engine = loop.make_engine(config, tmp_path / "run", devices, source, Rates())
    engine.begin(0)
    for loss in found.losses:
        engine.train(1)
        assert float(engine.loss.result()) == pytest.approx(loss, rel=1e-4)
        engine.loss.reset_state()


def test_a_rate_that_is_not_finite_ends_the_test(config, devices, tmp_path):
    source = loop.prepare(config, tmp_path / "run", devices)
    tried = rate_finder.Range(steps=20, lowest=1e30, highest=1e35)
    try:
        found = rate_finder.take_steps(config, devices, source, tried)
    except ValueError as error:
        assert "The loss is not finite at a rate of 1e+30 already; give a lower --lowest" in str(error)
    else:
        assert len(found.losses) < 20 and np.isfinite(found.losses).all()


def test_a_test_that_diverges_at_once_says_so(config, devices, tmp_path):
    source = loop.prepare(config, tmp_path, devices)
    config.optimizer.clip_norm = 1e9
    with pytest.raises(ValueError, match=r"The loss diverges \d steps from 1000 on; give a lower --lowest"):
        rate_finder.take_steps(config, devices, source, rate_finder.Range(20, 1e3, 1e5))


def test_a_picture_without_a_folder_is_refused_before_any_step(config, devices, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder .*none for rate.png; make it first"):
        rate_finder.find(config, devices, rate_finder.Range(), str(tmp_path / "none" / "rate.png"))
