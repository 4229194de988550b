"""Distillation: the student sees what its teacher sees, and learns its answers; on either engine."""

import shutil

import keras
import numpy as np
import pytest
import scipy.special

import coatnet_tf
from experiments import loop, losses, teachers, workdir
from experiments.data import sources
from experiments.model_config import make_model_config

pytestmark = pytest.mark.usefixtures("no_pictures")


def make_model(config, size=8, channels=1, classes=10, activation="softmax", **arguments):
    return coatnet_tf.CoAtNet(
        make_model_config(config.model),
        input_shape=(size, size, channels),
        classes=classes,
        classifier_activation=activation,
        **arguments,
    )


@pytest.fixture
def taught(config, tmp_path):
    """The recipe with a teacher of the same network, without what differs between training and inference."""
    config.model.conv_norm, config.model.drop_path_rate = "layer_norm", 0.0
    config.teacher = str(tmp_path / "teacher.keras")
    make_model(config).save(config.teacher)
    return config


def make_engine(config, devices, folder):
    source = loop.prepare(config, folder, devices)
    engine, _, step = loop.build(config, folder, devices, source)
    engine.begin(step)
    return engine


@pytest.mark.parametrize(("loss", "temperature"), [("softmax", 1.0), ("softmax", 3.0), ("sigmoid", 2.0)])
def test_the_loss_is_the_divergence_of_the_probabilities(loss, temperature):
    teacher, student = np.random.default_rng(0).normal(0, 4, (2, 5, 3)).astype("float32")
    found = keras.ops.convert_to_numpy(losses.make_distillation(loss, temperature)(teacher, student))
    if loss == "softmax":
        p, q = (scipy.special.softmax(x / temperature, axis=-1) for x in (teacher, student))
        expected = scipy.special.rel_entr(p, q).sum(axis=-1)
    else:
        p, q = (scipy.special.expit(x / temperature) for x in (teacher, student))
        expected = (scipy.special.rel_entr(p, q) + scipy.special.rel_entr(1 - p, 1 - q)).sum(axis=-1)
    np.testing.assert_allclose(found, temperature**2 * expected, rtol=1e-4)


@pytest.mark.slow
def test_a_student_that_is_its_teacher_has_nothing_to_learn(taught, devices, tmp_path):
    """Whatever the crops, the mixtures and the parts of a batch: both see the same. The labels are another matter."""
    taught.init_from, taught.optimizer.warmup_steps = taught.teacher, 0
    taught.augment.crop, taught.augment.mixup_alpha, taught.augment.cutmix_alpha = "inception", 0.8, 1.0
    taught.accumulation_steps, taught.teacher_temperature = 2, 2.0
    engine = make_engine(taught, devices, tmp_path / "run")
    engine.train(1)
    assert 0 <= float(engine.loss.result()) < 1e-6
    taught.teacher_weight = 0.75
    half = make_engine(taught, devices, tmp_path / "half")
    half.train(1)
    taught.teacher, taught.label_smoothing = "", 0.1
    alone = make_engine(taught, devices, tmp_path / "alone")
    alone.train(1)
    assert float(half.loss.result()) == pytest.approx(0.25 * float(alone.loss.result()), rel=1e-4)


@pytest.mark.slow
def test_the_teacher_is_at_its_own_size_and_in_inference_mode(config, devices, tmp_path):
    config.model.strides = (1, 2, 2)
    teacher = make_model(config, size=16)  # with BatchNorm, whose moving averages do not move
    for variable in teacher.weights:
        if variable.path.endswith("moving_mean"):
            variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    config.teacher = str(tmp_path / "teacher.keras")
    teacher.save(config.teacher)
    engine = make_engine(config, devices, tmp_path / "run")
    images = np.random.default_rng(1).integers(0, 256, (32, 8, 8, 1)).astype("float32")
    large = keras.ops.image.resize(images, (16, 16), interpolation="bilinear", antialias=True)
    logits = keras.ops.convert_to_numpy(engine._taught(keras.ops.convert_to_tensor(images)))
    probabilities = keras.ops.convert_to_numpy(teacher(large))
    np.testing.assert_allclose(scipy.special.softmax(logits, axis=-1), probabilities, atol=1e-5)
    before = [keras.ops.convert_to_numpy(v) for v in engine.teacher.weights]
    engine.train(2)
    for variable, value in zip(engine.teacher.weights, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)
    kept = {id(variable) for group in engine.state().values() for variable in group}
    assert not kept & {id(variable) for variable in engine.teacher.weights}


@pytest.mark.slow
def test_a_taught_run_resumes_to_the_same_end_and_with_no_other_teacher(run, taught, devices, tmp_path):
    taught.model.drop_path_rate, taught.augment.mixup_alpha, taught.teacher_weight = 0.2, 0.8, 0.9
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(taught, whole, devices)
    shutil.copytree(whole, stopped)
    for path in (stopped / workdir.CHECKPOINTS).glob("*10*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (stopped / workdir.MODEL).unlink()
    run(taught, stopped, devices)
    mine, theirs = (keras.models.load_model(folder / workdir.MODEL) for folder in (stopped, whole))
    for variable, expected in zip(mine.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(variable, expected, err_msg=variable.path)
    assert len(mine.weights) == len(make_model(taught).weights)
    make_model(taught).save(taught.teacher)  # other random weights
    with pytest.raises(ValueError, match=r"weights of --config.teacher=.*teacher.keras have changed since the run in"):
        loop.prepare(taught, stopped, devices)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": "nowhere"}, "--config.teacher=nowhere is neither the folder of a finished run"),
        ({"teacher": "timm/coatnet_9"}, "no trained weights 'timm/coatnet_9'"),
        ({"teacher_temperature": 0.0}, "config.teacher_temperature must be above 0; got 0.0"),
        ({"teacher_weight": 0.0}, "config.teacher_weight must be above 0 and at most 1; got 0.0"),
        ({"tune": "head", "init_from": "somewhere"}, "and a teacher sees those of each step; take another config.tune"),
        ({"loss": "sigmoid"}, "was trained for softmax, and config.loss is sigmoid; they must be one"),
        (
            {"dataset.channels": 3},
            "takes images of 1 channels, and those of the run have 3; set --config.dataset",
        ),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(taught, devices, tmp_path, change, message):
    taught.update_from_flattened_dict(change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make_engine(taught, devices, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_classes_and_other_files_are_refused(taught, tmp_path):
    source = sources.prepare(taught.dataset)
    make_model(taught, classes=9).save(taught.teacher)
    with pytest.raises(ValueError, match="distinguishes 9 classes, and digits has 10: a teacher must have the same"):
        teachers.load(taught, source)
    make_model(taught, include_preprocessing=False).save(taught.teacher)
    with pytest.raises(ValueError, match=r"is no classifier of this package for images in \[0, 255\]"):
        teachers.load(taught, source)
    run = tmp_path / "run"
    run.mkdir()
    make_model(taught).save(run / workdir.MODEL)
    (run / workdir.CLASSES).write_text("\n".join(["zero", *source.class_names[1:]]) + "\n")
    taught.teacher = str(run)
    with pytest.raises(ValueError, match="has other classes than digits: 'zero' in the place of '0'"):
        teachers.load(taught, source)
    (run / workdir.MODEL).write_text("no archive")
    with pytest.raises(ValueError, match="is no .keras file, the whole model as keras.Model.save writes it"):
        teachers.settle(taught, tmp_path / "other")
