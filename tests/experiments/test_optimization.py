"""Optimizer, learning rate, losses and metrics."""

import json
from pathlib import Path

import keras
import ml_collections
import numpy as np
import pytest
import tensorflow as tf

import coatnet_tf
from coatnet_tf.pretrained.timm import TIMM
from experiments import losses, optimization
from experiments.model_config import make_model_config
from tests.coatnet_tf import golden_imports

GOLDEN = Path(__file__).parents[1] / "golden"


def test_weight_decay_spares_biases_norms_and_tables(config):
    model = coatnet_tf.CoAtNet(make_model_config(config.model), input_shape=(8, 8, 1), classes=10)
    optimizer = optimization.make_optimizer(config.optimizer, model, 1e-3, ema_decay=0.0)
    decayed = {v.path.rpartition("/")[2] for v in model.trainable_variables if optimizer._use_weight_decay(v)}
    spared = {v.path.rpartition("/")[2] for v in model.trainable_variables if not optimizer._use_weight_decay(v)}
    assert decayed == {"kernel"}
    assert spared == {"bias", "gamma", "beta", "table"}


def settings(**changes):
    values = {"learning_rate": 0.1, "min_learning_rate": 0.0, "decay": "cosine", "warmup_steps": 0, "warmup_epochs": 0}
    return ml_collections.ConfigDict({**values, **changes})


def test_schedule_without_warmup_starts_at_its_peak():
    schedule = optimization.make_schedule(settings(), total_steps=4, steps_per_epoch=1)
    np.testing.assert_allclose([schedule(step) for step in range(5)], 0.05 * (1 + np.cos(np.pi * np.arange(5) / 4)))


@pytest.mark.parametrize("warmup", [{"warmup_steps": 2}, {"warmup_epochs": 1}])
@pytest.mark.parametrize(
    ("decay", "minimum", "expected"),
    [
        ("linear", 0.0, [0, 0.05, 0.1, 0.075, 0.05, 0.025, 0, 0]),
        ("constant", 0.1, [0, 0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]),
        ("cosine", 0.0, [0, 0.05, 0.1, *(0.05 * (1 + np.cos(np.pi * np.arange(1, 5) / 4))), 0]),
    ],
)
def test_warmup_and_decay(warmup, decay, minimum, expected):
    schedule = optimization.make_schedule(
        settings(decay=decay, min_learning_rate=minimum, **warmup), total_steps=6, steps_per_epoch=2
    )
    np.testing.assert_allclose([schedule(step) for step in range(8)], expected, atol=1e-8)


