"""Speed of the training loop, beside the bare step."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from experiments import history, loop, losses
from experiments.engine import connect
from experiments.recipes import digits, fashion_mnist
from tools.benchmarks.timing import medians


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
