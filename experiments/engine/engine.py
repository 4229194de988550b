"""What both engines share: model, optimizer, metrics, and all that happens between the steps."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import keras
import ml_collections
import numpy as np
import tensorflow as tf
from etils import epath
from keras import ops

import coatnet_tf
from experiments import augment, losses, optimization, sizes, teachers, tuning
from experiments.data import features, pipeline, sources
from experiments.data.damage import DamagedImages
from experiments.data.sources import Source
from experiments.engine.devices import Devices
from experiments.engine.progress import BestEpoch, SkippedSteps
from experiments.model_config import make_model_config
from experiments.predictions import Predict, Predictions, collect

MAX_CONFUSION_CLASSES = 1000  # more would not be looked at, and take gigabytes


class Engine(abc.ABC):
    """Model, optimizer and metrics of a run on its devices, and the steps that change them.

    Args:
        config: The recipe.
        source: The dataset.
        schedule: Learning rate of the run.
        devices: Those of the run.
        load: Gives the network the weights to begin with; by default they are random.
    """

    batches: Iterator[Any]  # those to come, on the devices; from `begin`
    network: keras.Model  # from images to logits
    model: keras.Model  # what is trained: the network, or its head, from features to logits
    teacher: keras.Model | None = None  # from images to logits, if the recipe names one; in no checkpoint

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        source: Source,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        devices: Devices,
        load: Callable[[keras.Model], None] | None = None,
    ) -> None:
        self.schedule = schedule
        self._config, self._source, self._devices = config, source, devices
        weights = sources.class_weights(source) if config.dataset.balance == "weights" else None
        self._loss_of = losses.make_loss(config.loss, config.label_smoothing, weights)
        self._divergence_of = losses.make_distillation(config.loss, config.teacher_temperature)
        self._eval_loss_of = losses.make_loss(config.loss, 0.0)
        self._score_of = losses.absolute_error if source.values else losses.share_of_top_class
        self.damaged = DamagedImages(source.train.count, config.dataset.max_damaged_share)
        self.damaged_in_evaluation = DamagedImages(source.eval.count, config.dataset.max_damaged_share)
        self._model_config = self._fitting(make_model_config(config.model))
        if config.teacher:
            with self._scope():
                self.teacher = teachers.load(config, source)
        keras.utils.set_random_seed(config.seed)  # behind what may draw from it
        with self._scope():
            self.network = self._make_model()
        for layer in self.network._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = config.batch_norm_momentum
        # All that a step changes beside what it trains; what is frozen later is none of it.
        self._statistics = [v for v in self.network.non_trainable_variables if v.dtype.startswith("float")]
        if load is not None:
            load(self.network)
        with self._scope():
            self.model = tuning.prepare(self.network, config)
            self._frozen, self._last_frozen = tuning.frozen_layers(self.model)
            self.optimizer = optimization.make_optimizer(config.optimizer, self.model, schedule, config.ema_decay)
            score = "absolute_error" if source.values else "accuracy"
            self.loss = keras.metrics.Mean(name="train_loss")
            self.score = keras.metrics.Mean(name=f"train_{score}")
            self.eval_loss = keras.metrics.Mean(name="eval_loss")
            self.eval_score = keras.metrics.Mean(name=f"eval_{score}")
            self._confusion = None
            if not (source.multi_label or source.values) and source.num_classes <= MAX_CONFUSION_CLASSES:
                self._confusion = losses.ConfusionMatrix(source.num_classes)
            self.skipped = SkippedSteps()
            self.best = BestEpoch(self.model.weights) if config.early_stop_patience else None

    def _make_model(self) -> keras.Model:
        """The network, which gives logits."""
        config = self._config
        return coatnet_tf.CoAtNet(
            self._model_config,
            input_shape=(*sizes.of(config), self._source.channels),
            classes=self._source.num_classes,
            classifier_activation=None,
            dtype=config.dtype,
        )

    @functools.cached_property
    def backbone_digest(self) -> str:
        """SHA-256 of the weights that give the features; they are in no checkpoint of a run that trains the head."""
        digest = hashlib.sha256()
        for weight in tuning.backbone_of(self.network).weights:
            digest.update(ops.convert_to_numpy(weight.value).tobytes())
        return digest.hexdigest()

    @abc.abstractmethod
    def _scope(self) -> contextlib.AbstractContextManager[Any]:
        """Where variables are made for the devices."""

    def _fitting(self, config: coatnet_tf.CoAtNetConfig) -> coatnet_tf.CoAtNetConfig:
        """The network as the devices compute it best, with the same weights."""
        return config

    @abc.abstractmethod
    def begin(self, step: int) -> None:
        """Begins the batches of the run at a step; before it nothing can be trained."""

    @abc.abstractmethod
    def train(self, count: int) -> None:
        """Takes training steps."""

    @functools.cached_property
    def _features(self) -> features.Features:
        """Of the training images, for a run that trains the head."""
        return features.of_training(self._source, self._config, self._embed, self.damaged, self._devices.is_chief)

    @functools.cached_property
    def _held_out_features(self) -> features.Features:
        arguments = self._embed, self.damaged_in_evaluation, self._devices.is_chief
        return features.of_held_out(self._source, self._config, *arguments)

    @functools.cached_property
    def _embed(self) -> features.Embed:
        return self.make_embed(tuning.backbone_of(self.network))

    @abc.abstractmethod
    def make_embed(self, backbone: keras.Model) -> features.Embed:
        """What computes features by a model from images to these, in inference mode."""

    def _training_batches(self, step: int, context: tf.distribute.InputContext) -> tf.data.Dataset:
        """The share of this process of the batches from a step on."""
        if self._config.tune == tuning.HEAD:
            return features.training_batches(self._features, self._config, step, context)
        damaged, python = self._counted_here(self.damaged), self._devices.counts_damaged
        return pipeline.training_batches(self._source, self._config, step, context, damaged, python)

    def _evaluation_batches(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        """The share of this process of the batches of the held-out split, again and again."""
        if self._config.tune == tuning.HEAD:
            return features.evaluation_batches(self._held_out_features, self._config, context).repeat()
        damaged, python = self._counted_here(self.damaged_in_evaluation), self._devices.counts_damaged
        return pipeline.evaluation_batches(self._source, self._config, context, damaged, python).repeat()

    def example_names(self, step: int) -> list[str]:
        """Names of the examples of one training step's batch, all workers together."""
        if self._config.tune == tuning.HEAD:
            return self._features.example_names(self._config, step)
        return pipeline.example_names(self._source, self._config, step)

    @abc.abstractmethod
    def _evaluate(self, count: int) -> None:
        """Updates the metrics of evaluation by the next batches of the held-out split."""

    @abc.abstractmethod
    def result(self, folder: epath.Path) -> contextlib.AbstractContextManager[tuple[keras.Model, Predict]]:
        """The model for its users, of the weights that the network has now, and what it says; all processes must ask.

        Args:
            folder: Folder of the run, for what is needed meanwhile.

        Returns:
            Within the context: on the chief a model in float32 that gives probabilities, which can be saved; and a
            function of what `model` takes, images in [0, 255] or features, to their probabilities, `[n, classes]`,
            which all processes have to call with the same batches.
        """

    def predictions(self, split: Literal["train", "eval"], predict: Predict) -> Predictions:
        """What the result says of all images of a split as evaluation sees them; all processes must ask.

        Of a run that trains the head their features are known, and no image is read again.

        Args:
            split: Which of the source.
            predict: From `result`.
        """
        if self._config.tune == tuning.HEAD:
            known = self._features if split == "train" else self._held_out_features
            batches = features.evaluation_batches(known, self._config, tf.distribute.InputContext())
            return collect(batches, predict, known.count)
        reader: Any = getattr(self._source, split)
        source = dataclasses.replace(self._source, eval=reader)
        damaged = self._counted_here(self.damaged if split == "train" else self.damaged_in_evaluation)
        batches = pipeline.evaluation_batches(source, self._config, None, damaged, self._devices.counts_damaged)
        return collect(batches, predict, reader.count)

    def state(self) -> dict[str, list[keras.Variable]]:
        """Everything that a resumed run has to find again, in groups of variables in a fixed order."""
        groups = self._stepped()
        return groups | ({"best": self.best.variables} if self.best else {})

    def _stepped(self) -> dict[str, list[keras.Variable]]:
        """The part of the state that a step changes."""
        return {
            "model": self.model.variables,
            "optimizer": self.optimizer.variables,
            "metrics": [*self.loss.variables, *self.score.variables],
            "skipped": self.skipped.variables,
        }

    def share_damaged(self) -> None:
        """Tells the processes of a cluster what each has found; all have to call it, and wait for one another."""
        for damaged in (self.damaged, self.damaged_in_evaluation):
            if self._devices.on_any_process(damaged.has_news):
                damaged.merge(self._devices.union_over_processes(damaged.names))

    def _counted_here(self, damaged: DamagedImages) -> DamagedImages | None:
        return damaged if self._devices.counts_damaged else None

    def _mixed(self, images: Any, targets: Any, weights: Any, shares: Any) -> tuple[Any, Any, Any]:
        """A batch in floating point, mixed if the recipe says so; see `pipeline.training_batches`."""
        images, targets = ops.cast(images, "float32"), ops.cast(targets, "float32")
        if augment.mixes_pairs(self._config.augment):
            return augment.mixup(images, targets, weights, shares)
        return images, targets, weights

    def _taught(self, images: Any) -> Any:
        """What the teacher says of a batch, as it is given to the student; `None` without a teacher."""
        return None if self.teacher is None else self._logits(self.teacher, teachers.resized(images, self.teacher))

    def _training_loss(self, targets: Any, taught: Any, logits: Any) -> Any:
        """The loss of each image: of its labels, of the teacher's logits, or of both."""
        if taught is None:
            return self._loss_of(targets, logits)
        share = self._config.teacher_weight
        values = share * self._divergence_of(taught, ops.cast(logits, taught.dtype))
        return values if share == 1 else values + (1 - share) * self._loss_of(targets, logits)

    def _count(self, finite: Any, loss: Any, score: Any, weight: Any) -> None:
        """Updates the metrics of training by a step's sums over its images; one that is not finite has no weight."""
        counted = ops.where(finite, weight, 0.0)
        self.loss.update_state(ops.where(finite, ops.divide_no_nan(loss, weight), 0.0), counted)
        self.score.update_state(ops.where(finite, ops.divide_no_nan(score, weight), 0.0), counted)

    def _evaluate_step(self, images: Any, targets: Any, weights: Any) -> Any:
        """Updates the metrics of evaluation by a batch, and returns its losses."""
        targets = ops.cast(targets, "float32")
        logits = self._logits(self.model, ops.cast(images, "float32"))
        values = self._eval_loss_of(targets, logits)
        self.eval_loss.update_state(values, weights)
        self.eval_score.update_state(self._score_of(targets, logits), weights)
        if self._confusion is not None:
            self._confusion.update_state(ops.argmax(targets, axis=-1), logits, weights)
        return values

    def _logits(self, model: keras.Model, images: Any) -> Any:
        """What a model says of images, or of features, without training."""
        return model(images, training=False)

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
        row = {metric.name: float(metric.result()) for metric in (self.loss, self.score)}
        self.loss.reset_state()
        self.score.reset_state()
        return row | held_out

    def evaluate_held_out(self) -> dict[str, float]:
        """Evaluates the weights that the model has on the whole held-out split."""
        for metric in (self.eval_loss, self.eval_score, self._confusion):
            if metric is not None:
                metric.reset_state()
        self._evaluate(math.ceil(self._source.eval.count / self._config.batch_size))
        return {metric.name: float(metric.result()) for metric in (self.eval_loss, self.eval_score)}

    @property
    def counts_confusion(self) -> bool:
        """Whether evaluation gives more than metrics: `confusion`."""
        return self._confusion is not None

    def confusion(self) -> np.ndarray | None:
        """Counts of the last evaluation by true and predicted class; `None` unless there are classes, one an image.

        All processes have to ask for it.
        """
        return None if self._confusion is None else ops.convert_to_numpy(self._confusion.result())

    def _result_model(self) -> keras.Model:
        """The model for its users, in float32 and with probabilities or numbers in their units, with new weights."""
        values = self._source.values
        model = coatnet_tf.CoAtNet(
            coatnet_tf.get_config(make_model_config(self._config.model), drop_path_rate=0.0, dropout=0.0),
            input_shape=self.network.input_shape[1:],
            classes=self._source.num_classes,
            classifier_activation=None if values else self._config.loss,
            dtype="float32",
        )
        return keras.Model(model.input, values.layer()(model.output), name=model.name) if values else model

    @contextlib.contextmanager
    def _merged(self) -> Iterator[list[keras.Variable]]:
        """The weights of the network for `_result_model`, in its order; LoRA is part of the kernels for a while."""
        with _put_back(tuning.merged_variables(self.network)):
            tuning.merge_lora(self.network)
            yield tuning.plain_weights(self.network)


@contextlib.contextmanager
def _put_back(variables: list[keras.Variable]) -> Iterator[None]:
    """Gives variables their values back at the end."""
    kept = [ops.copy(variable.value) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)
