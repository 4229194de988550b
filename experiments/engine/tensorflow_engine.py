"""The step on TensorFlow: each replica of a `tf.distribute.Strategy` computes its share of the batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import ml_collections
import tensorflow as tf
from absl import logging
from etils import epath

import coatnet_tf
from coatnet_tf.layers import ResidualBlock, tensorflow_training
from experiments import tuning
from experiments.data import features
from experiments.data.sources import Source
from experiments.engine.engine import Engine
from experiments.engine.tensorflow_devices import TensorFlowDevices
from experiments.model_config import model_norms
from experiments.predictions import Predict

_PLAIN = tf.autograph.experimental.do_not_convert  # a second or two of each start, where there is nothing to convert


class TensorFlowEngine(Engine):
    """A run on TensorFlow; see `Engine`."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        source: Source,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        devices: TensorFlowDevices,
        load: Callable[[keras.Model], None] | None = None,
    ) -> None:
        self._strategy = devices.strategy
        (device, *_) = devices.strategy.extended.worker_devices
        self._on_one_cpu = isinstance(devices.strategy, tf.distribute.OneDeviceStrategy) and "CPU" in device
        # One for all evaluations: TensorFlow's end of an iterator over devices can wait a minute for a sleeping thread.
        self._held_out: Iterator[Any] | None = None
        super().__init__(config, source, schedule, devices, load)

    def _scope(self) -> contextlib.AbstractContextManager[Any]:
        return self._strategy.scope()

    def _fitting(self, config: coatnet_tf.CoAtNetConfig) -> coatnet_tf.CoAtNetConfig:
        if self._strategy.num_replicas_in_sync > 1:
            norms = model_norms(config).items()
            synchronised = {name: "sync_batch_norm" for name, norm in norms if norm == "batch_norm"}
            config = coatnet_tf.get_config(config, **synchronised)
        if isinstance(self._strategy, tf.distribute.TPUStrategy):
            config = coatnet_tf.get_config(config, bias_reindexing="einsum")
        return config

    def begin(self, step: int) -> None:
        self._part_random_streams()
        self.batches = self._iterate(lambda context: self._training_batches(step, context))

    def _part_random_streams(self) -> None:
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

    def _iterate(self, make_batches: Callable[[tf.distribute.InputContext], tf.data.Dataset]) -> Iterator[Any]:
        """Batches on the devices of the strategy; on a single CPU they are there already."""
        if self._on_one_cpu:
            return iter(make_batches(tf.distribute.InputContext()))
        return iter(self._strategy.distribute_datasets_from_function(make_batches))

    def train(self, count: int) -> None:
        self._train_steps(self.batches, tf.constant(count))

    @tf.function
    def _train_steps(self, batches: Iterator[Any], count: tf.Tensor) -> None:
        """Takes `count` training steps without returning to Python."""
        for _ in tf.range(count):
            self._strategy.run(_PLAIN(self.train_step), args=next(batches))

    def train_step(self, images: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, shares: tf.Tensor) -> None:
        """One step of one replica, on its share of the batch; see `pipeline.training_batches`."""
        batch = self._mixed(images, targets, weights, shares)
        before = [tf.identity(variable.value) for variable in self._statistics]
        with self._compiling():
            sums = self._accumulated(batch)
        context = tf.distribute.get_replica_context()
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, sums)
        *gradients, loss, score, weight = sums
        gradients, norm = tf.clip_by_global_norm(gradients, self._config.optimizer.clip_norm)
        finite = tf.math.is_finite(norm) & tf.math.is_finite(loss)
        context.merge_call(self._apply, args=(gradients, finite))
        for variable, value in zip(self._statistics, before, strict=True):
            variable.assign(tf.where(finite, variable.value, value))
        self._count(finite, loss, score, weight)

    @contextlib.contextmanager
    def _compiling(self) -> Iterator[None]:
        """On one CPU has XLA compile what it makes faster there, and says so, as the step is traced."""
        if not self._on_one_cpu:
            yield
            return
        with tensorflow_training.compiling() as shapes:
            yield
        if shapes:
            logging.info("XLA compiles %d large GELUs of the step, which is faster on a CPU.", len(shapes))

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
        """Gradients of all trainable variables, then sums over the images: loss, score, weight."""
        taught = self._taught(images)
        with tf.GradientTape() as tape:
            logits = self._forward(images)
            values = self._training_loss(targets, taught, logits) * weights
            loss = tf.reduce_sum(values) / self._config.batch_size
        gradients = tape.gradient(loss, [variable.value for variable in self.model.trainable_variables])
        scores = self._score_of(targets, logits) * weights
        return [*gradients, *map(tf.reduce_sum, (values, scores, weights))]

    def _forward(self, x: tf.Tensor) -> tf.Tensor:
        if not (self._config.rematerialise or self._frozen):
            return self.model(x, training=True)
        for layer in self.model.layers[1:]:  # behind the input
            trained = layer.name not in self._frozen
            again = self._config.rematerialise and trained and isinstance(layer, ResidualBlock)
            x = rematerialised(layer, x) if again else layer(x, training=trained)
            if layer.name == self._last_frozen:
                x = tf.stop_gradient(x)
        return x

    @staticmethod
    def make_embed(backbone: keras.Model) -> features.Embed:
        folded = coatnet_tf.fold_for_inference(backbone)  # the same features, sooner
        embed = tf.function(lambda images: tf.cast(folded(tf.cast(images, tf.float32), training=False), tf.float32))
        return lambda images: embed(images).numpy()

    def _apply(self, strategy: tf.distribute.Strategy, gradients: list[Any], finite: Any) -> None:
        """Applies gradients, unless they are not finite; called once for all replicas."""
        ok = strategy.experimental_local_results(finite)[0]  # the same on all
        variables = self.model.trainable_variables

        def update() -> None:
            strategy.extended.call_for_each_replica(self.optimizer.apply, args=(gradients, variables))

        tf.cond(ok, update, lambda: None)
        self.skipped.update(ok)

    def _evaluate(self, count: int) -> None:
        if self._held_out is None:
            self._held_out = self._iterate(self._evaluation_batches)
        self._evaluate_steps(self._held_out, tf.constant(count))

    @tf.function
    def _evaluate_steps(self, batches: Iterator[Any], count: tf.Tensor) -> None:
        for _ in tf.range(count):
            self._strategy.run(_PLAIN(self._evaluate_step), args=next(batches))

    @contextlib.contextmanager
    def result(self, folder: epath.Path) -> Iterator[tuple[keras.Model, Predict]]:
        model = self._result_model()
        with self._merged() as weights:
            model.set_weights([weight.numpy() for weight in weights])
        asked = tuning.head_of(model) if self._config.tune == tuning.HEAD else model
        yield model, lambda inputs: asked.predict_on_batch(inputs.astype("float32"))


def rematerialised(layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
    """Calls a layer for training without keeping its inner activations.

    `keras.RematScope` would update BatchNorm's averages twice and drop other branches the second time:
    here the second call works on copies of the layer's state, with the random state of the first.

    Args:
        layer: A built layer of one input and one output.
        inputs: Its input.

    Returns:
        Its output, with the gradients it would have otherwise.
    """
    states = [variable for variable in layer.variables if variable.path.endswith("seed_generator_state")]
    before = [(state, tf.identity(state.value)) for state in states]
    calls = 0

    @tf.recompute_grad
    def call(x: tf.Tensor) -> tf.Tensor:
        nonlocal calls
        calls += 1
        if calls == 1:
            return layer(x, training=True)
        with keras.StatelessScope(state_mapping=before, initialize_variables=False):  # none are made here
            return layer(x, training=True)

    return call(inputs)
