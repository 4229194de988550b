"""Training runs: what they leave, how they resume, how they share work, and what they refuse."""

import json
import shutil

import keras
import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from coatnet_tf.layers import tensorflow_training
from experiments import checks, loop, workdir
from experiments.data import pipeline, sources, views
from experiments.engine import connect, tensorflow_engine
from experiments.model_config import make_model_config

pytestmark = pytest.mark.usefixtures("no_pictures")  # `whole_run` has some


def new_engine(config, source, devices):
    return devices.engine(config, source, loop.make_schedule(config, source))


def final_weights(folder):
    return keras.models.load_model(folder / workdir.MODEL).get_weights()


def without_speed(rows):
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows]


@pytest.mark.slow
def test_run_leaves_model_metrics_and_report(config, whole_run):
    rows = workdir.read_metrics(whole_run)
    assert [(row["step"], row["epoch"]) for row in rows] == [(5, 1), (10, 2)]
    assert rows[-1]["learning_rate"] == pytest.approx(config.optimizer.min_learning_rate, rel=1e-3)
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    for name in ("report.md", "curves.png", "confusion.png", "predictions.png", "classes.txt", "config.json"):
        assert (whole_run / name).stat().st_size > 0, name
    assert list((whole_run / "tensorboard").glob("events*"))

    model = keras.models.load_model(whole_run / workdir.MODEL)
    batches = pipeline.evaluation_batches(sources.prepare(config.dataset), config).as_numpy_iterator()
    images, targets, weights = (np.concatenate(part) for part in zip(*batches, strict=True))
    probabilities = model.predict(images.astype("float32"), verbose=0)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-5)
    right = (probabilities.argmax(axis=-1) == targets.argmax(axis=-1)) * weights
    assert right.sum() / 50 == pytest.approx(rows[-1]["eval_accuracy"])


