"""The step on JAX: one program for all devices, among which the batch is shared and the state is cut."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import keras
import ml_collections
import numpy as np
import tensorflow as tf
from etils import epath
from jax.sharding import Mesh, NamedSharding
from keras import ops

import coatnet_tf
from coatnet_tf.layers import ResidualBlock
from experiments.data import features
from experiments.data.sources import Source
from experiments.engine import orbax_checkpoints
from experiments.engine.engine import Engine
from experiments.engine.jax_devices import JaxDevices, ShapedLayout, batch_sharding, variable_sharding, whole
from experiments.model_config import model_norms
from experiments.predictions import Predict

_AHEAD = 2  # steps that wait for the devices, with their batches; none on CPUs, whose collectives then could block

Groups = dict[str, list[keras.Variable]]  # such as `Engine.state`
State = dict[str, list[jax.Array]]  # their values


class JaxEngine(Engine):
    """A run on JAX; see `Engine`."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        source: Source,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        devices: JaxDevices,
        load: Callable[[keras.Model], None] | None = None,
    ) -> None:
        self._mesh, self._context = devices.mesh, devices.input_context
        self._ahead = 0 if devices.mesh.devices.flat[0].platform == "cpu" else _AHEAD
        self._held_out: Iterator[Any] | None = None
        super().__init__(config, source, schedule, devices, load)
        self._taught_by = {"teacher": self.teacher.variables} if self.teacher is not None else {}
        self._train_step = self.compiled(self.train_step, self._stepped(), self._taught_by)
        metrics = (self.eval_loss, self.eval_score, self._confusion)
        self._evaluated = {"metrics": [v for metric in metrics if metric is not None for v in metric.variables]}
        self._evaluation_step = self.compiled(self._evaluate_step, self._evaluated, {"model": self.model.variables})

    def _scope(self) -> contextlib.AbstractContextManager[Any]:
        return ShapedLayout(self._mesh).scope()

    def _fitting(self, config: coatnet_tf.CoAtNetConfig) -> coatnet_tf.CoAtNetConfig:
        # BatchNorm is of all devices by itself, and Keras' JAX backend has none that is told to be.
        norms = {name: "batch_norm" for name, norm in model_norms(config).items() if norm == "sync_batch_norm"}
        reindexing = {"bias_reindexing": "einsum"} if self._mesh.devices.flat[0].platform == "tpu" else {}
        return coatnet_tf.get_config(config, **norms, **reindexing)

    def begin(self, step: int) -> None:
        self.batches = self._iterate(self._training_batches(step, self._context))

    def _iterate(self, batches: tf.data.Dataset) -> Iterator[Any]:
        """Batches on the devices; each process has read its share."""
        sharding = batch_sharding(self._mesh)
        for batch in batches.as_numpy_iterator():
            yield tuple(jax.make_array_from_process_local_data(sharding, part) for part in batch)

    def compiled(self, step: Any, groups: Groups, read: Groups | None = None) -> Any:
        """A step as a function of the state and a batch.

        Args:
            step: Takes a batch and assigns to variables.
            groups: The variables that it assigns to.
            read: Those that it reads beside these.

        Returns:
            A compiled function of values of `groups`, which it consumes, of values of `read`, and of a batch, to new
            values of `groups` and what the step returns.
        """

        def call(state: State, kept: State, batch: tuple[jax.Array, ...]) -> tuple[State, Any]:
            with keras.StatelessScope([*_pairs(groups, state), *_pairs(read or {}, kept)]) as scope:
                returned = step(*batch)
            return {name: [scope.get_current_value(v) for v in group] for name, group in groups.items()}, returned

        return jax.jit(call, donate_argnums=0, out_shardings=(self._shardings(groups), whole(self._mesh)))

    def _shardings(self, groups: Groups) -> dict[str, list[NamedSharding]]:
        return {name: [variable_sharding(self._mesh, v.shape) for v in group] for name, group in groups.items()}

    def _placed(self, groups: Groups) -> State:
        """The values of variables where the steps return them: Keras makes those for one device without a mesh."""
        return jax.device_put(orbax_checkpoints.values_of(groups), self._shardings(groups))

    def lower(self) -> jax.stages.Lowered:
        """The step that `train` takes, before it is compiled for the devices of the mesh, which need not be there."""
        by_batch, batch = batch_sharding(self._mesh), self._config.batch_size
        parts = (
            ((*self.model.input_shape[1:],), np.uint8),
            ((self._source.num_classes,), np.float32 if self._source.values else np.uint8),
            ((), np.float32),
            ((2,), np.float32),
        )
        state, kept = self._described(self._stepped()), self._described(self._taught_by)
        described = tuple(jax.ShapeDtypeStruct((batch, *shape), dtype, sharding=by_batch) for shape, dtype in parts)
        platform = self._mesh.devices.flat[0].platform
        return self._train_step.trace(state, kept, described).lower(lowering_platforms=(platform,))

    def _described(self, groups: Groups) -> dict[str, list[jax.ShapeDtypeStruct]]:
        """Shapes of variables where the steps return them."""
        shardings = self._shardings(groups)
        return {
            name: [
                jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=s) for v, s in zip(group, shardings[name], strict=True)
            ]
            for name, group in groups.items()
        }

    def train(self, count: int) -> None:
        self._run(self._train_step, self._stepped(), self._taught_by, self.batches, count)

    def _run(self, step: Any, groups: Groups, read: Groups, batches: Iterator[Any], count: int) -> None:
        """Takes `count` steps one after the other, without waiting for the devices."""
        state, kept = self._placed(groups), self._placed(read)
        waiting: deque[jax.Array] = deque()
        for _ in range(count):
            state, done = step(state, kept, next(batches))
            waiting.append(done)
            if len(waiting) > self._ahead:
                waiting.popleft().block_until_ready()
        for variable, value in _pairs(groups, state):
            variable.assign(value)

    def train_step(self, images: jax.Array, targets: jax.Array, weights: jax.Array, shares: jax.Array) -> jax.Array:
        """One step on the batch of all devices; see `pipeline.training_batches`. Returns the loss."""
        with jax.named_scope("input"):
            batch = self._mixed(images, targets, weights, shares)
        variables = [*self.model.trainable_variables, *self.optimizer.variables]
        before = [(v, v.value) for v in (*variables, *self._statistics)]
        gradients, loss, score, weight = self._accumulated(batch)
        with jax.named_scope("optimizer"):
            gradients, norm = _clip_by_global_norm(gradients, self._config.optimizer.clip_norm)
            finite = jnp.isfinite(norm) & jnp.isfinite(loss)
            self.optimizer.apply(gradients, self.model.trainable_variables)
            for variable, value in before:
                variable.assign(jnp.where(finite, variable.value, value))
        self.skipped.update(finite)
        self._count(finite, loss, score, weight)
        return loss / weight

    def _accumulated(self, batch: tuple[jax.Array, ...]) -> tuple[list[jax.Array], jax.Array, jax.Array, jax.Array]:
        """`_gradients` summed over the parts of the batch, one after the other; the state of norms goes on."""
        others = self.model.non_trainable_variables
        parts, replicas = self._config.accumulation_steps, self._mesh.size

        def split(x: jax.Array) -> jax.Array:
            """`[parts, batch / parts, ...]`, of each device's share a part."""
            x = x.reshape(replicas, parts, -1, *x.shape[1:])
            return jnp.swapaxes(x, 0, 1).reshape(parts, -1, *x.shape[3:])

        def add(carried: Any, part: Any) -> tuple[Any, None]:
            total, values = carried
            found, values = self._gradients(values, *part)
            return (jax.tree.map(jnp.add, total, found), values), None

        values = [v.value for v in others]
        if parts == 1:
            total, values = self._gradients(values, *batch)
        else:
            batch = tuple(map(split, batch))
            first = self._gradients(values, *(x[0] for x in batch))
            (total, values), _ = jax.lax.scan(add, first, tuple(x[1:] for x in batch))
        for variable, value in zip(others, values, strict=True):
            variable.assign(value)
        return total

    def _gradients(
        self, others: list[jax.Array], images: jax.Array, targets: jax.Array, weights: jax.Array
    ) -> tuple[tuple[list[jax.Array], jax.Array, jax.Array, jax.Array], list[jax.Array]]:
        """Gradients of all trainable variables, sums over the images (loss, score, weight), the others' values."""
        with jax.named_scope("teacher"):
            taught = self._taught(images)

        def loss_of(trainable: list[jax.Array]) -> tuple[jax.Array, Any]:
            logits, new_others = self._forward(trainable, others, images)
            with jax.named_scope("loss"):
                values = self._training_loss(targets, taught, logits) * weights
                scores = self._score_of(targets, logits) * weights
                loss = jnp.sum(values)
            return loss / self._config.batch_size, ((loss, jnp.sum(scores), jnp.sum(weights)), new_others)

        variables = self.model.trainable_variables
        gradients, (sums, others) = jax.grad(loss_of, has_aux=True)([v.value for v in variables])
        gradients = [
            jax.lax.with_sharding_constraint(gradient, variable_sharding(self._mesh, gradient.shape))
            for gradient in gradients
        ]
        return (gradients, *sums), others

    def _forward(
        self, trainable: list[jax.Array], others: list[jax.Array], x: jax.Array
    ) -> tuple[jax.Array, list[jax.Array]]:
        values = [
            *zip(self.model.trainable_variables, trainable, strict=True),
            *zip(self.model.non_trainable_variables, others, strict=True),
        ]
        with keras.StatelessScope(values) as scope:
            if self._config.rematerialise or self._frozen:
                for layer in self.model.layers[1:]:  # behind the input
                    trained = layer.name not in self._frozen
                    again = self._config.rematerialise and trained and isinstance(layer, ResidualBlock)
                    x = self._called(layer, x, again, trained)
                    if layer.name == self._last_frozen:
                        x = jax.lax.stop_gradient(x)
            else:
                x = self._called(self.model, x)
        return x, [scope.get_current_value(v) for v in self.model.non_trainable_variables]

    def _called(
        self, layer: keras.layers.Layer, inputs: jax.Array, again: bool = False, training: bool = True
    ) -> jax.Array:
        """Calls a layer on whole weights, within a scope that holds its state.

        Args:
            layer: A built layer.
            inputs: Its input.
            again: Whether the backward pass gathers its weights and computes its inner activations again.
            training: Whether it is called for training, or frozen.

        Returns:
            Its output.
        """
        variables, others = layer.trainable_variables, layer.non_trainable_variables

        def call(
            cut: list[jax.Array], other_values: list[jax.Array], x: jax.Array
        ) -> tuple[jax.Array, list[jax.Array]]:
            values = [*zip(variables, self._gathered(layer, cut), strict=True), *zip(others, other_values, strict=True)]
            with keras.StatelessScope(values) as scope:
                outputs = layer(x, training=training)
            return outputs, [scope.get_current_value(v) for v in others]

        call = jax.checkpoint(call) if again else call
        outputs, new_values = call([v.value for v in variables], [v.value for v in others], inputs)
        for variable, value in zip(others, new_values, strict=True):
            variable.assign(value)
        return outputs

    def _gathered(self, layer: keras.layers.Layer, values: list[jax.Array]) -> list[jax.Array]:
        """The values of a layer's trainable variables, whole on all devices, for a call of the layer."""
        dtypes = {
            id(variable): inner.compute_dtype if variable._autocast else variable.dtype
            for inner in layer._flatten_layers()
            for variable in inner._trainable_variables
        }
        variables = layer.trainable_variables
        return [_gather(self._mesh, x, dtypes[id(v)]) for v, x in zip(variables, values, strict=True)]

    def _evaluate(self, count: int) -> None:
        if self._held_out is None:
            self._held_out = self._iterate(self._evaluation_batches(self._context))
        read = {"model": self.model.variables}
        self._run(self._evaluation_step, self._evaluated, read, self._held_out, count)

    def _logits(self, model: keras.Model, images: jax.Array) -> jax.Array:
        variables = model.trainable_variables
        values = self._gathered(model, [v.value for v in variables])
        others = [(v, v.value) for v in model.non_trainable_variables]
        with keras.StatelessScope([*zip(variables, values, strict=True), *others]):
            return model(images, training=False)

    def make_embed(self, backbone: keras.Model) -> features.Embed:
        values = [v.value for v in backbone.variables]

        @functools.partial(jax.jit, out_shardings=whole(self._mesh))
        def embed(values: list[jax.Array], images: jax.Array) -> jax.Array:
            with keras.StatelessScope(zip(backbone.variables, values, strict=True)):
                return self._logits(backbone, images.astype(np.float32)).astype(np.float32)

        sharding = batch_sharding(self._mesh)
        return lambda images: np.asarray(embed(values, jax.device_put(images.numpy(), sharding)))

    @contextlib.contextmanager
    def result(self, folder: epath.Path) -> Iterator[tuple[keras.Model, Predict]]:
        """The model's values lie in a checkpoint until each is written to its file: no process ever holds all."""
        place = folder / ".unfinished-result"
        with self._merged() as weights:
            orbax_checkpoints.write(place, {"model": weights})
        read = orbax_checkpoints.read(place)
        model = without_values(self._result_model)
        for index, variable in enumerate(model.weights):
            variable._value = orbax_checkpoints.Stored(read, "model", index)
        yield model, self._predictor()
        if self._devices.is_chief:
            tf.io.gfile.rmtree(str(place))

    def _predictor(self) -> Predict:
        """What the model takes, images or features, to what its users get, by the weights that it has now."""

        def call(values: list[jax.Array], inputs: jax.Array) -> jax.Array:
            with keras.StatelessScope(zip(self.model.variables, values, strict=True)):
                logits = self._logits(self.model, inputs)
            logits = ops.cast(logits, "float32")
            if self._source.values:
                return self._source.values.in_units(logits)
            return keras.activations.get(self._config.loss)(logits)

        values = [v.value for v in self.model.variables]
        compiled = jax.jit(call, out_shardings=whole(self._mesh))

        def predict(inputs: np.ndarray) -> np.ndarray:
            return np.asarray(compiled(values, jax.device_put(inputs.astype(np.float32), whole(self._mesh))))

        return predict


