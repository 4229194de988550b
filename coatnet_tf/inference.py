"""Folds a trained CoAtNet into the fastest model with the same outputs.

A norm by fixed statistics is a scale and a shift, which the convolution before it, or the 1x1 convolution
behind it, can carry. The network is walked from the image on, and each layer is called again on the folded
output of the one before, as it is or as its cheaper equal.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from coatnet_tf.layers import LayerScale, MBConv, RelativeSelfAttention, StochasticDepth, TransformerBlock, common
from coatnet_tf.layers.folded import ConstantPadding2D, FoldedSelfAttention, PointwiseDense
from coatnet_tf.layers.residual import ResidualBlock

_BLOCKS = (MBConv, TransformerBlock, RelativeSelfAttention)


def fold_for_inference(model: keras.Model) -> keras.Model:
    """Builds the fastest model with the outputs that `model` has outside training.

    - BatchNorm is gone: it becomes part of the convolution before it, and MBConv's first of the 1x1 convolution
      behind it. Where an activation or squeeze-and-excitation stands between (`pre_norm_activation`,
      `se_before_norm`), it stays.
    - LayerNorm's scale and shift become part of the projection behind it. Before the max pool of a down-sampling
      block, and before an activation (`conv_norm="layer_norm"`), they stay: there it would not be exact.
    - `LayerScale` is part of the projection before it.
    - q's scale is in its kernel; q, k and v are one product; the relative bias is stored for every pair of
      positions, which takes `heads * (H * W)**2 * 4` bytes a block.
    - Rescaling becomes part of the first convolution, whose border is then padded with the colour that was
      rescaled to 0; by one number for all channels, that is: by ImageNet's mean and deviation it stays.
    - MBConv's first product and those of the feed-forward networks are `layers.PointwiseDense`: TensorFlow has one
      kernel for a product of matrices, its bias and its GELU.
    - Dropout and stochastic depth are gone.

    Other layers of a functional model around the blocks, such as one's own classifier, are copied.

    Args:
        model: A functional (or sequential) Keras model with blocks of CoAtNet in it. It is not changed.

    Returns:
        A functional model of the same name, inputs and outputs (to rounding), with weights of its own. It can be
        saved, exported and quantised.

    Raises:
        ValueError: If the model is not functional, is folded already or has no block of CoAtNet, is compiled for
            training or calls a layer in training mode, or is quantised.

    Example:
    >>> import numpy as np
    >>> import coatnet_tf
    >>> config = coatnet_tf.make_config("tiny", (2, 1, 1, 1, 1), (8, 16, 16, 32, 32))
    >>> model = coatnet_tf.CoAtNet(config, input_shape=(64, 96, 3), classes=10)
    >>> folded = coatnet_tf.fold_for_inference(model)
    >>> images = np.random.uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    >>> bool(np.allclose(folded(images), model(images), atol=1e-5))
    True
    """
    _refuse(model)
    return _Folding().fold(model)


def _refuse(model: Any) -> None:
    if isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(f"{model.name} is not built; call it on an image once, or give it a keras.Input.")
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        raise ValueError(f"fold_for_inference takes a functional keras.Model, as CoAtNet0() returns; got {model!r}.")
    layers = list(model._flatten_layers(include_self=False))
    if any(isinstance(layer, FoldedSelfAttention | ConstantPadding2D | PointwiseDense) for layer in layers):
        raise ValueError(f"{model.name} is folded already; fold the model it came from, or use it as it is.")
    if not any(isinstance(layer, _BLOCKS) for layer in layers):
        raise ValueError(f"{model.name} has no block of CoAtNet to fold: it is folded already, or another network.")
    if getattr(model, "optimizer", None) is not None:
        raise ValueError(
            f"{model.name} is compiled for training with {type(model.optimizer).__name__}, and a folded copy would "
            "follow no further step. Once it is trained, save it and fold what keras.models.load_model(path, "
            "compile=False) returns."
        )
    for layer in layers:
        if getattr(layer, "quantization_mode", None):
            raise ValueError(f"Layer {layer.name} is quantised; fold the model first, then quantise the folded one.")


@dataclasses.dataclass(frozen=True)
class _Made:
    """How a tensor of the folded model came to be."""

    layer: keras.layers.Layer
    inputs: Any
    source: keras.layers.Layer | None = None  # what the layer is a copy of


class _Folding:
    """One walk through a model."""

    def __init__(self) -> None:
        self._made: dict[int, _Made] = {}
        self._copies: dict[int, keras.layers.Layer] = {}
        self._kept: list[Any] = []  # tensors, so that no id is used twice
        self._uses: collections.Counter[int] = collections.Counter()  # of the tensors of the model
        self._rules: tuple[tuple[type, Callable[..., Any]], ...] = (
            (MBConv, self._mbconv),
            (TransformerBlock, self._transformer),
            (RelativeSelfAttention, self._attention),
            (keras.layers.BatchNormalization, self._batch_norm),
            (keras.layers.Conv2D, self._conv),
            (keras.layers.Dense, self._dense),
            (StochasticDepth, self._nothing),
            (keras.layers.Dropout, self._nothing),
            (keras.Model, self._nested),
        )

    def fold(self, model: keras.Model) -> keras.Model:
        if isinstance(model, keras.Sequential):
            model = keras.Model(model.inputs, model.outputs, name=model.name)
        self._uses.update(id(tensor) for tensor in model.outputs)
        for operation in model.operations:
            with contextlib.suppress(ValueError):  # called several times: its inputs count for none
                self._uses.update(id(tensor) for tensor in keras.tree.flatten(operation.input))
        return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=self._call)

    def _call(self, layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("training"):
            raise ValueError(f"Layer {layer.name} is called with training=True, which has no equal for inference.")
        kwargs = {name: value for name, value in kwargs.items() if name != "training" and value is not None}
        rule = next((rule for kind, rule in self._rules if isinstance(layer, kind)), None)
        if rule is None or kwargs or len(args) != 1:
            return self._copy(layer, *args, **kwargs)
        return rule(layer, args[0])

    def _apply(
        self,
        layer: keras.layers.Layer,
        x: Any,
        weights: list[Any] | None = None,
        source: keras.layers.Layer | None = None,
    ) -> Any:
        """Calls a new layer, and sets its weights."""
        y = layer(x)
        if weights is not None:
            layer.set_weights([np.asarray(weight, "float32") for weight in weights])
        self._made[id(y)] = _Made(layer, x, source)
        self._kept.append(y)
        return y

    def _copy(self, layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            return layer(*args, **kwargs)  # an operation without weights, as `keras.ops.add`
        if id(layer) in self._copies:
            return self._copies[id(layer)](*args, **kwargs)
        copy = self._copies[id(layer)] = type(layer).from_config(layer.get_config())
        y = copy(*args, **kwargs)
        copy.set_weights(layer.get_weights())
        self._made[id(y)] = _Made(copy, args[0] if args else None, layer)
        self._kept.append(y)
        return y

    def _nothing(self, layer: keras.layers.Layer, x: Any) -> Any:
        del layer
        return x

    def _nested(self, model: keras.Model, x: Any) -> Any:
        if id(model) not in self._copies:
            self._copies[id(model)] = _Folding().fold(model)
        return self._copies[id(model)](x)

    def _before(self, x: Any, kind: type) -> _Made | None:
        """How a tensor was made, if by a copied layer of that kind and for this use alone."""
        made = self._made.get(id(x))
        if made is None or made.source is None or not isinstance(made.layer, kind):
            return None
        try:
            return made if self._uses[id(made.source.output)] == 1 else None
        except ValueError:  # called several times
            return None

    def _batch_norm(self, norm: keras.layers.BatchNormalization, x: Any) -> Any:
        made = self._before(x, keras.layers.Conv2D)
        if made is None or not _is_linear(made.layer) or not _is_of_channels(norm):
            return self._copy(norm, x)
        scale, shift = _affine(norm)
        kernel = _numpy(made.layer.kernel) * scale
        bias = (_numpy(made.layer.bias) if made.layer.use_bias else 0.0) * scale + shift
        return self._apply(_like(made.layer, use_bias=True), made.inputs, [kernel, bias])

    def _conv(self, conv: keras.layers.Conv2D, x: Any) -> Any:
        padding, made = self._before(x, keras.layers.ZeroPadding2D), self._before(x, keras.layers.Rescaling)
        if padding is not None:
            made = self._before(padding.inputs, keras.layers.Rescaling)
        if made is None or not _is_plain(conv, made.layer, padded=padding is not None):
            return self._copy(conv, x)
        scale, offset = made.layer.scale, made.layer.offset
        border = padding.layer.padding if padding is not None else _same_border(conv, made.inputs.shape)
        colour = ConstantPadding2D(border, -offset / scale, dtype=conv.dtype_policy, name=f"{conv.name}_padding")
        kernel = _numpy(conv.kernel)
        bias = (_numpy(conv.bias) if conv.use_bias else 0.0) + offset * kernel.sum(axis=(0, 1, 2))
        folded = _like(conv, padding="valid", use_bias=True)
        return self._apply(folded, self._apply(colour, made.inputs), [scale * kernel, bias], conv)

    def _dense(self, dense: keras.layers.Dense, x: Any) -> Any:
        made = self._before(x, keras.layers.LayerNormalization)
        if made is None or not _is_of_channels(made.layer):
            return self._copy(dense, x)
        scale, shift = _affine(made.layer)
        x = self._apply(_without_affine(made.layer), made.inputs)
        return self._apply(_like(dense, use_bias=True), x, _behind(scale, shift, dense))

    def _shortcut(self, block: ResidualBlock, x: Any) -> Any:
        if block.pool is not None:
            x = self._copy(block.pool, x)
        return x if block.proj is None else self._copy(block.proj, x)

    def _mbconv(self, block: MBConv, inputs: Any) -> Any:
        is_batch_norm = block.norm != "layer_norm"
        act = common.get_activation(block.activation)
        scale: Any
        shift: Any
        scale, shift = _affine(block.pre_norm)
        if block.pre_norm_activation:  # the norm is in nobody's reach
            x = self._activate(block, "pre", act, self._copy(block.pre_norm, inputs))
            scale, shift = np.ones_like(scale), np.zeros_like(shift)
        else:
            x = inputs if is_batch_norm else self._apply(_without_affine(block.pre_norm), inputs)
        if block.residual_pool is not None:  # an average of what is scaled and shifted is scaled and shifted
            x = self._copy(block.residual_pool, x)
        kernel, bias = _behind(scale, shift, block.expand_conv)
        if is_batch_norm:
            scale, shift = _affine(block.expand_norm)
            x = self._expand(block, x, kernel * scale, bias * scale + shift, act)
        else:
            x = self._activate(
                block, "expand", act, self._copy(block.expand_norm, self._expand(block, x, kernel, bias))
            )
        if block.depthwise_padding is not None:
            x = self._copy(block.depthwise_padding, x)
        if is_batch_norm and not block.se_before_norm:
            scale, shift = _affine(block.depthwise_norm)
            depthwise = _like(block.depthwise_conv, use_bias=True)
            x = self._apply(depthwise, x, [_numpy(block.depthwise_conv.kernel) * scale[:, None], shift])
        else:
            x = self._copy(block.depthwise_conv, x)
            x = self._copy(block.depthwise_norm, self._copy(block.se, x) if block.se_before_norm else x)
        x = self._activate(block, "depthwise", act, x)
        x = self._copy(block.shrink_conv, x if block.se_before_norm else self._copy(block.se, x))
        return self._add(f"{block.name}_add", self._shortcut(block, inputs), x, block)

    def _transformer(self, block: TransformerBlock, inputs: Any) -> Any:
        norm = block.attention_norm
        scale: Any
        shift: Any
        # An average of what is scaled and shifted is scaled and shifted; the largest is not.
        if block.pool is None or block.pool_type == "avg":
            scale, shift = _affine(norm)
            x = self._without_affine(norm, inputs)
            x = x if block.pool is None else self._copy(block.pool, x)
        else:
            scale, shift = 1.0, 0.0
            x = self._copy(block.pool, self._copy(norm, inputs))
        x = self._attention(block.attention, x, scale, shift, _scale_of(block.attention_scale))
        x = self._add(f"{block.name}_attention_add", self._shortcut(block, inputs), x, block)

        residual = self._without_affine(block.ffn_norm, x)
        expand = PointwiseDense(
            block.ffn.expand.units,
            activation=common.get_activation(block.ffn.activation),
            dtype=block.dtype_policy,
            name=f"{block.ffn.name}_expand",
        )
        residual = self._apply(expand, residual, _behind(*_affine(block.ffn_norm), block.ffn.expand))
        shrink = PointwiseDense(block.ffn.shrink.units, dtype=block.dtype_policy, name=f"{block.ffn.name}_shrink")
        residual = self._apply(shrink, residual, _before_scale(block.ffn.shrink, _scale_of(block.ffn_scale)))
        return self._add(f"{block.name}_ffn_add", x, residual, block)

    def _without_affine(self, norm: keras.layers.Layer, x: Any) -> Any:
        """What is left of a norm whose scale and shift went into the layer behind it: nothing of a BatchNorm."""
        return x if isinstance(norm, keras.layers.BatchNormalization) else self._apply(_without_affine(norm), x)

    def _attention(
        self, source: RelativeSelfAttention, x: Any, scale: Any = 1.0, shift: Any = 0.0, layer_scale: Any = 1.0
    ) -> Any:
        """Attention with scale and shift of the norm before it, and the `LayerScale` behind it."""
        scale, shift = (np.broadcast_to(value, x.shape[-1]) for value in (scale, shift))
        query, key, value = (_behind(scale, shift, dense) for dense in (source.query, source.key, source.value))
        query = [weight * source.head_size**-0.5 for weight in query]
        folded = FoldedSelfAttention(
            source.filters,
            source.head_size,
            source.relative,
            source.inner_width,
            dtype=source.dtype_policy,
            name=source.name,
        )
        y = self._apply(folded, x)
        kernels, biases = zip(query, key, value, strict=True)
        for variable, parts in ((folded.qkv.kernel, kernels), (folded.qkv.bias, biases)):
            variable.assign(np.concatenate(parts, axis=-1))
        for variable, weight in zip(folded.out.weights, _before_scale(source.out, layer_scale), strict=True):
            variable.assign(weight)
        if source.relative_bias is not None:
            folded.bias.assign(source.relative_bias.bias())
        return y

    def _expand(self, block: MBConv, x: Any, kernel: np.ndarray, bias: np.ndarray, activation: Any = None) -> Any:
        """MBConv's first convolution with other weights, as a dense layer of every `strides`-th position."""
        conv = block.expand_conv
        if conv.strides != (1, 1):
            name = f"{block.name}_subsample"
            x = keras.layers.MaxPooling2D(1, conv.strides, padding="same", dtype=conv.dtype_policy, name=name)(x)
        dense = PointwiseDense(conv.filters, activation=activation, dtype=conv.dtype_policy, name=conv.name)
        return self._apply(dense, x, [kernel[0, 0], bias])

    def _activate(self, block: MBConv, name: str, activation: Callable[[Any], Any], x: Any) -> Any:
        return self._apply(
            keras.layers.Activation(activation, dtype=block.dtype_policy, name=f"{block.name}_{name}_act"), x
        )

    def _add(self, name: str, x: Any, y: Any, block: ResidualBlock) -> Any:
        return keras.layers.Add(dtype=block.dtype_policy, name=name)([x, y])


