"""Peak memory of real training steps of CoAtNet-0, and what `tools.plan_training` counts for them.

    python -m tools.benchmarks.memory 8       # one process with a batch of 8: prints its peak, in MiB

Each batch is measured in a process of its own, as a process never gives its peak back.
"""

from __future__ import annotations

import resource
import subprocess
import sys

BATCHES = (4, 12)
STEPS = 2
MODEL = "coatnet-0"
IMAGE_SIZE = 224


def measure_peak(batch: int) -> float:
    """Peak of this process after two training steps in float32, in MiB."""
    import keras
    import tensorflow as tf

    import coatnet_tf

    model = coatnet_tf.CoAtNet(MODEL, classifier_activation=None)
    optimizer = keras.optimizers.AdamW(1e-4)
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    images, labels = tf.random.uniform((batch, IMAGE_SIZE, IMAGE_SIZE, 3), 0, 255), tf.zeros((batch,), tf.int32)

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    for _ in range(STEPS):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_memory() -> list[str]:
    """Measures, and compares with the count.

    Returns:
        Lines to print.
    """
    from coatnet_tf import get_config
    from tools.paper.training_cost import count_memory

    peaks = []
    for batch in BATCHES:
        command = [sys.executable, "-m", "tools.benchmarks.memory", str(batch)]
        peaks.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]))
    measured = (peaks[1] - peaks[0]) / (BATCHES[1] - BATCHES[0])
    counted = count_memory(get_config(MODEL), IMAGE_SIZE, half=False, fused=False).image / 2**20
    return [
        f"peak with batches of {BATCHES[0]} and {BATCHES[1]}: {peaks[0]:,.0f} and {peaks[1]:,.0f} MiB",
        f"measured for one more image: {measured:.1f} MiB",
        f"counted: {counted:.1f} MiB, {counted / measured:.2f} of it",
    ]


if __name__ == "__main__":
    print(measure_peak(int(sys.argv[1])))