@pytest.mark.slow
def test_stopped_run_resumes_to_the_same_end(run, config, devices, whole_run, finished_run):
    # As if it had been stopped in the second epoch: the first epoch's checkpoint, a row too many, no results.
    for path in (finished_run / workdir.CHECKPOINTS).glob("*10*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (finished_run / workdir.MODEL).unlink()
    run(config, finished_run, devices)
    for mine, theirs in zip(final_weights(finished_run), final_weights(whole_run), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    rows = workdir.read_metrics(finished_run)
    assert without_speed(rows) == without_speed(workdir.read_metrics(whole_run))
    (events,) = (finished_run / "tensorboard").glob("events*")
    drawn = [event.step for event in tf.compat.v1.train.summary_iterator(str(events)) if event.HasField("summary")]
    assert sorted(set(drawn)) == [row["step"] for row in rows]
    assert len(drawn) == sum(len(row) for row in rows)  # each value once


@pytest.mark.slow
def test_finished_run_writes_its_report_again(run, config, devices, finished_run):
    before = workdir.read_metrics(finished_run)
    (finished_run / workdir.REPORT).unlink()
    run(config, finished_run, devices)
    assert workdir.read_metrics(finished_run) == before
    assert f"{before[-1]['eval_accuracy']:.2%}" in (finished_run / workdir.REPORT).read_text()


@pytest.mark.slow
def test_two_replicas_train_as_one_device(run, assert_same_models, config, devices, tmp_path):
    """Global batch statistics, one clipping norm: the weights agree to rounding."""
    config.model.drop_path_rate = 0.0  # branches are dropped by each replica, not by position in the batch
    config.optimizer.clip_norm = 0.1
    mirrored = connect("mirrored")
    assert mirrored.replicas == 2
    run(config, tmp_path / "one", devices)
    run(config, tmp_path / "two", mirrored)
    assert_same_models(tmp_path / "two", tmp_path / "one")
    rows = [without_speed(workdir.read_metrics(tmp_path / name)) for name in ("two", "one")]
    for mine, theirs in zip(*rows, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_compiled_gelus_train_as_plain_ones(run, assert_same_models, config, devices, whole_run, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(tensorflow_training, "_WORTH", 2**11)
    monkeypatch.setattr(tensorflow_engine.logging, "info", lambda text, *values: lines.append(text % values))
    run(config, tmp_path / "compiled", devices)
    (said,) = (line for line in lines if line.startswith("XLA compiles"))
    assert said == "XLA compiles 3 large GELUs of the step, which is faster on a CPU."
    assert_same_models(tmp_path / "compiled", whole_run)


def test_replicas_drop_branches_each_on_its_own(config):
    devices = connect("mirrored")
    engine = new_engine(config, sources.prepare(config.dataset), devices)
    engine.begin(0)
    block = engine.model.get_layer("s2_block01")
    draw = tf.function(lambda: block.ffn_drop_path(tf.ones((64, 1)), training=True))
    kept = [values.numpy() for values in devices.strategy.experimental_local_results(devices.strategy.run(draw))]
    assert len(kept) == 2
    assert (kept[0] != kept[1]).any()


@pytest.mark.parametrize("name", ["one_device", "mirrored"])
def test_restored_random_streams_go_on(config, tmp_path, name):
    """What is drawn after a restore is what would have been drawn, in each replica."""
    devices = connect(name)
    source = sources.prepare(config.dataset)

    def draw(engine):
        block = engine.model.get_layer("s2_block01")
        run = tf.function(lambda: block.ffn_drop_path(tf.ones((64, 1)), training=True))
        return [values.numpy() for values in devices.strategy.experimental_local_results(devices.strategy.run(run))]

    def start():
        engine = new_engine(config, source, devices)
        return engine, devices.checkpoints(tmp_path, engine.state())

    engine, checkpoints = start()
    engine.begin(0)
    draw(engine)
    checkpoints.save(1)
    expected = draw(engine)
    resumed, checkpoints = start()
    assert checkpoints.restore_latest() == 1
    resumed.begin(0)
    np.testing.assert_array_equal(draw(resumed), expected)


@pytest.mark.slow
def test_bfloat16_run_ends_in_a_float32_model(run, config, devices, tmp_path):
    config.dtype = "mixed_bfloat16"
    run(config, tmp_path, devices)
    assert keras.config.dtype_policy().name == "float32"  # of what is built after the run
    model = keras.models.load_model(tmp_path / workdir.MODEL)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


def test_another_runs_folder_is_refused(run, config, devices, tmp_path):
    views.settle(config, tmp_path)
    workdir.claim(tmp_path, config, sources.prepare(config.dataset))
    (tmp_path / workdir.METRICS).write_text("")
    config.steps_per_call = 7  # changes how often the run looks up, not its result
    workdir.check(tmp_path, config)
    config.optimizer.learning_rate = 1.0
    with pytest.raises(ValueError, match=r"holds another run, whose config differs in config.optimizer.learning_rate"):
        run(config, tmp_path, devices)
    (tmp_path / workdir.CONFIG).unlink()
    with pytest.raises(ValueError, match="holds checkpoints, metrics or a model but no config.json"):
        run(config, tmp_path, devices)


def test_folders_that_no_run_can_have_are_refused(run, config, devices, finished_run):
    """A model alone is no less than a run; a pattern would hide the checkpoints; a file is no folder."""
    for name in (workdir.METRICS, workdir.CHECKPOINTS):
        path = finished_run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    model = (finished_run / workdir.MODEL).read_bytes()
    config.seed = 7
    for folder, message in (
        (finished_run, "holds results of a run but none of its checkpoints"),
        (finished_run.parent / "run [1]", r"has a \[, which TensorFlow takes for a pattern"),
        (finished_run / workdir.MODEL / "run", "model.keras is a file; give a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            run(config, folder, devices)
    assert (finished_run / workdir.MODEL).read_bytes() == model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "config.batch_size must be at least 1; got 0"),
        ({"batch_size": 1024}, "batch_size 1024 is larger than the training split of 160 images"),
        ({"image_size": 10}, "stage s2 cannot divide an input of height 10"),
        ({"epochs": 0}, "config.epochs must be at least 1"),
        ({"model.name": "coatnet-9", "model.depths": None}, "no configuration 'coatnet-9'"),
        ({"steps_per_call": 0}, "config.steps_per_call must be at least 1; got 0"),
        ({"optimizer.learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"optimizer.clip_norm": 0.0}, "clip_norm must be above 0"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1"),
        ({"augment.translate": 8}, "translate must be at least 0 and below the image size"),
        ({"dtype": "mixed_float16"}, "dtype must be one of float32, mixed_bfloat16; got 'mixed_float16'"),
        ({"model.name": "coatnet-0"}, "describes a model of its own: take another name"),
        ({"optimizer.warmup_steps": 10}, "must be shorter than the run's 10 steps; got 10"),
        ({"optimizer.warmup_epochs": 1}, "Set config.optimizer.warmup_steps or config.optimizer.warmup_epochs"),
        ({"optimizer.decay": "step"}, "decay must be one of cosine, linear, constant; got 'step'"),
        ({"optimizer.min_learning_rate": 1.0}, "min_learning_rate 1.0 is above learning_rate 0.002"),
        ({"optimizer.decay": "constant"}, "decay is constant, but min_learning_rate 1e-05 is not learning_rate 0.002"),
        ({"dataset.name": "digit"}, "no dataset 'digit'"),
        ({"dataset.name": ""}, "config.dataset.name is empty; name a dataset with --data=tfds:NAME"),
        ({"loss": "hinge"}, "config.loss must be one of softmax, sigmoid, squared_error; got 'hinge'"),
        ({"augment.crop": "random"}, "config.augment.crop must be one of none, inception; got 'random'"),
        (
            {"eval_crop": "all"},
            "config.eval_crop must be none, center, or a share above 0 and up to 1, such as 0.95; got 'all'",
        ),
        ({"ema_decay": 1.0}, "config.ema_decay must be at least 0 and below 1; got 1.0"),
        (
            {"augment.randaugment_probability": 0.0},
            "config.augment.randaugment_probability must be above 0 and at most 1; got 0.0",
        ),
        ({"augment.cutmix_alpha": -1.0}, "config.augment.cutmix_alpha must be at least 0; got -1.0"),
        ({"augment.random_erasing": 1.5}, "config.augment.random_erasing must be at least 0 and at most 1; got 1.5"),
        ({"augment.mixup_alpha": -1.0}, "config.augment.mixup_alpha must be at least 0; got -1.0"),
        ({"accumulation_steps": 3}, "share of 32 images cannot be parted into config.accumulation_steps 3"),
        (
            {"augment.mixup_alpha": 0.8, "batch_size": 15},
            "Mixup and CutMix pair .* share of 15 is odd",
        ),
        ({"ema_decay": 0.9999}, "ema_decay 0.9999 is too slow for a run of 10 steps: .* Take at most 0.9330, or 0"),
        ({"image_size": None}, "config.image_size is not set; give it in the recipe or with --config.image_size="),
        ({"reset_head": True}, "--reset_head has a meaning only with --init_from"),
        ({"model.head_size": 24}, "head_size 24 must divide the width of q, k and v in every Transformer stage"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(run, config, devices, tmp_path, change, message):
    for field, value in change.items():
        node, _, leaf = field.rpartition(".")
        owner = config[node] if node else config
        if leaf == "depths":
            for name in ("depths", "widths", "strides", "layout"):
                del owner[name]
        else:
            owner[leaf] = value
    with pytest.raises(ValueError, match=message):
        run(config, tmp_path / "run", devices)
    assert not (tmp_path / "run").exists()


def test_folder_of_a_run_that_never_began_can_be_taken(config, tmp_path):
    workdir.claim(tmp_path, config, sources.prepare(config.dataset))
    config.batch_size = 16
    workdir.check(tmp_path, config)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        workdir.check(tmp_path / "file", config)


def test_row_of_metrics_that_was_cut_off_is_left_out(tmp_path):
    workdir.append_metrics(tmp_path, {"step": 1})
    with (tmp_path / workdir.METRICS).open("a") as file:
        file.write('{"step": 2, "train_l')
    assert workdir.read_metrics(tmp_path) == [{"step": 1}]
    workdir.drop_metrics_after(tmp_path, 1)
    assert (tmp_path / workdir.METRICS).read_text() == '{"step": 1}\n'


def test_batches_that_replicas_cannot_share_are_refused(config):
    config.batch_size = 33
    with pytest.raises(ValueError, match="positive multiple of their number, 2"):
        checks.check_batch_size(config, connect("mirrored"))


def test_config_is_kept_as_json(config, tmp_path):
    workdir.claim(tmp_path / "run", config, sources.prepare(config.dataset))
    kept = ml_collections.ConfigDict(json.loads((tmp_path / "run" / workdir.CONFIG).read_text()))
    assert make_model_config(kept.model) == make_model_config(config.model)
    shutil.rmtree(tmp_path / "run")
