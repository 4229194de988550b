"""Features of images, computed once, in the place of the images: what a head is trained on.

The batches are those of `pipeline.training_batches` with the same examples in the same order, so that a run that
resumes sees what it would have seen. In each epoch all images are seen in one view, the views in turn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf
import tqdm

from experiments.data import pipeline
from experiments.data.damage import DamagedImages
from experiments.data.order import Order
from experiments.data.readers import permutation
from experiments.data.sources import Source

# From a batch of images, uint8 `[batch, height, width, channels]`, to its features, float32 `[batch, width]`.
Embed = Callable[[Any], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of the images of a split, in the order in which it is stored.

    Args:
        values: float32 `[views, count, width]`.
        targets: uint8 `[count, classes]`, 1 for each class of the image; or of numbers, as batches have them.
        weights: float32 `[views, count]`, 0 for an image that cannot be decoded, 1 for others.
        names: Names of the images.
        num_files: As of the split's `Reader`.
    """

    values: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    names: tuple[str, ...]
    num_files: int

    @property
    def count(self) -> int:
        return len(self.targets)

    @property
    def window(self) -> None:
        return None

    def contents(self) -> Iterator[str]:
        yield from self.names

    def read(self, first: Any, last: Any, seed: Any = None) -> tf.data.Dataset:
        """Numbers of the images; otherwise as of a `Reader`."""
        order = tf.range(self.count) if seed is None else permutation(self.count, seed)
        return tf.data.Dataset.from_tensor_slices({"index": order[first:last]})

    def order(self, config: ml_collections.ConfigDict) -> Order:
        """The order of a run's examples; of a folder of images the same as `pipeline.training_order`."""
        return Order(self, config.batch_size, 1, config.seed)

    def example_names(self, config: ml_collections.ConfigDict, step: int) -> list[str]:
        """As `pipeline.example_names`."""
        examples = self.order(config).examples(step).unbatch().take(config.batch_size)
        return [self.names[example["index"]] for example in examples.as_numpy_iterator()]


def of_training(
    source: Source, config: ml_collections.ConfigDict, embed: Embed, damaged: DamagedImages, shown: bool
) -> Features:
    """Features of the training images in `config.head_views` views.

    Args:
        source: The dataset.
        config: The recipe.
        embed: Computes features.
        damaged: Counts the images that cannot be decoded.
        shown: Whether to show a line of progress.
    """
    views = [pipeline.view_batches(source, config, view, damaged) for view in range(config.head_views)]
    return _computed(source.train, views, config, embed, "features of training images", shown)


def of_held_out(
    source: Source, config: ml_collections.ConfigDict, embed: Embed, damaged: DamagedImages, shown: bool
) -> Features:
    """Features of the held-out images, in the view of evaluation; arguments as of `of_training`."""
    batches = [pipeline.evaluation_batches(source, config, damaged=damaged)]
    return _computed(source.eval, batches, config, embed, "features of held-out images", shown)


def _computed(
    reader: Any,
    views: list[tf.data.Dataset],
    config: ml_collections.ConfigDict,
    embed: Embed,
    what: str,
    shown: bool,
) -> Features:
    names = tuple(example["name"].decode() for example in reader.read(0, reader.count).as_numpy_iterator())
    values, targets, weights = [], [], []
    with tqdm.tqdm(total=len(views) * reader.count, desc=what, unit=" images", disable=not shown) as progress:
        for batches in views:
            of_view: list[list[np.ndarray]] = [[], [], []]
            for images, target, weight in batches:
                for parts, part in zip(of_view, (embed(images), target.numpy(), weight.numpy()), strict=True):
                    parts.append(part)
                progress.update(min(config.batch_size, len(views) * reader.count - progress.n))
            value, target, weight = (np.concatenate(parts)[: reader.count] for parts in of_view)
            values.append(value)
            targets.append(target)
            weights.append(weight)
    return Features(np.stack(values), targets[0], np.stack(weights), names, reader.num_files)


def training_batches(
    features: Features, config: ml_collections.ConfigDict, first_step: int, context: tf.distribute.InputContext
) -> tf.data.Dataset:
    """Endless batches; as `pipeline.training_batches`, with features in the place of images.

    Args:
        features: Of the training images.
        config: `seed` and `batch_size`.
        first_step: Step of the run to begin at.
        context: For the size of a replica's share of a batch.
    """
    order = features.order(config)
    of_epoch = order.steps_per_epoch * config.batch_size
    values, targets, weights = map(tf.constant, (features.values, features.targets, features.weights))

    def gather(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        index = example["index"]
        view = tf.cast(example["position"] // of_epoch % len(features.values), index.dtype)
        places = tf.stack([view, index], axis=-1)
        weight = tf.gather_nd(weights, places)
        return tf.gather_nd(values, places), tf.gather(targets, index), weight, tf.ones((tf.shape(weight)[0], 2))

    batch_size = context.get_per_replica_batch_size(config.batch_size)
    batches = order.examples(first_step).unbatch().batch(batch_size, drop_remainder=True)
    return batches.map(gather, deterministic=True)


def evaluation_batches(
    features: Features, config: ml_collections.ConfigDict, context: tf.distribute.InputContext
) -> tf.data.Dataset:
    """All images once; as `pipeline.evaluation_batches`, with features in the place of images.

    Args:
        features: Of the held-out images.
        config: `batch_size`.
        context: For the size of a replica's share of a batch.
    """
    filling = -features.count % config.batch_size

    def filled(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values, np.zeros((filling, *values.shape[1:]), values.dtype)])

    parts = (features.values[0], features.targets, features.weights[0])
    batch_size = context.get_per_replica_batch_size(config.batch_size)
    return tf.data.Dataset.from_tensor_slices(tuple(map(filled, parts))).batch(batch_size, drop_remainder=True)
