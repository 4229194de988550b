"""Datasets and the input pipeline."""

import dataclasses
import gzip

import numpy as np
import pytest
import tensorflow as tf

from experiments import augment
from experiments.data import fashion_mnist, pipeline, sources


def write_idx(path, array):
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.astype("uint8").tobytes()))


@pytest.fixture
def idx_folder(tmp_path):
    """Fashion-MNIST in miniature: 20 images to train, 10 to test, label = index modulo 10."""
    folder = tmp_path / "idx"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 20), ("t10k", 10)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", generator.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return folder


def collect(dataset):
    return [np.concatenate(parts) for parts in zip(*dataset.as_numpy_iterator(), strict=True)]


def test_digits_are_scikit_learns(config):
    from sklearn.datasets import load_digits

    config.dataset.train_split, config.dataset.eval_split = "train", "test"
    source = sources.prepare(config.dataset)
    assert (source.train.count, source.eval.count, source.num_classes, source.channels) == (1438, 359, 10, 1)
    found = [
        (image.tobytes(), int(label))
        for split in ("train", "test")
        for image, label in source.train.builder.as_dataset(split=split, as_supervised=True).as_numpy_iterator()
    ]
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype("uint8")
    assert sorted(found) == sorted(
        (image.tobytes(), int(label)) for image, label in zip(images, digits.target, strict=True)
    )


def test_training_batches_hold_each_example_once_an_epoch(config):
    config.augment.flip, config.augment.translate = False, 0
    source = sources.prepare(config.dataset)
    everything = sorted(
        image.tobytes()
        for image in collect(pipeline.evaluation_batches(dataclasses.replace(source, eval=source.train), config))[0]
    )
    epochs = pipeline.training_batches(source, config).take(10)
    images, targets, weights, _ = collect(epochs)
    assert images.shape == (320, 8, 8, 1) and images.dtype == np.uint8
    assert sorted(image.tobytes() for image in images[:160]) == everything
    assert sorted(image.tobytes() for image in images[160:]) == everything
    assert (images[:160] != images[160:]).any()
    np.testing.assert_array_equal(targets.sum(axis=1), 1)
    np.testing.assert_array_equal(weights, 1)


@pytest.mark.parametrize("first_step", [3, 5, 8])
def test_training_batches_go_on_where_they_stopped(config, first_step):
    config.augment.update(mixup_alpha=0.8, cutmix_alpha=1.0, random_erasing=0.5)
    source = sources.prepare(config.dataset)
    whole = collect(pipeline.training_batches(source, config).take(10))
    rest = collect(pipeline.training_batches(source, config, first_step).take(10 - first_step))
    for mine, theirs in zip(rest, whole, strict=True):
        np.testing.assert_array_equal(mine, theirs[first_step * config.batch_size :])


@pytest.mark.parametrize("mixup_alpha", [0.0, 0.8])
def test_pairs_exchange_what_their_targets_say(config, mixup_alpha):
    """Each pixel is the image's own or its partner's; the share of the own ones is the target's."""
    config.augment.update(flip=False, translate=0)
    source = sources.prepare(config.dataset)
    plain = []
    for alphas in ({"mixup_alpha": 1e-9, "cutmix_alpha": 0.0}, {"mixup_alpha": mixup_alpha, "cutmix_alpha": 1.0}):
        config.augment.update(alphas)
        plain.append(collect(pipeline.training_batches(source, config).take(5)))
    (images, targets, _, _), (mixed, same, _, shares) = plain
    np.testing.assert_array_equal(targets, same)
    partners = images.reshape(-1, 2, *images.shape[1:])[:, ::-1].reshape(images.shape)
    differ = (images != partners).any(axis=-1)
    own, of_partner = (mixed == images).all(axis=-1), (mixed == partners).all(axis=-1)
    assert (own | of_partner).all()
    has_cutmix = shares[:, 0] == 1
    np.testing.assert_array_equal(own[~has_cutmix], True)  # Mixup is of the step
    assert (has_cutmix.mean() == 1) if not mixup_alpha else (0.3 < has_cutmix.mean() < 0.7)
    np.testing.assert_allclose(shares[~has_cutmix, 0], shares[~has_cutmix, 1])
    for image in np.flatnonzero(has_cutmix):
        rows, columns = np.nonzero(differ[image] & of_partner[image])
        exchanged = round((1 - shares[image, 1]) * own[image].size)
        assert len(rows) <= exchanged
        if len(rows):  # one rectangle, but for pixels that are equal in both
            box = np.s_[image, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert of_partner[box].all() and own[box].size <= exchanged
    assert shares[has_cutmix, 1].std() > 0.1
    np.testing.assert_array_equal(shares[::2], shares[1::2])


@pytest.mark.parametrize("mixes", [False, True])
def test_workers_share_each_batch(config, mixes):
    if mixes:
        config.augment.update(mixup_alpha=0.8, cutmix_alpha=1.0, random_erasing=0.5)
    source = sources.prepare(config.dataset)
    whole = collect(pipeline.training_batches(source, config).take(5))
    shares = [
        collect(pipeline.training_batches(source, config, 0, tf.distribute.InputContext(2, worker, 2)).take(5))
        for worker in (0, 1)
    ]
    for part in range(4):
        parts = [shares[worker][part].reshape(5, 16, *whole[part].shape[1:]) for worker in (0, 1)]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole[part].reshape(5, 32, *whole[part].shape[1:]))


