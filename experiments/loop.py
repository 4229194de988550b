"""The training run, in order: data, model, step, restore, loop, report."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import ml_collections
import tensorflow as tf
import tqdm
from absl import logging

import coatnet_tf
from experiments import losses, optimization, report, workdir
from experiments.data import pipeline, sources
from experiments.strategies import is_chief


def run(config: ml_collections.ConfigDict, folder: Path, strategy: tf.distribute.Strategy) -> None:
    """Trains a model by its recipe, or goes on where the run in the folder stopped.

    Args:
        config: The recipe; see `experiments/recipes`.
        folder: Folder of the run, which receives `config.json`, `metrics.jsonl`, `checkpoints/`,
            `tensorboard/`, and at the end `model.keras` (probabilities from images in [0, 255], float32),
            `classes.txt` and `report.md` with its pictures.
        strategy: The distribution strategy.

    Raises:
        ValueError: If the recipe does not fit the data, the strategy or the folder.
    """
    check_batch_size(config.batch_size, strategy)
    if config.epochs < 1:
        raise ValueError(f"config.epochs must be at least 1; got {config.epochs}.")
    model_config = make_model_config(config.model)
    coatnet_tf.check_input_shape(model_config, (config.image_size, config.image_size, 1))
    source = sources.prepare(config.dataset)
    if source.num_train < config.batch_size:
        raise ValueError(
            f"config.batch_size {config.batch_size} is larger than the training split of {source.num_train} images."
        )
    steps_per_epoch = source.num_train // config.batch_size
    total_steps = config.epochs * steps_per_epoch
    optimization.make_schedule(config.optimizer, total_steps)  # refuses before the folder is made
    writes = is_chief(strategy)
    workdir.claim(folder, config, writes)
    pipeline.report_resizing(source, config.image_size)

    keras.config.set_dtype_policy(config.dtype)
    trainer = Trainer(config, source, strategy, total_steps)
    worker = strategy.cluster_resolver.task_id if strategy.cluster_resolver and not writes else 0
    checkpoints = workdir.Checkpoints(
        folder, writes, worker or 0, model=trainer.model.variables, optimizer=trainer.optimizer.variables
    )
    step = checkpoints.restore_latest()
    if step:
        logging.info("Resuming %s at step %d of %d.", folder, step, total_steps)
    if writes:
        workdir.drop_metrics_after(folder, step)

    with History(folder, writes) as history, Progress(config, step, total_steps, writes) as progress:
        if step == total_steps:  # stopped between the last checkpoint and the report
            trainer.evaluate()
        batches = trainer.training_iterator(step)
        while step < total_steps:
            started, first = time.monotonic(), step
            until = min(total_steps, (step // steps_per_epoch + 1) * steps_per_epoch)
            while step < until:
                count = min(config.steps_per_call, until - step)
                trainer.train_steps(batches, tf.constant(count))
                step += count
                progress.show(count, trainer.loss)
            seconds = time.monotonic() - started
            row = trainer.evaluate() | {
                "step": step,
                "epoch": step / steps_per_epoch,
                "learning_rate": float(trainer.schedule(step)),
                "images_per_second": (step - first) * config.batch_size / seconds,
            }
            history.add(row)  # before the checkpoint: a row after the newest one is dropped and written again
            checkpoints.save(step)
            progress.announce(row)

    if writes:
        _write_results(config, model_config, source, trainer, folder)


def check_batch_size(batch_size: int, strategy: tf.distribute.Strategy) -> None:
    """Refuses global batches that the replicas cannot share evenly."""
    replicas = strategy.num_replicas_in_sync
    if batch_size < 1 or batch_size % replicas:
        raise ValueError(
            f"config.batch_size {batch_size} is for all replicas together and must be a positive multiple of their "
            f"number, {replicas}."
        )


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
        return coatnet_tf.make_config(**fields)
    return coatnet_tf.get_config(fields.pop("name"), **fields)


class Trainer:
    """Model, optimizer and metrics of a run under its strategy, and the steps that change them.

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
        counts = keras.ops.convert_to_numpy(self.confusion.result())
        row = {
            "train_loss": float(self.loss.result()),
            "train_accuracy": float(self.accuracy.result()),
            "eval_loss": float(self.eval_loss.result()),
            "eval_accuracy": float(counts.trace() / counts.sum()),
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


class History:
    """Writes each row of metrics to `metrics.jsonl` and to TensorBoard, if this process writes at all."""

    def __init__(self, folder: Path, writes: bool) -> None:
        self._folder = folder
        self._summaries = tf.summary.create_file_writer(str(folder / "tensorboard")) if writes else None

    def __enter__(self) -> History:
        return self

    def __exit__(self, *error: object) -> None:
        if self._summaries is not None:
            self._summaries.close()

    def add(self, row: dict[str, float]) -> None:
        if self._summaries is None:
            return
        workdir.append_metrics(self._folder, row)
        with self._summaries.as_default(int(row["step"])):
            for name, value in row.items():
                tf.summary.scalar(name, value)
        self._summaries.flush()


class Progress:
    """A line with images, images/s, remaining time and loss, and one line for each evaluation."""

    def __init__(self, config: ml_collections.ConfigDict, step: int, total_steps: int, shown: bool) -> None:
        self._batch_size = config.batch_size
        self._bar = tqdm.tqdm(
            total=total_steps * config.batch_size,
            initial=step * config.batch_size,
            desc=config.model.name,
            unit=" images",
            unit_scale=True,
            disable=not shown,
            dynamic_ncols=True,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def show(self, steps: int, loss: keras.metrics.Metric) -> None:
        self._bar.set_postfix_str(f"loss {float(loss.result()):.3f}", refresh=False)
        self._bar.update(steps * self._batch_size)

    def announce(self, row: dict[str, float]) -> None:
        self._bar.write(
            f"epoch {row['epoch']:g} (step {row['step']}): training loss {row['train_loss']:.4f}, accuracy "
            f"{row['train_accuracy']:.2%}; evaluation loss {row['eval_loss']:.4f}, accuracy "
            f"{row['eval_accuracy']:.2%}; {row['images_per_second']:,.0f} images/s"
        )


def _write_results(
    config: ml_collections.ConfigDict,
    model_config: coatnet_tf.CoAtNetConfig,
    source: sources.Source,
    trainer: Trainer,
    folder: Path,
) -> None:
    """Writes the model for its users, in float32 and with probabilities, and the report."""
    keras.config.set_dtype_policy("float32")
    model = coatnet_tf.CoAtNet(
        dataclasses.replace(model_config, drop_path_rate=0.0, dropout=0.0),
        input_shape=trainer.model.input_shape[1:],
        classes=source.num_classes,
    )
    model.set_weights(trainer.model.get_weights())
    model.save(folder / workdir.MODEL)
    (folder / workdir.CLASSES).write_text("\n".join(source.class_names) + "\n")
    images, labels, weights = next(iter(pipeline.evaluation_batches(source, config)))
    shown = int(min(report.CONTACT_SHEET, tf.reduce_sum(weights)))
    probabilities = keras.ops.convert_to_numpy(model(images[:shown], training=False))
    report.write(
        folder,
        title=f"{config.model.name} on {config.dataset.name}",
        rows=workdir.read_metrics(folder),
        confusion=keras.ops.convert_to_numpy(trainer.confusion.result()),
        class_names=source.class_names,
        examples=(images[:shown].numpy(), labels[:shown].numpy(), probabilities),
        facts={
            "Parameters": f"{coatnet_tf.profile(model).params:,}",
            "Multiply-accumulates an image": f"{coatnet_tf.profile(model).macs:,}",
            "Training images": f"{source.num_train:,} ({source.train_split})",
            "Held-out images": f"{source.num_eval:,} ({source.eval_split})",
        },
    )