def test_adamw_and_averages_are_tensorflow_addons():
    """Its `MovingAverage(AdamW)` with warm-up; averages differ by where they begin, see below."""
    golden = np.load(GOLDEN / "addons_adamw_ema.npz")
    names = ("kernel", "bias", "table")
    variables = [keras.Variable(golden[f"init/{name}"]) for name in names]  # unnamed: the recording decayed all
    rates = tf.constant(golden["learning_rate"])

    class Recorded(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return tf.gather(rates, tf.cast(step, tf.int32))

    class Model:
        trainable_variables = variables

    momentum = float(golden["ema_momentum"])
    recipe = settings(weight_decay=float(golden["weight_decay"]), layer_decay=1.0)
    optimizer = optimization.make_optimizer(recipe, Model, Recorded(), momentum)
    for step in range(25):
        optimizer.apply([tf.constant(golden[f"gradients/{name}"][step]) for name in names], variables)
        for name, variable in zip(names, variables, strict=True):
            np.testing.assert_allclose(variable, golden[f"variables/{name}"][step], atol=1e-6)
    optimizer.finalize_variable_values(variables)
    for name, variable in zip(names, variables, strict=True):
        # Keras' average begins at the variable after the first step, theirs at its initial value.
        begin = golden[f"variables/{name}"][0] - golden[f"init/{name}"]
        np.testing.assert_allclose(variable, golden[f"average/{name}"][-1] + momentum**25 * begin, atol=1e-6)


@pytest.mark.parametrize("name", ["coatnet_0", "coatnet_0_rw"])  # a head with a hidden layer, and one without
def test_rates_fall_from_stage_to_stage_as_in_timm(name):
    """As `tools/imports/timm_layer_decay.py` recorded them, by the names of timm's parameters."""
    golden = json.loads((GOLDEN / "layer_decay.json").read_text())
    model = golden_imports.make_model(name)
    factors = optimization.layer_factors(model, golden["decay"])
    mine = {id(v): factor for v, factor in zip(model.trainable_variables, factors, strict=True)}
    theirs = golden[f"{name}_224"]
    compared = 0
    for entry in TIMM.entries(model):
        for variable in entry.variables:
            if entry.name in theirs:  # statistics of norms are no parameters
                assert mine[id(variable)] == pytest.approx(theirs[entry.name], rel=1e-12), entry.name
                compared += 1
    assert compared >= len(mine) and len(set(factors)) == 6


def test_a_factor_is_a_learning_rate_of_its_own():
    """Of the step and of the decay; moments and averages are those of one rate."""
    generator = np.random.default_rng(0)
    start, gradients = generator.normal(size=(2, 3)), generator.normal(size=(5, 2, 3))

    class Schedule(keras.optimizers.schedules.LearningRateSchedule):
        def __init__(self, factor):
            self._factor = factor

        def __call__(self, step):
            return 0.1 * self._factor / (1.0 + keras.ops.cast(step, "float32"))

    def train(indices, optimizer):
        variables = [keras.Variable(start[index].astype("float32")) for index in indices]
        optimizer.build(variables)
        for gradient in gradients:
            optimizer.apply([tf.constant(gradient[index], tf.float32) for index in indices], variables)
        optimizer.finalize_variable_values(variables)
        return [np.array(variable) for variable in variables]

    options = {"weight_decay": 0.5, "use_ema": True, "ema_momentum": 0.5}
    factors = (0.25, 1.0)
    together = train((0, 1), optimization.ReducedAdamW(Schedule(1.0), factors=factors, **options))
    for index, factor in enumerate(factors):
        (alone,) = train((index,), optimization.ReducedAdamW(Schedule(factor), **options))
        np.testing.assert_allclose(together[index], alone, rtol=1e-6)
        # Keras takes 1 - beta_2 in float64 in one place, TensorFlow's kernel in float32: 5e-5 apart.
        (kerass,) = train((index,), keras.optimizers.AdamW(Schedule(factor), **options))
        np.testing.assert_allclose(alone, kerass, rtol=5e-5)


def test_softmax_loss_is_smoothed_cross_entropy():
    logits = np.array([[1.0, 2.0, 0.5]], "float32")
    log_probabilities = logits - np.log(np.exp(logits).sum())
    smoothed = 0.9 * np.array([[0, 1, 0]]) + 0.1 / 3
    value = losses.make_loss("softmax", 0.1)(tf.constant([[0.0, 1.0, 0.0]]), logits)
    np.testing.assert_allclose(value, -(smoothed * log_probabilities).sum(axis=-1), rtol=1e-6)


def test_sigmoid_loss_is_summed_over_classes():
    logits, targets = np.array([[1.0, -2.0, 0.5]], "float32"), np.array([[1.0, 0.0, 1.0]], "float32")
    smoothed = 0.9 * targets + 0.05
    expected = -(smoothed * np.log(1 / (1 + np.exp(-logits))) + (1 - smoothed) * np.log(1 / (1 + np.exp(logits))))
    value = losses.make_loss("sigmoid", 0.1)(tf.constant(targets), tf.constant(logits))
    np.testing.assert_allclose(value, expected.sum(axis=-1), rtol=1e-6)


def test_confusion_matrix_ignores_filling():
    metric = losses.ConfusionMatrix(3)
    metric.update_state(np.array([0, 1, 2, 0]), np.eye(3)[[0, 2, 2, 0]], sample_weight=np.array([1.0, 1.0, 1.0, 0.0]))
    np.testing.assert_array_equal(metric.result(), [[1, 0, 0], [0, 0, 1], [0, 0, 1]])
