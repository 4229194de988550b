"""Classes of unequal size: what balanced sampling draws, what weights multiply, and what the report says."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from experiments import checks, loop, losses, report
from experiments.data import pipeline, sources
from experiments.data.readers import BalancedFiles
from tests.experiments.samples import make_folder

FILES = BalancedFiles(tuple(f"{index}.jpg" for index in range(23)), (0,) * 3 + (1,) * 16 + (2,) * 4)


def seed_of(number):
    return tf.constant([number, 7], tf.int64)


def files_of(examples):
    return [int(example["name"].numpy().decode().removesuffix(".jpg")) for example in examples]


def order_of(number):
    return FILES._order(seed_of(number)).numpy().tolist()


def test_each_class_comes_as_often():
    for seed in range(5):
        order = order_of(seed)
        labels = [FILES.labels[file] for file in order]
        assert np.bincount(labels).tolist() == [8, 8, 7]  # 23 are not three equal parts
        times = np.bincount(order, minlength=23)
        assert set(times[:3]) == {2, 3} and set(times[3:19]) <= {0, 1} and set(times[19:]) == {1, 2}
        assert order == order_of(seed)
    assert order_of(0) != order_of(1)
    assert files_of(FILES.read(2, 9, seed_of(0))) == order_of(0)[2:9]
    drawn = {file for seed in range(40) for file in order_of(seed)}
    assert drawn == set(range(23))  # of large classes others in each epoch
    mixed = np.mean([[FILES.labels[file] for file in order_of(seed)] for seed in range(40)], axis=0)
    assert np.ptp(mixed) < 1  # classes lie among one another


def test_without_a_seed_it_is_the_files_as_they_are():
    assert files_of(FILES.read(0, 23)) == list(range(23))


@pytest.fixture
def unequal(config, tmp_path):
    config.dataset.name = f"folder:{make_folder(tmp_path / 'colors', {'red': 60, 'green': 12, 'blue': 10})}"
    config.dataset.train_split, config.dataset.eval_split = "train", "validation"
    config.batch_size = 8
    return config


def test_sampling_goes_on_where_it_stopped(unequal):
    unequal.dataset.balance = "sampling"
    source = sources.prepare(unequal.dataset)
    order = pipeline.training_order(source, unequal)
    steps = 2 * order.steps_per_epoch
    labels = [int(label) for group in order.examples(0).take(steps * 8) for label in group["label"]]
    assert np.ptp(np.bincount(labels)) < 8  # but for the last, partial batches of the epochs
    whole = [batch[0].numpy() for batch in pipeline.training_batches(source, unequal).take(steps)]
    rest = [batch[0].numpy() for batch in pipeline.training_batches(source, unequal, 5).take(steps - 5)]
    np.testing.assert_array_equal(np.stack(rest), np.stack(whole[5:]))


def test_weights_make_classes_count_the_same(unequal):
    source = sources.prepare(unequal.dataset)
    weights = sources.class_weights(source)
    counts = np.bincount(source.train.labels)
    np.testing.assert_allclose(weights * counts, np.full(3, source.train.count / 3))
    targets, logits = np.eye(3, dtype="float32")[[0, 1]], np.array([[1.0, 2, 3], [0, 1, 0]], "float32")
    plain, weighted = (losses.make_loss("softmax", 0.1, w)(targets, logits) for w in (None, weights))
    np.testing.assert_allclose(weighted, plain * weights[:2], rtol=1e-6)
    mixed = 0.25 * targets[:1] + 0.75 * targets[1:]
    plain, weighted = (losses.make_loss("softmax", 0.0, w)(mixed, logits[:1]) for w in (None, weights))
    np.testing.assert_allclose(weighted, plain * (0.25 * weights[0] + 0.75 * weights[1]), rtol=1e-6)


def test_weights_of_a_dataset_that_is_no_folder(config):
    source = sources.prepare(config.dataset)
    labels = [int(example["label"]) for example in source.train.read(0, source.train.count)]
    expected = len(labels) / (10 * np.bincount(labels))
    np.testing.assert_allclose(sources.class_weights(source), expected)


def test_what_cannot_be_balanced_is_refused(config):
    config.dataset.balance = "sampling"
    source = sources.prepare(config.dataset)
    with pytest.raises(ValueError, match="balance=sampling draws files of a folder, and digits is none; take weights"):
        sources.check_for_training(source, config.dataset)
    with pytest.raises(ValueError, match="can have several classes, and config.dataset.balance=sampling supposes one"):
        sources.check_for_training(dataclasses.replace(source, multi_label=True), config.dataset)
    config.dataset.balance = "weight"
    with pytest.raises(ValueError, match="config.dataset.balance must be one of none, weights, sampling; got 'weight'"):
        checks.check_values(config)


@pytest.mark.slow
def test_the_step_takes_the_weights(unequal, devices):
    """Without mixtures, the loss of the first step is that of the examples, weighted."""
    unequal.dataset.balance = "weights"
    unequal.model.drop_path_rate = 0.0
    source = sources.prepare(unequal.dataset)
    engine = devices.engine(unequal, source, loop.make_schedule(unequal, source))
    images, targets, *_ = next(iter(pipeline.training_batches(source, unequal)))
    logits = engine.model(images.numpy().astype("float32"), training=True)
    values = losses.make_loss("softmax", unequal.label_smoothing)(targets.numpy().astype("float32"), logits)
    weights = sources.class_weights(source)[targets.numpy().argmax(axis=1)]
    assert np.ptp(weights) > 1
    engine.begin(0)
    engine.train(1)
    assert float(engine.loss.result()) == pytest.approx(float(np.mean(np.array(values) * weights)), rel=1e-4)


def test_the_report_has_a_table_by_class(tmp_path):
    from etils import epath

    row = {"step": 1, "epoch": 1, "learning_rate": 0.1, "images_per_second": 1.0}
    row |= {f"{part}_{name}": 0.5 for part in ("train", "eval") for name in ("loss", "accuracy")}
    report.write(
        epath.Path(tmp_path),
        title="it",
        rows=[row],
        confusion=np.array([[90, 0, 0], [5, 5, 0], [0, 0, 0]]),
        class_names=("cat", "do|g", "eel"),
        facts={},
    )
    text = (tmp_path / "report.md").read_text()
    assert "| Balanced accuracy (mean recall) | 75.00% |" in text
    assert (
        "| cat | 90 | 94.74% | 100.00% | 97.30% |\n| do\\|g | 10 | 100.00% | 50.00% | 66.67% |\n| eel | 0 |  |  |  |"
        in text
    )
