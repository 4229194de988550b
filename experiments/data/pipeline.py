"""Input pipeline: examples of a `Source` to batches of images in [0, 255].

Order and augmentation are functions of the seed and the position in the run, so a run that resumes sees
the batches it would have seen.
"""

from __future__ import annotations

import ml_collections
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from experiments import augment
from experiments.data.sources import Source

SHUFFLE_BUFFER = 65_536  # examples; smaller sets are shuffled whole


def training_batches(
    source: Source,
    config: ml_collections.ConfigDict,
    first_step: int = 0,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Endless batches of augmented training images.

    Args:
        source: The dataset.
        config: `seed`, `batch_size` (all replicas together), `image_size` and `augment`.
        first_step: Step of the run to begin at.
        context: Share of this worker, from `strategy.distribute_datasets_from_function`.

    Returns:
        Dataset of `(image, label)`: float32 `[batch, size, size, channels]` in [0, 255], and one-hot
        float32 `[batch, classes]`. Each epoch is a new order of the split, its last partial batch left out.
    """
    context = context or tf.distribute.InputContext()
    per_epoch = source.num_train // config.batch_size * config.batch_size
    first = first_step * config.batch_size

    def prepare(position: tf.Tensor, example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        seed = tf.stack([tf.cast(config.seed, tf.int64), position])
        image = _augment(_decode_and_resize(example["image"], source, config.image_size), seed, config.augment)
        return image, tf.one_hot(_checked_label(example["label"], source), source.num_classes)

    dataset = _read(source, source.train_split)
    dataset = dataset.shuffle(min(source.num_train, SHUFFLE_BUFFER), seed=config.seed).take(per_epoch).repeat()
    dataset = dataset.skip(first).enumerate(start=first)
    dataset = dataset.shard(context.num_input_pipelines, context.input_pipeline_id)
    dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(context.get_per_replica_batch_size(config.batch_size), drop_remainder=True)
    return dataset.prefetch(tf.data.AUTOTUNE)


def evaluation_batches(
    source: Source,
    config: ml_collections.ConfigDict,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """All evaluation images once, in order, the last batch filled up with images of weight 0.

    Args:
        source: The dataset.
        config: `batch_size` (all replicas together) and `image_size`.
        context: Share of this worker, from `strategy.distribute_datasets_from_function`.

    Returns:
        Dataset of `(image, label, weight)`: float32 `[batch, size, size, channels]` in [0, 255], int64
        `[batch]`, and float32 `[batch]`, 1 for an example and 0 for filling.
    """
    context = context or tf.distribute.InputContext()

    def prepare(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        image = _decode_and_resize(example["image"], source, config.image_size)
        return image, _checked_label(example["label"], source), tf.ones(())

    dataset = _read(source, source.eval_split).map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    filling = tf.data.Dataset.from_tensors(
        (tf.zeros((config.image_size, config.image_size, source.channels)), tf.zeros((), tf.int64), tf.zeros(()))
    )
    dataset = dataset.concatenate(filling.repeat(-source.num_eval % config.batch_size))
    dataset = dataset.shard(context.num_input_pipelines, context.input_pipeline_id)
    dataset = dataset.batch(context.get_per_replica_batch_size(config.batch_size), drop_remainder=True)
    return dataset.prefetch(tf.data.AUTOTUNE)


def report_resizing(source: Source, image_size: int) -> None:
    """Logs what the pipeline does to images of another size than the model's."""
    shape = source.builder.info.features["image"].shape
    if shape[:2] != (image_size, image_size):
        stored = "images" if None in shape[:2] else f"images of {shape[0]} x {shape[1]}"
        logging.info("All %s are resized to %d x %d (bilinear).", stored, image_size, image_size)


def _read(source: Source, split: str) -> tf.data.Dataset:
    """Examples in a fixed order, their images still encoded: cheap to keep, shuffle and skip."""
    dataset = source.builder.as_dataset(
        split=split, shuffle_files=False, decoders={"image": tfds.decode.SkipDecoding()}
    )
    return dataset.map(lambda example: {"image": example["image"], "label": example["label"]})


def _decode_and_resize(encoded: tf.Tensor, source: Source, size: int) -> tf.Tensor:
    image = source.builder.info.features["image"].decode_example(encoded)
    if image.shape[:2] != (size, size):
        image = tf.image.resize(image, (size, size), antialias=True)
    return tf.ensure_shape(tf.cast(image, tf.float32), (size, size, source.channels))


def _augment(image: tf.Tensor, seed: tf.Tensor, settings: ml_collections.ConfigDict) -> tf.Tensor:
    flip_seed, translate_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    if settings.flip:
        image = augment.random_flip(image, flip_seed)
    if settings.translate:
        image = augment.random_translate(image, translate_seed, settings.translate)
    return image


def _checked_label(label: tf.Tensor, source: Source) -> tf.Tensor:
    message = f"A label of dataset {source.builder.name!r} is outside 0 to {source.num_classes - 1}."
    with tf.control_dependencies(
        [
            tf.debugging.assert_non_negative(label, message),
            tf.debugging.assert_less(label, tf.cast(source.num_classes, label.dtype), message),
        ]
    ):
        return tf.identity(label)
