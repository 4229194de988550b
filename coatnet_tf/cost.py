"""What a model costs: parameters, multiply-accumulates and activations, without building it.

A CoAtNet or a baseline is a chain of layers, so a shape is sent through them one after the other; what each kind of
layer adds is one small function below. The layers stay unbuilt: nothing is allocated.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import keras

from coatnet_tf import baselines
from coatnet_tf.config import CoAtNetConfig, require_fields
from coatnet_tf.family import get_config
from coatnet_tf.layers import (
    CentredMaxPooling2D,
    FeedForward,
    LayerScale,
    MBConv,
    RelativePositionBias,
    RelativePositionMLP,
    RelativeSelfAttention,
    SqueezeExcite,
    StochasticDepth,
    TransformerBlock,
)
from coatnet_tf.layers.residual import ResidualBlock
from coatnet_tf.models import DEFAULT_SIZE, check_input_shape, feature_layers, head_layers

Shape = tuple[int, ...]


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
    """

    params: int = 0
    non_trainable_params: int = 0
    macs: int = 0
    index_macs: int = 0
    largest_activation: int = 0
    total_activations: int = 0
    activated: int = 0

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
    model: str | CoAtNetConfig | baselines.BaselineConfig | keras.Model,
    input_shape: tuple[int, int, int] | None = None,
    *,
    include_top: bool | None = None,
    classes: int | None = None,
    **overrides: Any,
) -> CostReport:
    """Counts parameters, multiply-accumulates and activations.

    Args:
        model: A name in `FAMILY` (`"coatnet-0"` .. `"coatnet-7"`), `RELATIVES` or `baselines.FAMILY`, a
            configuration of theirs, or a model that `CoAtNet` or `Baseline` built.
        input_shape: `(height, width, channels)`; `(224, 224, 3)` by default, the model's own for a model.
        include_top: Whether to count the classifier, as by default (configurations only).
        classes: Number of classes of the classifier, 1000 by default (configurations only).
        **overrides: Fields of the configuration to replace (configurations only).

    Returns:
        A `CostReport`. FLOPs in the paper are the multiply-accumulates counted here.

    Raises:
        ValueError: If a name, field or shape is refused, or a model is given together with another shape
            or with overrides.
        TypeError: If a model contains layers that are not known here.

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
        shape = tuple(model.input_shape[1:])
        if input_shape is not None and tuple(input_shape) != shape:
            raise ValueError(
                f"{model.name} was built for {shape}, not {tuple(input_shape)}; profile its configuration instead."
            )
        return _profile_chain(model.name, list(model.layers), shape)
    shape = tuple(input_shape or (DEFAULT_SIZE, DEFAULT_SIZE, 3))
    with_top = include_top or include_top is None
    classes = 1000 if classes is None else classes
    if isinstance(model, str) and model in baselines.FAMILY:
        model = baselines.FAMILY[model]
    if isinstance(model, baselines.BaselineConfig):
        require_fields(overrides, type(model))
        model = dataclasses.replace(model, **overrides)
        model.check_input_shape(shape)
        layers = model.feature_layers(shape)
        layers += model.head_layers(classes, "softmax") if with_top else model.map_layers(shape)
        return _profile_chain(model.name, layers, shape)
    config = get_config(model, **overrides)
    check_input_shape(config, shape)
    layers = feature_layers(config)
    if with_top:
        layers += head_layers(config, classes, "softmax")
    return _profile_chain(config.name, layers, shape)


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
    check_input_shape(config, input_shape)
    return _layer_costs(feature_layers(config) + head_layers(config, classes, "softmax"), input_shape)


def _layer_costs(layers: list[keras.Layer], shape: Shape) -> list[tuple[str, Cost, Shape]]:
    costs = []
    for layer in layers:
        cost, shape = _cost(layer, shape)
        costs.append((layer.name, cost, shape))
    return costs


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


@_cost.register(baselines.ClassToken)
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
    return _tensor(output, params=kernel + bias, macs=output[0] * output[1] * kernel), output


@_cost.register
def _(layer: keras.layers.DepthwiseConv2D, shape: Shape) -> tuple[Cost, Shape]:
    output = _output_shape(layer, shape)
    kernel = math.prod(layer.kernel_size) * output[-1]
    bias = output[-1] if layer.use_bias else 0
    return _tensor(output, params=kernel + bias, macs=output[0] * output[1] * kernel), output


@_cost.register
def _(layer: keras.layers.Dense, shape: Shape) -> tuple[Cost, Shape]:
    output = (*shape[:-1], layer.units)
    kernel = shape[-1] * layer.units
    bias = layer.units if layer.use_bias else 0
    cost = _tensor(output, params=kernel + bias, macs=math.prod(shape[:-1]) * kernel)
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
    return _tensor(output), output


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
    channels = shape[-1]
    gate, _ = _chain([keras.layers.Dense(layer.bottleneck), keras.layers.Dense(channels)], (1, 1, channels))
    activated = _activated(_activated(gate, (layer.bottleneck,)), (channels,))
    return _tensor((channels,)) + activated + _tensor(shape), shape


def _shortcut(layer: ResidualBlock, shape: Shape) -> Cost:
    cost, pooled = _chain([layer.pool], shape) if layer.pool else (Cost(), shape)
    if shape[-1] != layer.filters:
        cost += _cost(keras.layers.Conv2D(layer.filters, 1, use_bias=layer.shortcut_bias), pooled)[0]
    return cost


@_cost.register
def _(layer: MBConv, shape: Shape) -> tuple[Cost, Shape]:
    inner_width = layer.inner_width(shape[-1])
    strides = layer.strides if layer.downsampling == "expand_conv" else 1
    normed, pooled = _chain([layer.pre_norm, *_present(layer.residual_pool)], shape)
    if layer.pre_norm_activation:
        normed = _activated(normed, shape)
    expand = keras.layers.Conv2D(inner_width, 1, strides, use_bias=False)
    expanded, inner = _chain([expand, layer.expand_norm], pooled)
    depthwise = [*_present(layer.depthwise_padding), layer.depthwise_conv, layer.depthwise_norm]
    filtered, output = _chain(depthwise, inner)
    shrunk, result = _chain([SqueezeExcite(layer.se_width(shape[-1])), layer.shrink_conv], output)
    residual = normed + _activated(expanded, inner) + _activated(filtered, output) + shrunk
    return _shortcut(layer, shape) + residual + _tensor(result), result


def _present(layer: Any) -> list[Any]:
    return [] if layer is None else [layer]


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
    height, width, channels = shape
    positions = height * width
    inner = layer.inner_filters(channels)
    heads = inner // layer.head_size
    projection = _cost(keras.layers.Dense(inner, use_bias=layer.use_bias), shape)[0]
    product = positions * positions * inner  # q k^T, and again scores times v
    scores = (heads, positions, positions)
    attended = (height, width, inner)
    cost = projection + projection + projection
    cost += _tensor(scores, macs=product) + _tensor(scores) + _tensor(attended, macs=product)
    if layer.relative:
        cost += _cost(layer.make_bias((height, width), heads), scores)[0]
    out, output = _cost(keras.layers.Dense(layer.filters, use_bias=layer.use_bias), attended)
    return cost + out, output


@_cost.register
def _(layer: FeedForward, shape: Shape) -> tuple[Cost, Shape]:
    width = shape[-1]
    expanded, inner = _cost(keras.layers.Dense(layer.inner_width(width), use_bias=layer.use_bias), shape)
    shrunk, output = _cost(keras.layers.Dense(width, use_bias=layer.use_bias), inner)
    return _activated(expanded, inner) + shrunk, output


@_cost.register
def _(layer: TransformerBlock, shape: Shape) -> tuple[Cost, Shape]:
    branch = [layer.attention_norm, *_present(layer.pool), layer.attention, *_present(layer.attention_scale)]
    attended, output = _chain(branch, shape)
    transformed, output = _chain([layer.ffn_norm, layer.ffn, *_present(layer.ffn_scale)], output)
    additions = _tensor(output) + _tensor(output)
    return _shortcut(layer, shape) + attended + transformed + additions, output


@_cost.register
def _(layer: baselines.TokenEmbedding, shape: Shape) -> tuple[Cost, Shape]:
    output = _output_shape(layer, shape)
    return _tensor(output) + _tensor(output, params=shape[-1] + math.prod(output)), output


@_cost.register
def _(layer: baselines.ScaledStandardizedConv2D, shape: Shape) -> tuple[Cost, Shape]:
    cost, output = _cost.dispatch(keras.layers.Conv2D)(layer, shape)
    return cost + Cost(params=layer.filters), output


@_cost.register
def _(layer: baselines.Bottleneck, shape: Shape) -> tuple[Cost, Shape]:
    reduced, inner = _chain([layer.conv1, layer.norm1], shape)
    filtered, pooled = _chain([layer.conv2, layer.norm2], inner)
    expanded, output = _chain([layer.conv3, layer.norm3], pooled)
    shortcut, _ = _chain([*_present(layer.proj_conv), *_present(layer.proj_norm)], shape)
    branch = _activated(reduced, inner) + _activated(filtered, pooled) + expanded
    return shortcut + branch + _activated(_tensor(output), output), output


@_cost.register
def _(layer: baselines.NFNetBlock, shape: Shape) -> tuple[Cost, Shape]:
    shortcut, _ = _chain([*_present(layer.proj_pool), *_present(layer.proj_conv)], shape)
    reduced, inner = _cost(layer.reduce_conv, shape)
    filtered, pooled = _cost(layer.spatial_conv1, inner)
    again, pooled = _cost(layer.spatial_conv2, pooled)
    expanded, output = _chain([layer.expand_conv, layer.se], pooled)
    branch = _activated(reduced, inner) + _activated(filtered, pooled) + _activated(again, pooled) + expanded
    return _activated(shortcut, shape) + branch + _tensor(output, params=1), output