def test_evaluation_counts_every_example_once(config):
    source = sources.prepare(config.dataset)
    images, targets, weights = collect(pipeline.evaluation_batches(source, config))
    assert len(images) == 64 and weights.tolist() == [1] * 50 + [0] * 14
    expected = [int(label) for _, label in source.eval.builder.as_dataset(split="test[:50]", as_supervised=True)]
    assert targets[:50].argmax(axis=1).tolist() == expected


def test_images_are_resized_to_the_models_size(config):
    config.image_size = 16
    images, _, _ = collect(pipeline.evaluation_batches(sources.prepare(config.dataset), config))
    assert images.shape == (64, 16, 16, 1)
    assert images.min() >= 0 and images.max() <= 255


def test_fashion_mnist_from_idx_files(config, idx_folder, tmp_path):
    config.dataset.update(name="fashion_mnist_idx", manual_dir=str(idx_folder), data_dir=str(tmp_path / "prepared"))
    config.dataset.update(train_split="train", eval_split="test")
    source = sources.prepare(config.dataset)
    assert (source.train.count, source.eval.count, source.class_names[9]) == (20, 10, "Ankle boot")
    config.batch_size, config.image_size = 5, 28
    images, targets, _ = collect(pipeline.evaluation_batches(source, config))
    expected, _ = fashion_mnist.read_split(idx_folder, "test")
    order = np.argsort(targets.argmax(axis=1))
    np.testing.assert_array_equal(images[order], expected)


def damage_magic(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"no IDX file"))


def damage_gzip(folder):
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:20])


def damage_count(folder):
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.zeros(19))


def damage_length(folder):
    header = bytes((0, 0, 8, 1)) + np.array([20], ">u4").tobytes()
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + bytes(7)))


def damage_label(folder):
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.arange(20))


def damage_nothing_but_remove(folder):
    (folder / "t10k-images-idx3-ubyte.gz").unlink()


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (damage_magic, ValueError, "is no IDX file of unsigned bytes with 3 dimensions"),
        (damage_gzip, ValueError, "is no gzip file, or is cut short"),
        (damage_count, ValueError, "has 20 images but 19 labels"),
        (damage_length, ValueError, r"announces \(20,\) values and holds 7; it is damaged"),
        (damage_label, ValueError, "has label 19 at index 19; labels are 0 to 9"),
        (damage_nothing_but_remove, FileNotFoundError, "t10k-images-idx3-ubyte.gz is missing; install Debian's"),
    ],
)
def test_damaged_files_are_refused(config, idx_folder, tmp_path, damage, error, message):
    damage(idx_folder)
    config.dataset.update(name="fashion_mnist_idx", manual_dir=str(idx_folder), data_dir=str(tmp_path / "prepared"))
    with pytest.raises(error, match=message):
        sources.prepare(config.dataset)


def test_another_run_can_prepare_the_dataset_meanwhile(config, tmp_path, monkeypatch):
    config.dataset.data_dir = str(tmp_path)
    builder = sources.OWN_BUILDERS[config.dataset.name]
    generate = builder._generate_examples
    sources_of_the_other = []

    def prepare_twice(*args):
        monkeypatch.setattr(builder, "_generate_examples", generate)
        sources_of_the_other.append(sources.prepare(config.dataset))
        return generate(*args)

    monkeypatch.setattr(builder, "_generate_examples", prepare_twice)
    assert sources.prepare(config.dataset).train.count == sources_of_the_other[0].train.count > 0


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"name": "digit"}, "no dataset 'digit'; the known ones are digits, fashion_mnist_idx, .* and the .* names"),
        ({"name": "cifar_10"}, "such as .*cifar10"),
        ({"train_split": "training"}, "no split 'training'; it has train, test, and slices"),
        ({"eval_split": "test[:0]"}, "holds no examples"),
    ],
)
def test_unknown_names_are_refused(config, field, message):
    config.dataset.update(field)
    with pytest.raises(ValueError, match=message):
        sources.prepare(config.dataset)


def test_labels_outside_the_range_are_refused(config):
    source = sources.prepare(config.dataset)
    nine_classes = dataclasses.replace(source, class_names=source.class_names[:9])
    for batches in (pipeline.training_batches(nine_classes, config), pipeline.evaluation_batches(nine_classes, config)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="A label of dataset .*digits.* is outside 0 to 8"):
            collect(batches.take(5))


def test_augmentations_are_functions_of_their_seed():
    image = tf.reshape(tf.range(48.0), (4, 4, 3))
    flips = {augment.random_flip(image, [0, seed]).numpy().tobytes() for seed in range(20)}
    assert flips == {image.numpy().tobytes(), image.numpy()[:, ::-1].tobytes()}
    moved = {augment.random_translate(image, [0, seed], 1).numpy().tobytes() for seed in range(80)}
    assert len(moved) == 9
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    assert moved == {padded[i : i + 4, j : j + 4].tobytes() for i in range(3) for j in range(3)}
