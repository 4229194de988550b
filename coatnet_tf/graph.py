"""One walk through functional models, for all that makes other models of them: folding, and rewrites for runtimes."""

from __future__ import annotations

import collections
import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import keras

Value = TypeVar("Value")
Rule = Callable[[Any, Any], Any]


class OfTensors(Generic[Value]):
    """A dictionary of tensors by identity; it keeps them, so that no identity is used twice."""

    def __init__(self) -> None:
        self._values: dict[int, tuple[Any, Value]] = {}

    def __contains__(self, tensor: Any) -> bool:
        return id(tensor) in self._values

    def __getitem__(self, tensor: Any) -> Value:
        return self._values[id(tensor)][1]

    def __setitem__(self, tensor: Any, value: Value) -> None:
        self._values[id(tensor)] = tensor, value

    def get(self, tensor: Any) -> Value | None:
        """What is known of a tensor, or `None`."""
        _, value = self._values.get(id(tensor), (None, None))
        return value


@dataclasses.dataclass(frozen=True)
class Made:
    """How a tensor of the new model came to be.

    Args:
        layer: The layer of the new model that returned it.
        inputs: The tensor that it was called with.
        key: What the layer is an equal of: the layers of the old model that it stands for.
    """

    layer: keras.layers.Layer
    inputs: Any
    key: Hashable


