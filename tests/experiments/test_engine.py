"""The training step: equal on any number of devices, whatever its parts; compiled; safe from what is not finite."""

import numpy as np
import pytest
import tensorflow as tf

from experiments import checks, loop
from experiments.data import pipeline, sources
from experiments.engine import connect

pytestmark = pytest.mark.slow

# See tests/experiments/conftest.py.
WITHOUT_EFFECT = ("key/bias", "pre_norm/beta")


def make_engine(config, strategy="one_device"):
    source = sources.prepare(config.dataset)
    devices = connect(strategy)
    return devices.engine(config, source, loop.make_schedule(config, source))


def train(config, steps, strategy="one_device"):
    engine = make_engine(config, strategy)
    engine.begin(0)
    engine.train(steps)
    return engine


def assert_same_states(mine, theirs, atol=1e-5):
    """Weights, averages and moments."""
    for group in ("model", "optimizer"):
        pairs = zip(getattr(mine, group).variables, getattr(theirs, group).variables, strict=True)
        for variable, expected in pairs:
            if "seed_generator" not in variable.path:
                tolerance = 1e-2 if variable.path.endswith(WITHOUT_EFFECT) else atol
                np.testing.assert_allclose(variable, expected, atol=tolerance, err_msg=f"{group} {variable.path}")


def test_two_replicas_with_every_part_train_as_one_device(every_part):
    """20 steps over two epochs: augmentation, Mixup, averages, accumulation, global BatchNorm and one clipping norm."""
    every_part.accumulation_steps = 1  # its parts, and so BatchNorm's statistics, differ with the number of replicas
    every_part.model.drop_path_rate = 0.0  # branches are dropped by each replica, not by position in the batch
    every_part.optimizer.clip_norm = 0.1
    one, two = train(every_part, 20), train(every_part, 20, "mirrored")
    assert_same_states(two, one)
    assert float(two.loss.result()) == pytest.approx(float(one.loss.result()), rel=1e-5)


@pytest.mark.parametrize("way", ["head", "last_blocks", "lora"])
def test_two_replicas_train_parts_as_one_device(config, tmp_path, way):
    config.model.drop_path_rate = 0.0
    start = make_engine(config)
    start.network.save_weights(tmp_path / "start.weights.h5")
    config.tune, config.tuned_blocks, config.init_from = way, 1, str(tmp_path / "start.weights.h5")

    def trained(strategy):
        devices = connect(strategy)
        source = loop.prepare(config, tmp_path / "run", devices)
        engine, _, _ = loop.build(config, tmp_path / "run", devices, source)
        engine.begin(0)
        engine.train(7)
        return engine, engine.evaluate(7)

    (one, row), (two, expected) = trained("one_device"), trained("mirrored")
    assert_same_states(two, one)
    assert row == pytest.approx(expected, rel=1e-4)


def test_gradients_are_summed_over_replicas_once(config):
    """AdamW hardly feels a factor on all gradients; its moments do."""
    config.model.drop_path_rate = 0.0
    one, two = train(config, 1), train(config, 1, "mirrored")
    moments = [v for v in one.optimizer.variables if v.path.endswith("kernel_momentum")]
    assert moments and any(np.abs(v).max() > 1e-3 for v in moments)
    assert_same_states(two, one)


def test_accumulated_parts_are_the_whole_batch(config):
    config.model.drop_path_rate = 0.0
    config.model.conv_norm = "layer_norm"  # BatchNorm sees the parts
    whole = train(config, 3)
    config.accumulation_steps = 4
    assert_same_states(train(config, 3), whole)


@pytest.mark.parametrize("field", ["accumulation_steps", "rematerialise"])
def test_replicas_save_memory_without_batch_norm(config, field):
    config.model.drop_path_rate = 0.0
    config[field] = 2 if field == "accumulation_steps" else True
    with pytest.raises(ValueError, match="do not go together with BatchNorm over several replicas of TensorFlow"):
        checks.check_batch_size(config, connect("mirrored"))
    config.model.conv_norm, config.model.transformer_norm = "layer_norm", "batch_norm"
    with pytest.raises(ValueError, match="do not go together with BatchNorm"):
        checks.check_batch_size(config, connect("mirrored"))
    config.model.transformer_norm = "layer_norm"
    checks.check_batch_size(config, connect("mirrored"))
    assert_same_states(train(config, 2, "mirrored"), train(config, 2))


def test_rematerialisation_changes_nothing(config):
    """Neither the branches that are dropped nor BatchNorm's averages."""
    config.model.drop_path_rate = 0.5
    kept = train(config, 3)
    config.rematerialise = True
    assert_same_states(train(config, 3), kept, atol=1e-6)