def _pairs(groups: Groups, state: State) -> list[tuple[keras.Variable, jax.Array]]:
    return [pair for name, group in groups.items() for pair in zip(group, state[name], strict=True)]


def without_values(build: Callable[[], Any]) -> Any:
    """What `build` returns, whose variables have shapes but no values, as it only was traced."""
    built = []
    jax.eval_shape(lambda: built.append(build()))
    return built[0]


def _clip_by_global_norm(gradients: list[jax.Array], limit: float) -> tuple[list[jax.Array], jax.Array]:
    """Gradients whose norm, all together, is at most the limit, and what it was."""
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(gradient)) for gradient in gradients))
    scale = limit / jnp.maximum(norm, limit)
    return [gradient * scale for gradient in gradients], norm


def _gather(mesh: Mesh, value: jax.Array, dtype: str) -> jax.Array:
    """A cut variable whole on all devices, in the dtype that it is taken in; its gradient is cut where it is summed.

    Otherwise the compiler lets the cut of a kernel go on into the activations behind it, and takes it back by
    all-to-all; and gradients are summed whole.
    """
    cut = variable_sharding(mesh, value.shape)
    if cut.is_fully_replicated:
        return value

    @jax.custom_vjp
    def gather(x: jax.Array) -> jax.Array:
        x = jax.lax.with_sharding_constraint(x.astype(dtype), cut)  # before it is sent
        return jax.lax.with_sharding_constraint(x, whole(mesh))

    def forward(x: jax.Array) -> tuple[jax.Array, None]:
        return gather(x), None

    def backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
        return (jax.lax.with_sharding_constraint(gradient, cut).astype(value.dtype),)

    gather.defvjp(forward, backward)
    return gather(value)
