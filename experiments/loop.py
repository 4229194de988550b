"""The training run, in order: data, model, step, restore, loop, report."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import keras
import ml_collections
import tensorflow as tf
import tqdm
from absl import logging

import coatnet_tf
from experiments import optimization, report, workdir
from experiments.data import pipeline, sources
from experiments.strategies import is_chief
from experiments.trainer import Trainer, make_model_config

DTYPES = ("float32", "mixed_bfloat16")


def prepare(config: ml_collections.ConfigDict, folder: Path, strategy: tf.distribute.Strategy) -> sources.Source:
    """Checks a recipe and its folder, then prepares its dataset: nothing is trained or written before.

    Args:
        config: The recipe; see `experiments/recipes`.
        folder: Folder of the run.
        strategy: The distribution strategy.

    Returns:
        The dataset.

    Raises:
        ValueError: If the recipe does not fit the data, the strategy or the folder.
        FileNotFoundError: If files of the dataset are missing.
    """
    check_values(config)
    check_batch_size(config.batch_size, strategy)
    coatnet_tf.check_input_shape(make_model_config(config.model), (config.image_size, config.image_size, 1))
    workdir.check(folder, config)
    source = sources.prepare(config.dataset)
    steps_per_epoch = source.num_train // config.batch_size
    if not steps_per_epoch:
        raise ValueError(
            f"config.batch_size {config.batch_size} is larger than the training split of {source.num_train} images."
        )
    optimization.make_schedule(config.optimizer, config.epochs * steps_per_epoch)
    return source


def check_values(config: ml_collections.ConfigDict) -> None:
    """Refuses values that no run could use."""
    at_least_one = {"epochs": config.epochs, "steps_per_call": config.steps_per_call}
    positive = {field: config.optimizer[field] for field in ("learning_rate", "clip_norm")}
    for field, value in at_least_one.items():
        if value < 1:
            raise ValueError(f"config.{field} must be at least 1; got {value}.")
    for field, value in positive.items():
        if not value > 0:
            raise ValueError(f"config.optimizer.{field} must be above 0; got {value}.")
    if not 0 <= config.label_smoothing < 1:
        raise ValueError(f"config.label_smoothing must be at least 0 and below 1; got {config.label_smoothing}.")
    if not 0 <= config.augment.translate < config.image_size:
        raise ValueError(
            f"config.augment.translate must be at least 0 and below the image size; got {config.augment.translate}."
        )
    if config.dtype not in DTYPES:
        raise ValueError(f"config.dtype must be one of {', '.join(DTYPES)}; got {config.dtype!r}.")


def train(
    config: ml_collections.ConfigDict, folder: Path, strategy: tf.distribute.Strategy, source: sources.Source
) -> None:
    """Trains a model by its recipe, or goes on where the run in the folder stopped.

    Args:
        config: The recipe.
        folder: Folder of the run, which receives `config.json`, `metrics.jsonl`, `checkpoints/`,
            `tensorboard/`, and at the end `model.keras` (probabilities from images in [0, 255], float32),
            `classes.txt` and `report.md` with its pictures.
        strategy: The distribution strategy.
        source: The dataset, from `prepare`.
    """
    steps_per_epoch = source.num_train // config.batch_size
    total_steps = config.epochs * steps_per_epoch
    writes = is_chief(strategy)
    if writes:
        workdir.claim(folder, config)
    pipeline.report_resizing(source, config.image_size)

    keras.config.set_dtype_policy(config.dtype)
    trainer = Trainer(config, source, strategy, total_steps)
    worker = strategy.cluster_resolver.task_id if strategy.cluster_resolver and not writes else 0
    checkpoints = workdir.Checkpoints(
        folder, writes, worker or 0, model=trainer.model.variables, optimizer=trainer.optimizer.variables
    )
    step = checkpoints.restore_latest()
    trainer.part_random_streams()
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
        _write_results(config, source, trainer, folder)


def check_batch_size(batch_size: int, strategy: tf.distribute.Strategy) -> None:
    """Refuses global batches that the replicas cannot share evenly."""
    replicas = strategy.num_replicas_in_sync
    if batch_size < 1 or batch_size % replicas:
        raise ValueError(
            f"config.batch_size {batch_size} is for all replicas together and must be a positive multiple of their "
            f"number, {replicas}."
        )


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


def _write_results(config: ml_collections.ConfigDict, source: sources.Source, trainer: Trainer, folder: Path) -> None:
    """Writes the model for its users, in float32 and with probabilities, and the report."""
    keras.config.set_dtype_policy("float32")
    model = coatnet_tf.CoAtNet(
        dataclasses.replace(make_model_config(config.model), drop_path_rate=0.0, dropout=0.0),
        input_shape=trainer.model.input_shape[1:],
        classes=source.num_classes,
    )
    model.set_weights(trainer.model.get_weights())
    unfinished = folder / f".unfinished-{workdir.MODEL}"
    model.save(unfinished)
    unfinished.rename(folder / workdir.MODEL)
    (folder / workdir.CLASSES).write_text("\n".join(source.class_names) + "\n")
    images, labels, weights = next(iter(pipeline.evaluation_batches(source, config)))
    shown = int(min(report.CONTACT_SHEET, tf.reduce_sum(weights)))
    probabilities = keras.ops.convert_to_numpy(model(images[:shown], training=False))
    report.write(
        folder,
        title=f"{config.model.name} on {config.dataset.name}",
        rows=workdir.read_metrics(folder),
        confusion=trainer.counts,
        class_names=source.class_names,
        examples=(images[:shown].numpy(), labels[:shown].numpy(), probabilities),
        facts={
            "Parameters": f"{coatnet_tf.profile(model).params:,}",
            "Multiply-accumulates an image": f"{coatnet_tf.profile(model).macs:,}",
            "Training images": f"{source.num_train:,} ({source.train_split})",
            "Held-out images": f"{source.num_eval:,} ({source.eval_split})",
        },
    )