def test_evaluation_is_on_averaged_weights(config):
    config.ema_decay = 0.5
    config.model.conv_norm = "layer_norm"
    engine = make_engine(config)
    engine.begin(0)
    history = []
    for _ in range(4):
        engine.train(1)
        history.append([v.numpy() for v in engine.model.trainable_variables])
    averages = history[0]
    for weights in history[1:]:
        averages = [0.5 * average + 0.5 * weight for average, weight in zip(averages, weights, strict=True)]
    with engine.averaged_weights():
        for variable, average in zip(engine.model.trainable_variables, averages, strict=True):
            np.testing.assert_allclose(variable, average, atol=1e-6)
        averaged_model = engine.model.get_weights()
    for variable, weight in zip(engine.model.trainable_variables, history[-1], strict=True):
        np.testing.assert_array_equal(variable, weight)
    row = engine.evaluate(0)
    config.ema_decay = 0.0
    plain = make_engine(config)
    plain.model.set_weights(averaged_model)
    assert row["eval_loss"] == pytest.approx(plain.evaluate(0)["eval_loss"], rel=1e-5)


class NotFinite:
    """A model whose input has one pixel that is not finite."""

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, images, training):
        return self._model(images + tf.one_hot(0, images.shape[1])[:, None, None] / 0.0, training=training)


@pytest.mark.parametrize(("strategy", "place"), [("one_device", "input"), ("one_device", "loss"), ("mirrored", "loss")])
def test_steps_that_are_not_finite_are_not_applied(config, strategy, place):
    engine = make_engine(config, strategy)
    engine.begin(0)
    engine.train(2)
    variables = [*engine.model.weights, *engine.optimizer.variables]  # BatchNorm's averages too
    before = [v.numpy() for v in variables]
    model, loss_of = engine.model, engine._loss_of
    if place == "input":
        engine.model = NotFinite(model)
    else:
        engine._loss_of = lambda targets, logits: loss_of(targets, logits) * float("nan")
    damaged = tf.function(lambda batch: engine._strategy.run(engine.train_step, args=batch))
    for _ in range(3):
        damaged(next(engine.batches))
    after = [v.numpy() for v in variables]
    for mine, expected in zip(after, before, strict=True):
        np.testing.assert_array_equal(mine, expected)
    assert (engine.skipped.total, engine.skipped.longest, engine.skipped.last) == (3, 3, 4)
    assert np.isfinite(float(engine.loss.result()))
    engine.model, engine._loss_of = model, loss_of
    engine.train(1)
    assert (engine.skipped.total, engine.skipped.longest, engine.skipped.last) == (3, 3, 4)
    assert any((v.numpy() != b).any() for v, b in zip(variables, before, strict=True))


def test_run_without_finite_steps_stops_with_the_batch(run, config, tmp_path):
    config.optimizer.learning_rate = 1e30
    config.optimizer.warmup_steps = 0
    config.max_skipped_steps = 3
    with pytest.raises(loop.RunStopped, match=r"steps in a row had a loss .* step \d+, on .*digits.*, record \d+") as e:
        run(config, tmp_path, connect("one_device"))
    assert "(32 images)" in str(e.value)
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_norms_average_as_the_recipe_says(config):
    """Without momentum evaluation norms by the last batch, as training did."""
    config.batch_norm_momentum, config.model.drop_path_rate = 0.0, 0.0
    config.optimizer.learning_rate = config.optimizer.min_learning_rate = 1e-12
    engine = make_engine(config)
    batches = pipeline.training_batches(sources.prepare(config.dataset), config)
    images = next(iter(batches))[0].numpy().astype("float32")
    engine.begin(0)
    engine.train(1)
    np.testing.assert_allclose(engine.model(images), engine.model(images, training=True), atol=1e-4)


def test_names_are_those_of_the_batch(config):
    source = sources.prepare(config.dataset)
    names = pipeline.example_names(source, config, step=7)
    images, _, _, _ = next(iter(pipeline.training_batches(source, plain(config), first_step=7)))
    stored = {
        example["name"].numpy().decode(): tf.io.decode_png(example["image"]).numpy()
        for example in source.train.read(0, source.train.count)
    }
    assert len(set(names)) == 32
    np.testing.assert_array_equal(images, [stored[name] for name in names])


def plain(config):
    config.augment.flip, config.augment.translate = False, 0
    return config


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_every_operation_of_the_step_compiles_for_xla(every_part, dtype):
    """With static shapes, as a TPU needs."""
    every_part.dtype = dtype
    every_part.optimizer.warmup_steps = 0
    every_part.rematerialise = True
    every_part.model.bias_reindexing = "einsum"
    engine = make_engine(every_part)
    engine.begin(0)
    batch = next(engine.batches)
    assert all(tensor.shape.is_fully_defined() for tensor in batch)
    before = engine.model.trainable_variables[0].numpy()
    tf.function(engine.train_step, jit_compile=True)(*batch)
    assert (engine.model.trainable_variables[0].numpy() != before).any()
    assert engine.skipped.total == 0
    blocks = [layer for layer in engine.model.layers if "block" in layer.name]
    assert {block.compute_dtype for block in blocks} == {dtype.removeprefix("mixed_")}


def test_sigmoid_counts_precision_at_one(config):
    config.loss = "sigmoid"
    config.label_smoothing = 0.0001
    engine = train(config, 5)
    row = engine.evaluate(0)
    counts = engine.confusion()
    assert row["eval_accuracy"] == pytest.approx(counts.trace() / counts.sum())
