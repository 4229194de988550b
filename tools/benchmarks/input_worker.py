"""One input pipeline as a contender of the input benchmark, in a process of its own.

    python -m tools.benchmarks.input_worker alone|whole|keras FOLDER

It makes a first batch and writes a line of JSON, `{"seconds": from the making of the pipeline to its end}`. For each
line on its standard input it makes `BATCHES` of `BATCH_SIZE` images and writes `{"seconds": what they took}`; those
that it has prepared meanwhile are taken before and do not count. So do the programs of `peers/`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

SIZE, LARGER = 224, 256  # of the images, and of those that the Keras pipeline crops
BATCH_SIZE, BATCHES, PREPARED = 32, 12, 6
LAYERS, MAGNITUDE, MIXUP = 2, 15, 0.8  # of RandAugment, of 30, and the alpha


def serve(make: Callable[[], Iterator[Any]]) -> None:
    """Makes batches until the standard input ends."""
    output, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not come between
    started = time.perf_counter()
    batches = make()
    next(batches)
    print(json.dumps({"seconds": time.perf_counter() - started}), file=output, flush=True)
    for _ in sys.stdin:
        for _ in range(PREPARED):
            next(batches)
        started = time.perf_counter()
        for _ in range(BATCHES):
            next(batches)
        print(json.dumps({"seconds": time.perf_counter() - started}), file=output, flush=True)


def ours(kind: str, folder: str) -> Iterator[Any]:
    """Batches of `experiments.train`, with Mixup, which the step does there; or decoded and cropped alone."""
    import tensorflow as tf

    from experiments import augment
    from experiments.data import pipeline, sources
    from experiments.recipes import paper

    config = paper.get_config("imagenet1k_pretrain,coatnet0")
    config.batch_size, config.image_size, config.dataset.name = BATCH_SIZE, SIZE, f"folder:{folder}"
    config.augment.update(randaugment_layers=LAYERS, randaugment_magnitude=float(MAGNITUDE), mixup_alpha=MIXUP)
    if kind == "alone":
        config.augment.update(flip=False, randaugment_layers=0, mixup_alpha=0.0)

    @tf.function
    def mix(images: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, shares: tf.Tensor) -> Any:
        return augment.mixup(tf.cast(images, tf.float32), tf.cast(targets, tf.float32), weights, shares)

    for batch in pipeline.training_batches(sources.prepare(config.dataset), config):
        yield batch if kind == "alone" else mix(*batch)


def keras_layers(folder: str) -> Iterator[Any]:
    """`image_dataset_from_directory` and Keras' layers, as its guides put them together."""
    import keras
    import tensorflow as tf

    layers = [
        keras.layers.RandomCrop(SIZE, SIZE),
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandAugment((0, 255), LAYERS, MAGNITUDE / 30),
    ]
    mixup = keras.layers.MixUp(MIXUP)

    def augment(images: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        for layer in layers:
            images = layer(images, training=True)
        return mixup({"images": images, "labels": labels}, training=True)

    batches = keras.utils.image_dataset_from_directory(
        folder, label_mode="categorical", image_size=(LARGER, LARGER), batch_size=None, verbose=False
    )
    batches = batches.repeat().batch(BATCH_SIZE).map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return iter(batches.prefetch(tf.data.AUTOTUNE))


if __name__ == "__main__":
    what, where = sys.argv[1:]
    serve(lambda: keras_layers(where) if what == "keras" else ours(what, where))
