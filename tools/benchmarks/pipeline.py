"""Speed of training's parts: the input pipeline and the loop."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from experiments import augment, history, loop, losses
from experiments.data import pipeline, sources
from experiments.engine import connect
from experiments.recipes import digits, fashion_mnist, paper
from tools.benchmarks.timing import medians

_WARM_UP = 4  # batches


def synthetic_jpegs(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> None:
    """Writes photograph-like JPEGs of ImageNet's usual size in two class folders."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3)).astype("uint8")).resize(
            size, Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse) + generator.normal(0, 6, (size[1], size[0], 3))
        buffer = io.BytesIO()
        Image.fromarray(np.clip(noisy, 0, 255).astype("uint8")).save(buffer, "JPEG", quality=90)
        path = folder / ("even", "odd")[index % 2]
        path.mkdir(parents=True, exist_ok=True)
        (path / f"{index:04d}.jpg").write_bytes(buffer.getvalue())


def measure_input(images: int = 640) -> dict[str, float]:
    """Images/s of decode + inception crop at 224 alone, and of the whole pipeline, Mixup included."""
    full = paper.get_config("imagenet1k_pretrain,coatnet0")
    full.batch_size = 32
    with tempfile.TemporaryDirectory() as folder:
        synthetic_jpegs(Path(folder), 512)
        full.dataset.name = f"folder:{folder}"
        source = sources.prepare(full.dataset)
        plain = ml_collections.ConfigDict(full.to_dict())
        plain.augment.update(flip=False, randaugment_layers=0, mixup_alpha=0.0)

        def rate(config: ml_collections.ConfigDict) -> Callable[[], float]:
            def measure() -> float:
                batches = iter(pipeline.training_batches(source, config))  # its threads end with it
                for _ in range(_WARM_UP):
                    next(batches)
                started = time.perf_counter()
                for _ in range(images // config.batch_size):
                    batch = next(batches)
                    if config.augment.mixup_alpha:
                        _mix(*batch)
                return images / (time.perf_counter() - started)

            return measure

        return medians({"decode + crop alone, images/s": rate(plain), "full pipeline, images/s": rate(full)})


@tf.function
def _mix(images: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, shares: tf.Tensor) -> Any:
    return augment.mixup(tf.cast(images, tf.float32), tf.cast(targets, tf.float32), weights, shares)


def measure_loop(steps: int = 20) -> dict[str, float]:
    """Steps/s of the loop, metrics and checks included, and of the bare step on its input and on one batch."""
    config = fashion_mnist.get_config()
    config.dataset = digits.get_config().dataset  # no download; the images are resized to the recipe's size
    config.steps_per_call = steps
    config.optimizer.warmup_steps = 0
    devices = connect("one_device")
    source = loop.prepare(config, Path(tempfile.gettempdir()) / "no-run", devices)
    engine = devices.engine(config, source, loop.make_schedule(config, source))
    engine.begin(0)
    batches = engine.batches
    batch = next(batches)
    loss_of = losses.make_loss(config.loss, config.label_smoothing)
    progress = history.Progress(config, 0, 10**6, False)

    def step(images: tf.Tensor, targets: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            scores = engine.model(tf.cast(images, tf.float32), training=True)
            loss = tf.reduce_mean(loss_of(tf.cast(targets, tf.float32), scores))
        gradients = tape.gradient(loss, [v.value for v in engine.model.trainable_variables])
        gradients, _ = tf.clip_by_global_norm(gradients, config.optimizer.clip_norm)
        engine.optimizer.apply(gradients, engine.model.trainable_variables)

    @tf.function
    def on_one_batch(count: tf.Tensor) -> None:
        for _ in tf.range(count):
            step(*batch[:2])

    @tf.function
    def fed(count: tf.Tensor) -> None:
        for _ in tf.range(count):
            step(*next(batches)[:2])

    def rate(take: Callable[[], None]) -> Callable[[], float]:
        def measure() -> float:
            started = time.perf_counter()
            take()
            return steps / (time.perf_counter() - started)

        return measure

    def whole() -> None:
        engine.train(steps)
        progress.show(steps, engine.loss)
        loop.find_problem(config, source, engine)

    return medians(
        {
            "bare step on input, steps/s": rate(lambda: fed(tf.constant(steps))),
            "loop, steps/s": rate(whole),
            "bare step on one batch, steps/s": rate(lambda: on_one_batch(tf.constant(steps))),
        }
    )
