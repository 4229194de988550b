"""One engine of this project as a contender of the training benchmark, in a process of its own.

    python -m tools.benchmarks.training_worker tensorflow|jax|frozen float32|bfloat16 MODEL BATCH_SIZE

`frozen` has TensorFlow compute a batch of features, as a training of the head alone does once for each image.

It takes a first step and writes a line of JSON, `{"device": ..., "seconds": from the start of the step's making to its
end}`. For each line on its standard input it takes one step and writes `{"seconds": ..., "gib": ...}`, the last only
where the device says how much memory was used at the most. So do the programs of `peers/`.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIZE = 224
CLASSES = 1000

# Takes one step, waits for its end and returns the GiB that were used at the most, if they are known.
Step = Callable[[], float | None]


def serve(make: Callable[[], tuple[str, Step]]) -> None:
    """Takes steps until the standard input ends."""
    output, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not come between
    started = time.perf_counter()
    device, step = make()
    step()
    print(json.dumps({"device": device, "seconds": time.perf_counter() - started}), file=output, flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        gib = step()
        print(json.dumps({"seconds": time.perf_counter() - started, "gib": gib}), file=output, flush=True)


def batch_of(batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8, and classes, int64."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch_size, SIZE, SIZE, 3), np.uint8)
    return images, generator.integers(0, CLASSES, batch_size)


def tensorflow_device() -> str:
    """The name of the GPU that TensorFlow sees, or `"CPU"`."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "CPU"


def make(backend: str, dtype: str, model: str, batch_size: int) -> tuple[str, Step]:
    """The step that `experiments.train` takes, on one device, on a batch that is there already."""
    from experiments.data.sources import Source
    from experiments.engine import connect
    from experiments.optimization import make_schedule
    from experiments.recipes import base

    config = base.get_config()
    config.image_size, config.batch_size, config.epochs = SIZE, batch_size, 1
    config.dtype = "float32" if dtype == "float32" else "mixed_bfloat16"
    config.model = base.family_model(model.replace("-", ""))
    config.optimizer.learning_rate = 1e-3
    source = Source("none", _Nothing(), _Nothing(), tuple(map(str, range(CLASSES))), 3)
    devices = connect("sharded", shards=1) if backend == "jax" else connect("one_device")
    engine = devices.engine(config, source, make_schedule(config.optimizer, 10**6, 10**6))
    images, labels = batch_of(batch_size)
    weights = np.ones(batch_size, np.float32)
    shares = np.ones((batch_size, 2), np.float32)
    batch = (images, np.eye(CLASSES, dtype=np.uint8)[labels], weights, shares)

    if backend == "tensorflow":
        import tensorflow as tf

        engine.batches = iter(tf.data.Dataset.from_tensors(tuple(map(tf.constant, batch))).repeat())
        name = tensorflow_device()

        def gib() -> float | None:
            return None if name == "CPU" else tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**30

    else:
        import jax

        engine.batches = itertools.repeat(tuple(map(jax.device_put, batch)))
        used = jax.devices()[0].memory_stats
        name = jax.devices()[0].device_kind.replace("cpu", "CPU")

        def gib() -> float | None:
            return used()["peak_bytes_in_use"] / 2**30 if used() else None

    def step() -> float | None:
        engine.train(1)
        float(engine.loss.result())
        return gib()

    return name, step


def make_frozen(dtype: str, model: str, batch_size: int) -> tuple[str, Step]:
    """The features of a batch, as `--config.tune=head` computes them once."""
    import tensorflow as tf

    import coatnet_tf
    from experiments.engine.tensorflow_engine import TensorFlowEngine

    backbone = coatnet_tf.CoAtNet(
        model,
        include_top=False,
        pooling="avg",
        input_shape=(SIZE, SIZE, 3),
        dtype="float32" if dtype == "float32" else "mixed_bfloat16",
    )
    embed = TensorFlowEngine.make_embed(backbone)
    images = tf.constant(batch_of(batch_size)[0])

    def step() -> None:
        embed(images)

    return tensorflow_device(), step


class _Nothing:
    """In the place of a split: the batch is there already."""

    count = 1

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the training benchmark reads no data: {name}")


if __name__ == "__main__":
    of_backend, of_dtype, of_model, of_batch = sys.argv[1:]
    arguments = (of_dtype, of_model, int(of_batch))
    serve(lambda: make_frozen(*arguments) if of_backend == "frozen" else make(of_backend, *arguments))
