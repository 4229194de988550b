"""What a model costs: parameters, multiply-accumulates and activations, without building it.

A CoAtNet or a baseline is a chain of layers, so a shape is sent through them one after the other; what each kind of
layer adds is one small function below. The layers stay unbuilt: nothing is allocated.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any

import keras

from coatnet_tf import rivals
from coatnet_tf.builder import DEFAULT_SIZE
from coatnet_tf.config import CoAtNetConfig
from coatnet_tf.family import get_config
from coatnet_tf.graph import as_functional, call_of, is_functional
from coatnet_tf.layers import (
    CentredMaxPooling2D,
    FeedForward,
    LayerScale,
    RelativePositionBias,
    RelativePositionMLP,
    RelativeSelfAttention,
    ResidualBlock,
    SqueezeExcite,
    StochasticDepth,
)
from coatnet_tf.layers.options import PositiveInt, Shape, check, replace
from coatnet_tf.network import Network


@dataclasses.dataclass(frozen=True)
class Cost:
    """Costs of a part of a model for one image.

    Args:
        params: Trainable parameters.
        non_trainable_params: Parameters that no gradient reaches (BatchNorm's moving statistics).
        macs: Multiply-accumulates of convolutions, dense layers and attention products.
        index_macs: Multiply-accumulates of re-indexing the bias tables with einsums; once a batch,
            and not in `macs`.
        largest_activation: Elements of the largest tensor that a layer or an activation function returns.
        total_activations: Elements of all of them together.
        activated: Elements that an activation function returns; they are part of `total_activations`.
        kept: Elements that the backward pass needs if what is element-wise is computed again, as XLA does: outputs of
            convolutions, products and pools, and sums of branches; part of `total_activations`.
    """

    params: int = 0
    non_trainable_params: int = 0
    macs: int = 0
    index_macs: int = 0
    largest_activation: int = 0
    total_activations: int = 0
    activated: int = 0
    kept: int = 0

    def __add__(self, other: Cost) -> Cost:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(Cost)}
        sums["largest_activation"] = max(self.largest_activation, other.largest_activation)
        return Cost(**sums)


@dataclasses.dataclass(frozen=True)
class CostReport(Cost):
    """Costs of a whole model, with those of its stages; `str()` of it is a table.

    Args:
        name: Model name.
        input_shape: `(height, width, channels)`.
        stages: Cost of each stage by its name (`"stem"`, `"s1"`, ..., `"head"`), in order.
    """

    name: str = ""
    input_shape: Shape = ()
    stages: dict[str, Cost] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        size = " x ".join(map(str, self.input_shape))
        lines = [
            f"{self.name} at {size}, for one image",
            f"{'stage':<8}{'parameters':>15}{'not trained':>13}{'MACs':>19}{'index MACs':>18}"
            f"{'largest act.':>14}{'activations':>14}",
        ]
        for name, cost in [*self.stages.items(), ("total", self)]:
            lines.append(
                f"{name:<8}{cost.params:>15,}{cost.non_trainable_params:>13,}{cost.macs:>19,}"
                f"{cost.index_macs:>18,}{cost.largest_activation:>14,}{cost.total_activations:>14,}"
            )
        return "\n".join(lines)


def profile(
    model: str | Network | keras.Model,
    input_shape: tuple[int, int, int] | None = None,
    *,
    include_top: bool | None = None,
    classes: int | None = None,
    **overrides: Any,
) -> CostReport:
    """Counts parameters, multiply-accumulates and activations.

    Args:
        model: A name in `FAMILY` (`"coatnet-0"` .. `"coatnet-7"`), `RELATIVES` or `rivals.RIVALS`, a
            configuration of theirs, or a model that `CoAtNet` or a factory built.
        input_shape: `(height, width, channels)`; `(224, 224, 3)` by default, the model's own for a model.
        include_top: Whether to count the classifier, as by default (configurations only).
        classes: Number of classes of the classifier, 1000 by default (configurations only).
        **overrides: Fields of the configuration to replace (configurations only).

    Returns:
        A `CostReport`. FLOPs in the paper are the multiply-accumulates counted here.

    Raises:
        ValueError: If a name, field or shape is refused, or a model is given together with another shape
            or with overrides.
        TypeError: If a model contains layers that are not known here, or branches outside of blocks.

    Example:
    >>> import coatnet_tf
    >>> report = coatnet_tf.profile("coatnet-3", (384, 384, 3), downsampling="depthwise_conv")
    >>> f"{report.params / 1e6:.1f} M parameters, {report.macs / 1e9:.1f} B MACs"
    '167.5 M parameters, 111.9 B MACs'
    """
    if isinstance(model, keras.Model):
        options = {"include_top": include_top, "classes": classes, **overrides}
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise ValueError(f"A built model cannot be changed; leave out {', '.join(given)}.")
        _check_is_chain(model)
        shape = tuple(model.input_shape[1:])
        if input_shape is not None and tuple(input_shape) != shape:
            raise ValueError(
                f"{model.name} was built for {shape}, not {tuple(input_shape)}; profile its configuration instead."
            )
        return _profile_chain(model.name, list(model.layers), shape)
    config = _find(model, overrides)
    config.check_input_shape((DEFAULT_SIZE, DEFAULT_SIZE, 3) if input_shape is None else input_shape)
    shape = (DEFAULT_SIZE, DEFAULT_SIZE, 3) if input_shape is None else tuple(map(int, input_shape))
    layers = config.feature_layers(shape)
    if include_top or include_top is None:
        check("classes", classes, PositiveInt | None)
        layers += config.head_layers(1000 if classes is None else int(classes), "softmax")
    else:
        layers += config.map_layers(shape)
    return _profile_chain(config.name, layers, shape)


def _find(model: str | Network, overrides: dict[str, Any]) -> Network:
    """The configuration of a name, or the one given, with fields replaced."""
    if isinstance(model, str) and model in rivals.RIVALS:
        model = rivals.RIVALS[model]
    if isinstance(model, str | CoAtNetConfig):
        return get_config(model, **overrides)
    return replace(model, **overrides)  # type: ignore[type-var]


def profile_layers(
    config: CoAtNetConfig, input_shape: tuple[int, int, int], classes: int = 1000
) -> list[tuple[str, Cost, Shape]]:
    """Costs of a configuration layer by layer, a block being one layer.

    Args:
        config: The configuration.
        input_shape: `(height, width, channels)`.
        classes: Number of classes.

    Returns:
        Name, cost and shape of the output of each layer, in order.

    Raises:
        ValueError: If the input cannot be halved by every stage.
    """
    config.check_input_shape(input_shape)
    return _layer_costs(config.feature_layers(input_shape) + config.head_layers(classes, "softmax"), input_shape)


def _layer_costs(layers: list[keras.Layer], shape: Shape) -> list[tuple[str, Cost, Shape]]:
    costs = []
    for layer in layers:
        cost, shape = _cost(layer, shape)
        costs.append((layer.name, cost, shape))
    return costs


def _check_is_chain(model: keras.Model) -> None:
    """Refuses a model whose layers are not called one behind the other, as they are counted."""
    if not (is_functional(model) and model.built):
        raise TypeError(f"profile counts functional models, and sequential ones that are built; got {model!r}.")
    view = as_functional(model)
    for before, layer in itertools.pairwise(model.layers):
        if call_of(view, layer)[0] is not call_of(view, before)[1]:
            raise TypeError(f"profile counts a chain of layers, and {layer.name} is not behind {before.name}.")
    if len(model.outputs) != 1:
        raise TypeError(f"profile counts models of one output; {model.name} has {len(model.outputs)}.")


def _profile_chain(name: str, layers: list[keras.Layer], input_shape: Shape) -> CostReport:
    stages: dict[str, Cost] = {}
    for layer_name, cost, _ in _layer_costs(layers, input_shape):
        stage = "head" if layer_name == "predictions" else layer_name.split("_")[0]
        if cost.total_activations or cost.params:
            stages[stage] = stages.get(stage, Cost()) + cost
    total = sum(stages.values(), Cost())
    return CostReport(**dataclasses.asdict(total), name=name, input_shape=input_shape, stages=stages)


# Each function takes a layer, built or not, and the shape of one input `(height, width, channels)`, and
# returns its cost and the shape of its output.


@functools.singledispatch
def _cost(layer: Any, shape: Shape) -> tuple[Cost, Shape]:
    raise TypeError(f"profile does not know what layer {layer.name!r} ({type(layer).__name__}) costs.")


def _tensor(shape: Shape, **counts: int) -> Cost:
    """Cost with one activation of this shape."""
    size = math.prod(shape)
    return Cost(largest_activation=size, total_activations=size, **counts)


def _kept(shape: Shape, **counts: int) -> Cost:
    """Cost with one activation of this shape, which the backward pass needs."""
    return _tensor(shape, kept=math.prod(shape), **counts)


def _output_shape(layer: Any, shape: Shape) -> Shape:
    return tuple(layer.compute_output_shape((None, *shape))[1:])


def _chain(layers: list[Any], shape: Shape) -> tuple[Cost, Shape]:
    total = Cost()
    for layer in layers:
        cost, shape = _cost(layer, shape)
        total += cost
    return total, shape


def _activated(cost: Cost, shape: Shape) -> Cost:
    """Adds the output of an activation function."""
    return cost + _tensor(shape, activated=math.prod(shape))


@_cost.register(rivals.ClassToken)
@_cost.register(keras.layers.Cropping2D)
@_cost.register(keras.layers.Reshape)
def _(layer: Any, shape: Shape) -> tuple[Cost, Shape]:
    return Cost(), _output_shape(layer, shape)


@_cost.register(keras.layers.InputLayer)
@_cost.register(keras.layers.Rescaling)
@_cost.register(StochasticDepth)
@_cost.register(keras.layers.Dropout)
def _(layer: Any, shape: Shape) -> tuple[Cost, Shape]:
    return Cost(), shape


@_cost.register
def _(layer: keras.layers.Activation, shape: Shape) -> tuple[Cost, Shape]:
    return _activated(Cost(), shape), shape


@_cost.register
def _(layer: keras.layers.Conv2D, shape: Shape) -> tuple[Cost, Shape]:
    output = _output_shape(layer, shape)
    kernel = math.prod(layer.kernel_size) * shape[-1] // layer.groups * layer.filters
    bias = layer.filters if layer.use_bias else 0
    return _kept(output, params=kernel + bias, macs=output[0] * output[1] * kernel), output


@_cost.register
def _(layer: keras.layers.DepthwiseConv2D, shape: Shape) -> tuple[Cost, Shape]:
    output = _output_shape(layer, shape)
    kernel = math.prod(layer.kernel_size) * output[-1]
    bias = output[-1] if layer.use_bias else 0
    return _kept(output, params=kernel + bias, macs=output[0] * output[1] * kernel), output


@_cost.register
def _(layer: keras.layers.Dense, shape: Shape) -> tuple[Cost, Shape]:
    output = (*shape[:-1], layer.units)
    kernel = shape[-1] * layer.units
    bias = layer.units if layer.use_bias else 0
    cost = _kept(output, params=kernel + bias, macs=math.prod(shape[:-1]) * kernel)
    return (cost if layer.activation is keras.activations.linear else _activated(cost, output)), output


@_cost.register
def _(layer: keras.layers.BatchNormalization, shape: Shape) -> tuple[Cost, Shape]:
    return _tensor(shape, params=2 * shape[-1], non_trainable_params=2 * shape[-1]), shape


@_cost.register(keras.layers.GroupNormalization)
@_cost.register(keras.layers.LayerNormalization)
def _(layer: Any, shape: Shape) -> tuple[Cost, Shape]:
    return _tensor(shape, params=2 * shape[-1]), shape


@_cost.register(keras.layers.MaxPooling2D)
@_cost.register(keras.layers.AveragePooling2D)
@_cost.register(keras.layers.ZeroPadding2D)
@_cost.register(CentredMaxPooling2D)
def _(layer: Any, shape: Shape) -> tuple[Cost, Shape]:
    output = _output_shape(layer, shape)
    return _kept(output), output


@_cost.register
def _(layer: LayerScale, shape: Shape) -> tuple[Cost, Shape]:
    return _tensor(shape, params=shape[-1]), shape


@_cost.register(keras.layers.GlobalAveragePooling2D)
@_cost.register(keras.layers.GlobalMaxPooling2D)
def _(layer: Any, shape: Shape) -> tuple[Cost, Shape]:
    output = (1, 1, shape[-1]) if layer.keepdims else shape[-1:]
    return _tensor(output), output


@_cost.register
def _(layer: SqueezeExcite, shape: Shape) -> tuple[Cost, Shape]:
    _prepare(layer, shape)
    return _chain(layer.gate(), shape)[0] + _tensor(shape), shape


def _prepare(layer: Any, shape: Shape) -> None:
    """Makes the layers of a layer that is not built, without their weights."""
    if not layer.built:
        layer.prepare((None, *shape))


@_cost.register
def _(layer: ResidualBlock, shape: Shape) -> tuple[Cost, Shape]:
    _prepare(layer, shape)
    total = dataclasses.replace(
        _chain(layer.shortcut(), shape)[0], kept=0
    )  # the sum is, which a branch's end stands for
    x = shape
    for branch in layer.branches():
        cost, x = _chain(branch, x)
        total += cost + _tensor(x)
    return total, x


@_cost.register
def _(layer: RelativePositionBias, shape: Shape) -> tuple[Cost, Shape]:
    height, width = layer.grid
    rows, columns = 2 * height - 1, 2 * width - 1
    per_head = height**2 * rows * columns + height**2 * width**2 * columns
    table = Cost(params=layer.num_heads * rows * columns)
    if isinstance(layer, RelativePositionMLP):
        table = _chain([layer.hidden, layer.out], (rows, columns, 2))[0]
    return table + Cost(index_macs=layer.num_heads * per_head) + _tensor(shape), shape


@_cost.register
def _(layer: RelativeSelfAttention, shape: Shape) -> tuple[Cost, Shape]:
    _prepare(layer, shape)
    height, width, _ = shape
    positions = height * width
    scores = (layer.num_heads, positions, positions)
    projected = [_chain(layers, shape) for layers in layer.projections()]
    attended = projected[-1][1]
    product = positions * math.prod(attended)  # q k^T, and again scores times v
    cost = sum((of_one for of_one, _ in projected), _kept(scores, macs=product))
    if layer.relative_bias is not None:
        cost += _cost(layer.relative_bias, scores)[0]
    out, output = _cost(layer.out, attended)
    return cost + _tensor(scores) + _kept(attended, macs=product) + out, output


@_cost.register
def _(layer: FeedForward, shape: Shape) -> tuple[Cost, Shape]:
    _prepare(layer, shape)
    return _chain(layer.layers(), shape)


@_cost.register
def _(layer: rivals.TokenEmbedding, shape: Shape) -> tuple[Cost, Shape]:
    output = _output_shape(layer, shape)
    return _tensor(output) + _kept(output, params=shape[-1] + math.prod(output)), output


@_cost.register
def _(layer: rivals.ScaledStandardizedConv2D, shape: Shape) -> tuple[Cost, Shape]:
    cost, output = _cost.dispatch(keras.layers.Conv2D)(layer, shape)
    return cost + Cost(params=layer.filters), output


@_cost.register
def _(layer: rivals.Bottleneck, shape: Shape) -> tuple[Cost, Shape]:
    cost, output = _cost.dispatch(ResidualBlock)(layer, shape)
    return _activated(cost, output), output


@_cost.register
def _(layer: rivals.NFNetBlock, shape: Shape) -> tuple[Cost, Shape]:
    _prepare(layer, shape)
    shortcut, _ = _chain(layer.shortcut(), shape)
    branch, output = _chain(layer.branches()[0], shape)
    return _activated(shortcut, shape) + branch + _tensor(output, params=1), output
