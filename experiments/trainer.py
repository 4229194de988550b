"""The step: model, optimizer and metrics under a strategy, and what changes them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import keras
import ml_collections
import tensorflow as tf

import coatnet_tf
from experiments import losses, optimization
from experiments.data import pipeline, sources


def make_model_config(settings: ml_collections.ConfigDict) -> coatnet_tf.CoAtNetConfig:
    """The configuration of a recipe's model: a member of the family with changes, or one of its own.

    Args:
        settings: `name` and fields of `coatnet_tf.CoAtNetConfig`, or with `depths` in it the arguments
            of `coatnet_tf.make_config`.

    Returns:
        A `coatnet_tf.CoAtNetConfig`.

    Raises:
        ValueError: If the name or a value is refused.
    """
    fields = settings.to_dict()
    if "depths" in fields:
        if fields["name"] in coatnet_tf.FAMILY:
            raise ValueError(
                f"config.model.name is {fields['name']!r}, but config.model.depths describes a model of its own: "
                "take another name, or a recipe without depths."
            )
        return coatnet_tf.make_config(**fields)
    return coatnet_tf.get_config(fields.pop("name"), **fields)


class Trainer:
    """Model, optimizer and metrics of a run under its strategy, and the steps that change them.

    `counts` is the confusion matrix of the last evaluation, by true and predicted class.

    Args:
        config: The recipe.
        source: The dataset.
        strategy: The distribution strategy.
        total_steps: Steps of the whole run.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        source: sources.Source,
        strategy: tf.distribute.Strategy,
        total_steps: int,
    ) -> None:
        self._config, self._source, self._strategy = config, source, strategy
        self._loss_of = losses.make_loss(config.label_smoothing)
        model_config = make_model_config(config.model)
        if strategy.num_replicas_in_sync > 1 and model_config.conv_norm == "batch_norm":
            model_config = dataclasses.replace(model_config, conv_norm="sync_batch_norm")
        if isinstance(strategy, tf.distribute.TPUStrategy):
            model_config = dataclasses.replace(model_config, bias_reindexing="einsum")
        keras.utils.set_random_seed(config.seed)
        with strategy.scope():
            self.model = coatnet_tf.CoAtNet(
                model_config,
                input_shape=(config.image_size, config.image_size, source.channels),
                classes=source.num_classes,
                classifier_activation=None,
            )
            self.optimizer = optimization.make_optimizer(config.optimizer, self.model, total_steps)
            self.loss = keras.metrics.Mean(name="train_loss")
            self.accuracy = keras.metrics.CategoricalAccuracy(name="train_accuracy")
            self.eval_loss = keras.metrics.Mean(name="eval_loss")
            self.confusion = losses.ConfusionMatrix(source.num_classes)
        self.schedule = optimization.make_schedule(config.optimizer, total_steps)

    def part_random_streams(self) -> None:
        """Gives each replica random numbers of its own, from the state that all share when new or restored.

        Without it replicas would drop the same branches for the images in the same places of their shares.
        """
        states = [v for v in self.model.variables if v.path.endswith("seed_generator_state")]

        def shift() -> None:
            replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int64)
            for state in states:
                state.assign(state + tf.stack([replica, 0]))

        if states:
            self._strategy.run(tf.function(shift))

    def training_iterator(self, first_step: int) -> Iterator[Any]:
        """Batches of the run from a step on, one share for each replica."""
        return iter(
            self._strategy.distribute_datasets_from_function(
                lambda context: pipeline.training_batches(self._source, self._config, first_step, context)
            )
        )

    @tf.function
    def train_steps(self, batches: Iterator[Any], count: tf.Tensor) -> None:
        """Takes `count` training steps without returning to Python."""
        for _ in tf.range(count):
            self._strategy.run(self._train_step, args=next(batches))

    def _train_step(self, images: tf.Tensor, labels: tf.Tensor) -> None:
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            values = self._loss_of(labels, logits)
            loss = tf.reduce_sum(values) / self._config.batch_size
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        # Clipped by the norm over all replicas; `apply` sums over replicas, so each brings its share.
        replicas = tf.distribute.get_replica_context()
        gradients = replicas.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        gradients, _ = tf.clip_by_global_norm(gradients, self._config.optimizer.clip_norm)
        self.optimizer.apply([gradient / replicas.num_replicas_in_sync for gradient in gradients], variables)
        self.loss.update_state(values)
        self.accuracy.update_state(labels, logits)

    def evaluate(self) -> dict[str, float]:
        """Evaluates on the whole held-out split, and hands over and resets the training metrics."""
        batches = iter(
            self._strategy.distribute_datasets_from_function(
                lambda context: pipeline.evaluation_batches(self._source, self._config, context)
            )
        )
        self.eval_loss.reset_state()
        self.confusion.reset_state()
        self._evaluate_steps(batches, tf.constant(math.ceil(self._source.num_eval / self._config.batch_size)))
        self.counts = keras.ops.convert_to_numpy(self.confusion.result())  # all workers have to ask for it
        row = {
            "train_loss": float(self.loss.result()),
            "train_accuracy": float(self.accuracy.result()),
            "eval_loss": float(self.eval_loss.result()),
            "eval_accuracy": float(self.counts.trace() / self.counts.sum()),
        }
        self.loss.reset_state()
        self.accuracy.reset_state()
        return row

    @tf.function
    def _evaluate_steps(self, batches: Iterator[Any], count: tf.Tensor) -> None:
        for _ in tf.range(count):
            self._strategy.run(self._evaluate_step, args=next(batches))

    def _evaluate_step(self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> None:
        logits = self.model(images, training=False)
        values = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        self.eval_loss.update_state(values, sample_weight=weights)
        self.confusion.update_state(labels, logits, sample_weight=weights)