class Rewrite:
    """Walks a model from its inputs on, and calls what a rule makes of each layer.

    A rule belongs to an exact type, as a subclass of a layer is another layer; it takes the layer of the old model and
    the tensor of the new one, and returns the new output. Layers without a rule, or called with more than one tensor,
    go through `otherwise`.
    """

    def __init__(self) -> None:
        self.rules: dict[type, Rule] = {}
        self._made: OfTensors[Made] = OfTensors()
        self._shared: set[int] = set()  # of its layers whose output has several uses, or that are called several times
        self._repeated: set[int] = set()  # of its layers that are called several times, and of the layers in them
        self._layers: dict[Hashable, keras.layers.Layer] = {}

    def run(self, model: keras.Model) -> keras.Model:
        """The new model.

        Args:
            model: A functional or sequential model. It is not changed.
        """
        model = as_functional(model)
        self._count_uses(model)
        return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=self._call)

    def otherwise(self, layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        """Calls a layer that has no rule."""
        return layer(*args, **kwargs)

    def _call(self, layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        training = kwargs.pop("training", None)
        by_default = _trains_by_default(layer)
        if training and not by_default:
            raise ValueError(f"Layer {layer.name} is called with training=True, which has no equal for inference.")
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        if by_default and type(layer) not in self.rules:
            kwargs["training"] = False
        if kwargs or len(args) != 1:
            return self.otherwise(layer, *args, **kwargs)
        y = self.apply(layer, args[0])
        if id(layer) in self._shared:
            self.share(y)
        return y

    def share(self, x: Any) -> None:
        """Notes that a tensor has several uses, so that no layer behind it may take its place."""
        if x in self._made:
            self._made[x] = dataclasses.replace(self._made[x], key=None)

    def is_repeated(self, layer: keras.layers.Layer) -> bool:
        """Whether a layer of the old model is called several times, and so can take in nothing of one of its inputs."""
        return id(layer) in self._repeated

    def _count_uses(self, model: keras.Model) -> None:
        """By the nodes of the model: `input` and `output` of a layer are of its first call, which may be in another."""
        nodes = list(itertools.chain.from_iterable(model._nodes_by_depth.values()))
        calls = collections.Counter(id(node.operation) for node in nodes)
        uses = collections.Counter(id(tensor) for tensor in model.outputs)
        uses.update(id(tensor) for node in nodes for tensor in node.input_tensors)
        for node in nodes:
            repeated = calls[id(node.operation)] > 1
            if repeated and isinstance(node.operation, keras.layers.Layer):
                self._repeated |= {id(layer) for layer in node.operation._flatten_layers()}
            if repeated or any(uses[id(tensor)] > 1 for tensor in node.output_tensors):
                self._shared.add(id(node.operation))

    def apply(self, layer: keras.layers.Layer, x: Any) -> Any:
        """What a layer of the old model becomes, called with a tensor of the new one."""
        if is_functional(layer):
            return self.layer(id(layer), lambda: type(self)().run(layer))(x)
        rule = self.rules.get(type(layer))
        return self.otherwise(layer, x) if rule is None else rule(layer, x)

    def layer(self, key: Hashable, make: Callable[[], keras.layers.Layer]) -> keras.layers.Layer:
        """The layer of the new model for a key, which is made once, however often the old one is called."""
        if key not in self._layers:
            self._layers[key] = make()
        return self._layers[key]

    def made(self, key: Hashable, make: Callable[[], keras.layers.Layer], x: Any, weights: Any = None) -> Any:
        """Calls the layer of a key, and remembers how the output came to be.

        Args:
            key: What the layer stands for; see `Made`.
            make: Makes the layer.
            x: Its input.
            weights: Function that returns its weights, for a new one.
        """
        is_new = key not in self._layers
        layer = self.layer(key, make)
        y = layer(x)
        if is_new and weights is not None:
            layer.set_weights(weights())
        self._made[y] = Made(layer, x, key)
        return y

    def before(self, x: Any, *types: type) -> Made | None:
        """How a tensor came to be, if by a layer of exactly one of these types, and for one use alone."""
        made = self._made.get(x)
        return made if made is not None and made.key is not None and type(made.layer) in types else None


def _trains_by_default(layer: Any) -> bool:
    """Whether a layer is in training mode unless it is told otherwise, as those that augment images are."""
    parameters = inspect.signature(layer.call).parameters if isinstance(layer, keras.layers.Layer) else {}
    return "training" in parameters and parameters["training"].default is True


def is_functional(layer: Any) -> bool:
    """Whether it is a model of layers, called as Keras calls them: not one with a `call` of its own."""
    call = getattr(type(layer), "call", None)
    return getattr(call, "__qualname__", "") in ("Functional.call", "Sequential.call")


def call_of(model: keras.Model, layer: keras.layers.Layer) -> tuple[Any, Any]:
    """What a layer takes and returns in a functional model, the last time if it is called several times.

    `layer.input` and `layer.output` are of its first call, which may have been in another model.
    """
    nodes = itertools.chain.from_iterable(nodes for _, nodes in sorted(model._nodes_by_depth.items()))  # last first
    node = next(node for node in nodes if node.operation is layer)
    taken, returned = (
        tensors[0] if len(tensors) == 1 else tensors for tensors in (node.input_tensors, node.output_tensors)
    )
    return taken, returned


def as_functional(model: keras.Model) -> keras.Model:
    """A sequential model as a functional one; others as they are."""
    return keras.Model(model.inputs, model.outputs, name=model.name) if isinstance(model, keras.Sequential) else model


def inlined(model: keras.Model) -> keras.Model:
    """A model with the layers of the models inside it in their place, as if they had been called one by one.

    Args:
        model: A functional or sequential model. It is not changed.

    Returns:
        A copy with weights of its own; the model itself if there is none inside it.

    Raises:
        ValueError: If layers of two models inside it have one name, or one is called with `training=True`.
    """
    if not any(is_functional(layer) for layer in model.layers):
        return model
    copies: dict[int, tuple[keras.layers.Layer, keras.layers.Layer]] = {}

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if is_functional(operation):
            if kwargs.get("training"):
                raise ValueError(
                    f"{model.name} calls the model {operation.name} in it with training=True, which a copy would leave "
                    "out; build it without."
                )
            return run(operation, args[0])
        if not isinstance(operation, keras.layers.Layer):
            return operation(*args, **kwargs)
        if id(operation) not in copies:
            copies[id(operation)] = operation, type(operation).from_config(operation.get_config())
        return copies[id(operation)][1](*args, **kwargs)

    def run(part: keras.Model, inputs: Any) -> Any:
        return as_functional(part)._run_through_graph(inputs, lambda operation: functools.partial(call, operation))

    inputs = keras.tree.map_structure(
        lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name), as_functional(model).input
    )
    copy = keras.Model(inputs, run(model, inputs), name=model.name)
    for layer, its_copy in copies.values():
        its_copy.set_weights(layer.get_weights())
    return copy
