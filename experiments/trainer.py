"""The step: model, optimizer and metrics under a strategy, and what changes them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import ml_collections
import tensorflow as tf

import coatnet_tf
from coatnet_tf.layers import ResidualBlock
from experiments import augment, losses, optimization, sizes
from experiments.data import pipeline
from experiments.data.damage import DamagedImages
from experiments.data.sources import Source
from experiments.rematerialise import rematerialised
from experiments.strategies import on_any_process, union_over_processes

MAX_CONFUSION_CLASSES = 1000  # more would not be looked at, and take gigabytes


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
        if fields["name"] in {**coatnet_tf.FAMILY, **coatnet_tf.RELATIVES}:
            raise ValueError(
                f"config.model.name is {fields['name']!r}, but config.model.depths describes a model of its own: "
                "take another name, or a recipe without depths."
            )
        return coatnet_tf.make_config(**fields)
    return coatnet_tf.get_config(fields.pop("name"), **fields)


def model_norms(config: coatnet_tf.CoAtNetConfig) -> dict[str, str]:
    """The norms of a model by the names of their options."""
    return {"conv_norm": config.mbconv.conv_norm, "transformer_norm": config.transformer.transformer_norm}


class Trainer:
    """Model, optimizer and metrics of a run under its strategy, and the steps that change them.

    Args:
        config: The recipe.
        source: The dataset.
        strategy: The distribution strategy.
        schedule: Learning rate of the run.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        source: Source,
        strategy: tf.distribute.Strategy,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
    ) -> None:
        self._config, self._source, self._strategy = config, source, strategy
        self._loss_of = losses.make_loss(config.loss, config.label_smoothing)
        self._eval_loss_of = losses.make_loss(config.loss, 0.0)
        self.damaged = DamagedImages(source.train.count, config.dataset.max_damaged_share)
        self.damaged_in_evaluation = DamagedImages(source.eval.count, config.dataset.max_damaged_share)
        # One for all evaluations: TensorFlow's end of an iterator over devices can wait a minute for a sleeping thread.
        self._evaluation_iterator: Iterator[Any] | None = None
        model_config = make_model_config(config.model)
        if strategy.num_replicas_in_sync > 1:
            synchronised = {
                name: "sync_batch_norm" for name, norm in model_norms(model_config).items() if norm == "batch_norm"
            }
            model_config = coatnet_tf.get_config(model_config, **synchronised)
        if isinstance(strategy, tf.distribute.TPUStrategy):
            model_config = coatnet_tf.get_config(model_config, bias_reindexing="einsum")
        keras.utils.set_random_seed(config.seed)
        with strategy.scope():
            self.model = coatnet_tf.CoAtNet(
                model_config,
                input_shape=(*sizes.of(config), source.channels),
                classes=source.num_classes,
                classifier_activation=None,
                dtype=config.dtype,
            )
            self.optimizer = optimization.make_optimizer(config.optimizer, self.model, schedule, config.ema_decay)
            self.loss = keras.metrics.Mean(name="train_loss")
            self.accuracy = keras.metrics.Mean(name="train_accuracy")
            self.eval_loss = keras.metrics.Mean(name="eval_loss")
            self.eval_accuracy = keras.metrics.Mean(name="eval_accuracy")
            self._confusion = None
            if not source.multi_label and source.num_classes <= MAX_CONFUSION_CLASSES:
                self._confusion = losses.ConfusionMatrix(source.num_classes)
            self.skipped = SkippedSteps()
            self.best = BestEpoch(self.model.weights) if config.early_stop_patience else None
        self.schedule = schedule

    def state(self) -> dict[str, list[tf.Variable]]:
        """Everything that a resumed run has to find again, in groups of variables in a fixed order."""
        groups = {
            "model": self.model.variables,
            "optimizer": self.optimizer.variables,
            "metrics": [*self.loss.variables, *self.accuracy.variables],
        }
        groups = {name: [v.value for v in group] for name, group in groups.items()}
        return groups | {"skipped": self.skipped.variables} | ({"best": self.best.variables} if self.best else {})

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
        return self._iterate(
            lambda context: pipeline.training_batches(
                self._source, self._config, first_step, context, self._counted_here(self.damaged), self.counts_damaged
            )
        )

    def _iterate(self, make_batches: Callable[[tf.distribute.InputContext], tf.data.Dataset]) -> Iterator[Any]:
        """Batches on the devices of the strategy; on a single CPU they are there already."""
        (device, *_) = self._strategy.extended.worker_devices
        if isinstance(self._strategy, tf.distribute.OneDeviceStrategy) and "CPU" in device:
            return iter(make_batches(tf.distribute.InputContext()))
        return iter(self._strategy.distribute_datasets_from_function(make_batches))

    @property
    def counts_damaged(self) -> bool:
        """Whether damaged images are counted: the hosts of a TPU pod prepare input, and run no Python for it."""
        return not isinstance(self._strategy, tf.distribute.TPUStrategy) or self._strategy.extended.num_hosts == 1

    def _counted_here(self, damaged: DamagedImages) -> DamagedImages | None:
        return damaged if self.counts_damaged else None

    def share_damaged(self) -> None:
        """Tells the processes of a cluster what each has found; all have to call it, and wait for one another."""
        for damaged in (self.damaged, self.damaged_in_evaluation):
            if on_any_process(self._strategy, damaged.has_news):
                damaged.merge(union_over_processes(self._strategy, damaged.names))

    @tf.function
    def train_steps(self, batches: Iterator[Any], count: tf.Tensor) -> None:
        """Takes `count` training steps without returning to Python."""
        for _ in tf.range(count):
            self._strategy.run(self.train_step, args=next(batches))

    def train_step(self, images: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, shares: tf.Tensor) -> None:
        """One step of one replica, on its share of the batch; see `pipeline.training_batches`."""
        batch = self._mixed(images, targets, weights, shares)
        statistics = [v for v in self.model.non_trainable_variables if v.dtype.startswith("float")]
        before = [tf.identity(variable.value) for variable in statistics]
        sums = self._accumulated(batch)
        context = tf.distribute.get_replica_context()
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, sums)
        *gradients, loss, hits, weight = sums
        gradients, norm = tf.clip_by_global_norm(gradients, self._config.optimizer.clip_norm)
        finite = tf.math.is_finite(norm) & tf.math.is_finite(loss)
        context.merge_call(self._apply, args=(gradients, finite))
        for variable, value in zip(statistics, before, strict=True):
            variable.assign(tf.where(finite, variable.value, value))
        counted = tf.where(finite, weight, 0.0)
        self.loss.update_state(tf.where(finite, tf.math.divide_no_nan(loss, weight), 0.0), counted)
        self.accuracy.update_state(tf.math.divide_no_nan(hits, weight), counted)

    def _mixed(
        self, images: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, shares: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        images, targets = tf.cast(images, tf.float32), tf.cast(targets, tf.float32)
        if self._config.augment.mixup_alpha:
            return augment.mixup(images, targets, weights, shares)
        return images, targets, weights

    def _accumulated(self, batch: tuple[tf.Tensor, ...]) -> list[tf.Tensor]:
        """`_gradients` summed over the parts of the batch, one after the other."""
        parts = self._config.accumulation_steps
        if parts == 1:
            return self._gradients(*batch)
        split = [tf.reshape(x, (parts, -1, *x.shape[1:])) for x in batch]
        total = self._gradients(*(x[0] for x in split))

        def add(index: tf.Tensor, total: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            return index + 1, [a + b for a, b in zip(total, self._gradients(*(x[index] for x in split)), strict=True)]

        return tf.while_loop(lambda index, total: index < parts, add, (tf.constant(1), total))[1]

    def _gradients(self, images: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> list[tf.Tensor]:
        """Gradients of all trainable variables, then sums over the images: loss, right ones, weight."""
        with tf.GradientTape() as tape:
            logits = self._forward(images)
            values = self._loss_of(targets, logits) * weights
            loss = tf.reduce_sum(values) / self._config.batch_size
        gradients = tape.gradient(loss, [variable.value for variable in self.model.trainable_variables])
        hits = _share_of_top_class(targets, logits) * weights
        return [*gradients, *map(tf.reduce_sum, (values, hits, weights))]

    def _forward(self, x: tf.Tensor) -> tf.Tensor:
        if not self._config.rematerialise:
            return self.model(x, training=True)
        for layer in self.model.layers[1:]:  # behind the input
            x = rematerialised(layer, x) if isinstance(layer, ResidualBlock) else layer(x, training=True)
        return x

    def _apply(self, strategy: tf.distribute.Strategy, gradients: list[Any], finite: Any) -> None:
        """Applies gradients, unless they are not finite; called once for all replicas."""
        ok = strategy.experimental_local_results(finite)[0]  # the same on all
        variables = self.model.trainable_variables

        def update() -> None:
            strategy.extended.call_for_each_replica(self.optimizer.apply, args=(gradients, variables))

        tf.cond(ok, update, lambda: None)
        self.skipped.update(ok)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Puts the moving averages in the place of the model's weights for a while, if the recipe has them."""
        if not self._config.ema_decay:
            yield
            return
        with _put_back(self.model.trainable_variables):
            self.optimizer.finalize_variable_values(self.model.trainable_variables)
            yield

    @contextlib.contextmanager
    def kept_weights(self) -> Iterator[None]:
        """Puts the weights that the run leaves in the place of the model's for a while.

        The best epoch's, if the recipe looks for one, else `averaged_weights`.
        """
        if self.best is None:
            with self.averaged_weights():
                yield
            return
        with _put_back(self.model.weights):
            self.best.assign_to(self.model.weights)
            yield

    def evaluate(self, step: int) -> dict[str, float]:
        """Evaluates after `step` steps, keeps the weights if they are the best, and resets the training metrics.

        Args:
            step: The step.

        Returns:
            Metrics of training since the last call and of the held-out split, by name; with early stopping also
            `best_step`, the step of the best evaluation.
        """
        with self.averaged_weights():
            held_out = self.evaluate_held_out()
            if self.best is not None:
                self.best.update(step, held_out["eval_loss"], self.model.weights)
                held_out["best_step"] = self.best.step
        row = {metric.name: float(metric.result()) for metric in (self.loss, self.accuracy)}
        self.loss.reset_state()
        self.accuracy.reset_state()
        return row | held_out

    def evaluate_held_out(self) -> dict[str, float]:
        """Evaluates the weights that the model has on the whole held-out split."""
        if self._evaluation_iterator is None:
            self._evaluation_iterator = self._iterate(
                lambda context: pipeline.evaluation_batches(
                    self._source,
                    self._config,
                    context,
                    self._counted_here(self.damaged_in_evaluation),
                    self.counts_damaged,
                ).repeat()
            )
        for metric in (self.eval_loss, self.eval_accuracy, self._confusion):
            if metric is not None:
                metric.reset_state()
        self._evaluate_steps(
            self._evaluation_iterator, tf.constant(math.ceil(self._source.eval.count / self._config.batch_size))
        )
        return {metric.name: float(metric.result()) for metric in (self.eval_loss, self.eval_accuracy)}

    def confusion(self) -> Any:
        """Counts of the last evaluation by true and predicted class; `None` for multi-label or too many classes.

        All workers have to ask for it.
        """
        return None if self._confusion is None else keras.ops.convert_to_numpy(self._confusion.result())

    @tf.function
    def _evaluate_steps(self, batches: Iterator[Any], count: tf.Tensor) -> None:
        for _ in tf.range(count):
            self._strategy.run(self._evaluate_step, args=next(batches))

    def _evaluate_step(self, images: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> None:
        logits = self.model(tf.cast(images, tf.float32), training=False)
        self.eval_loss.update_state(self._eval_loss_of(tf.cast(targets, tf.float32), logits), weights)
        self.eval_accuracy.update_state(_share_of_top_class(tf.cast(targets, tf.float32), logits), weights)
        if self._confusion is not None:
            self._confusion.update_state(tf.argmax(targets, axis=-1), logits, weights)


@contextlib.contextmanager
def _put_back(variables: list[keras.Variable]) -> Iterator[None]:
    """Gives variables their values back at the end."""
    kept = [tf.identity(variable.value) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)


def _share_of_top_class(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The target of the class with the highest logit: 1 if it is right, `[batch]`; precision@1 of several labels."""
    return tf.reduce_sum(targets * tf.one_hot(tf.argmax(logits, axis=-1), logits.shape[-1]), axis=-1)


class SkippedSteps:
    """Counts steps whose loss or gradient was not finite; variables, so that it happens on the device."""

    def __init__(self) -> None:
        self._step, self._total, self._in_a_row, self._longest, self._last = self.variables = [
            tf.Variable(0, trainable=False, dtype=tf.int64, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
            for _ in range(5)
        ]

    def update(self, finite: tf.Tensor) -> None:
        """Counts a step."""
        skipped = tf.cast(~finite, tf.int64)
        in_a_row = (self._in_a_row + 1) * skipped
        self._last.assign(tf.where(finite, self._last, self._step))
        self._step.assign(self._step + 1)
        self._total.assign(self._total + skipped)
        self._in_a_row.assign(in_a_row)
        self._longest.assign(tf.maximum(self._longest, in_a_row))

    @property
    def total(self) -> int:
        """Steps skipped in the whole run."""
        return int(self._total.numpy())

    @property
    def longest(self) -> int:
        """Most steps skipped in a row."""
        return int(self._longest.numpy())

    @property
    def last(self) -> int:
        """The last step skipped, counted from 0."""
        return int(self._last.numpy())


class BestEpoch:
    """The weights with the lowest held-out loss so far; variables, so that they and their step are in the checkpoint.

    Args:
        weights: The weights of the model, whose values will be kept.
    """

    def __init__(self, weights: list[keras.Variable]) -> None:
        def keep(value: Any) -> tf.Variable:
            return tf.Variable(value, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)

        self._loss, self._step = keep(math.inf), keep(tf.constant(0, tf.int64))
        self._weights = [keep(weight.value) for weight in weights]
        self.variables = [self._loss, self._step, *self._weights]

    def update(self, step: int, loss: float, weights: list[keras.Variable]) -> None:
        """Keeps the weights of an evaluation if its loss is the lowest; a later one of the same loss is not."""
        loss = loss if math.isfinite(loss) else math.inf
        if not self.step or loss < float(self._loss.numpy()):
            self._loss.assign(loss)
            self._step.assign(step)
            for kept, weight in zip(self._weights, weights, strict=True):
                kept.assign(weight.value)

    def assign_to(self, weights: list[keras.Variable]) -> None:
        """Gives the model's weights the kept values."""
        for weight, kept in zip(weights, self._weights, strict=True):
            weight.assign(kept)

    @property
    def step(self) -> int:
        """The step of the best evaluation; 0 before the first."""
        return int(self._step.numpy())