def _numpy(value: Any) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(value, "float32")).astype("float64")


def _affine(norm: keras.layers.Layer) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of a norm by fixed statistics (BatchNorm), or behind its statistics (LayerNorm)."""
    scale, shift = _numpy(norm.gamma), _numpy(norm.beta)
    if isinstance(norm, keras.layers.BatchNormalization):
        scale = scale / np.sqrt(_numpy(norm.moving_variance) + norm.epsilon)
        shift = shift - scale * _numpy(norm.moving_mean)
    return scale, shift


def _behind(scale: np.ndarray, shift: np.ndarray, layer: keras.layers.Layer) -> list[np.ndarray]:
    """Kernel and bias of a dense layer or 1x1 convolution with the scale and shift before it in them."""
    kernel = _numpy(layer.kernel)
    bias = _numpy(layer.bias) if layer.use_bias else 0.0
    return [scale[:, None] * kernel, bias + shift @ kernel.reshape(kernel.shape[-2:])]


def _before_scale(layer: keras.layers.Dense, scale: Any) -> list[np.ndarray]:
    """Kernel and bias of a dense layer with a scale of its outputs in them."""
    kernel = _numpy(layer.kernel) * scale
    return [kernel, (_numpy(layer.bias) if layer.use_bias else np.zeros(kernel.shape[-1])) * scale]


def _scale_of(layer: LayerScale | None) -> Any:
    return 1.0 if layer is None else _numpy(layer.gamma)


def _like(layer: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
    """A new layer with other arguments, without weights yet."""
    config = {**layer.get_config(), **changes}
    config.pop("lora_rank", None)  # the kernel that is read has it in it
    return type(layer).from_config(config)


def _without_affine(norm: keras.layers.LayerNormalization) -> keras.layers.Layer:
    return _like(norm, scale=False, center=False)


def _is_of_channels(norm: keras.layers.Layer) -> bool:
    """Whether it is a norm over the last axis, with scale and shift."""
    return norm.scale and norm.center and common.is_of_channels(norm)


def _is_linear(conv: keras.layers.Conv2D) -> bool:
    return conv.activation is keras.activations.linear and conv.data_format == "channels_last"


def _is_plain(conv: keras.layers.Conv2D, rescaling: keras.layers.Rescaling, padded: bool) -> bool:
    """Whether the rescaling is one for all channels, and zeros alone are the border of the convolution."""
    one = all(isinstance(value, int | float) for value in (rescaling.scale, rescaling.offset))
    bordered = conv.padding == ("valid" if padded else "same") and conv.data_format == "channels_last"
    return one and bordered and conv.groups == 1 and conv.dilation_rate == (1, 1)


def _same_border(conv: keras.layers.Conv2D, shape: tuple[Any, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """What "same" pads above and below, left and right of images."""
    border = []
    for size, kernel_size, stride in zip(shape[1:3], conv.kernel_size, conv.strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
        border.append((total // 2, total - total // 2))
    return border[0], border[1]
