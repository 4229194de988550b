"""keras-cv-attention-models' CoAtNets as contenders of the training benchmark, in an environment that has it.

    python kecam_training_worker.py function float32|bfloat16 MODEL BATCH_SIZE all|head

Speaks as `tools/benchmarks/training_worker.py` does, whose `serve` it borrows.
"""

import os
import sys
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow as tf
from keras_cv_attention_models import coatnet

sys.path.insert(0, str(Path(__file__).parents[3]))

from tools.benchmarks.training_worker import Step, batch_of, serve, tensorflow_device


def make() -> tuple[str, Step]:
    _, dtype, name, batch_size, trained = sys.argv[1:]
    if dtype == "bfloat16":
        tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = getattr(coatnet, name.replace("coatnet-", "CoAtNet"))(pretrained=None, classifier_activation=None)
    if trained == "head":
        for layer in model.layers[:-1]:
            layer.trainable = False
    optimizer = tf.keras.optimizers.AdamW(1e-3, weight_decay=0.05, global_clipnorm=1.0)
    images, labels = map(tf.constant, batch_of(int(batch_size)))

    @tf.function
    def train() -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = tf.cast(model(tf.cast(images, tf.float32) / 127.5 - 1, training=trained == "all"), tf.float32)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )
        return loss

    def step() -> None:
        float(train())

    return tensorflow_device(), step


serve(make)
