"""A folded model whose images have their channels first, as ONNX Runtime and OpenVINO compute them.

Exporters put a transposition before and behind each convolution of images with channels last, and cannot take all of
them away again: they stay around residual sums, and come between the operations of GELU. Here the network is walked
from the image on, and what has an equal for channels first is replaced by it: convolutions always, other layers if
their inputs are there with channels first.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from coatnet_tf.layers import SqueezeExcite, common

_FIRST = {"data_format": "channels_first"}
_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
_OF_SPACE = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D, keras.layers.ZeroPadding2D)
_ELEMENT_WISE = (keras.layers.Activation, keras.layers.Add)
_ACTIVATIONS = ("linear", "gelu", "silu", "relu", "sigmoid", "tanh")  # of each value alone, as softmax is not


def channels_first(model: keras.Model) -> keras.Model:
    """The same function of the same images, `[batch, H, W, C]`, with channels first inside, for exporting.

    TensorFlow's own kernels for CPUs lack convolutions with channels first.

    Args:
        model: What `coatnet_tf.fold_for_inference` returned.

    Returns:
        A functional model that shares the layers without an equal with `model`.
    """
    walk = _Walk()
    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=walk.call)


class _Walk:
    """One walk through a model, whose tensors have channels last; what is known of them is kept here."""

    def __init__(self) -> None:
        self._first: dict[int, Any] = {}  # by the id of a tensor: the same with channels first
        self._kept: list[Any] = []  # tensors, so that no id is used twice
        self._equals: dict[int, keras.layers.Layer] = {}

    def call(self, layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        inputs = keras.tree.flatten(args)
        self._kept += inputs
        known = all(id(x) in self._first for x in inputs)
        if kwargs or not _is_of_values_or_channels(layer) or not (known or isinstance(layer, _CONVOLUTIONS)):
            return layer(*args, **kwargs)
        first = [self._channels_first(x) for x in inputs]
        y = self._equal(layer, *first)
        return layer(*args) if y is None else self._channels_last(y)

    def _channels_first(self, x: Any) -> Any:
        if id(x) not in self._first:
            self._first[id(x)] = keras.layers.Permute((3, 1, 2))(x)
        return self._first[id(x)]

    def _channels_last(self, x: Any) -> Any:
        _, channels, height, width = x.shape
        # Of matrices: transposed images would be drawn through the layers that follow.
        y = keras.layers.Permute((2, 1))(keras.layers.Reshape((channels, height * width))(x))
        y = keras.layers.Reshape((height, width, channels))(y)
        self._first[id(y)] = x
        self._kept.append(y)
        return y

    def _equal(self, layer: keras.layers.Layer, *first: Any) -> Any:
        """What the layer returns, with channels first; `None` if it has no equal."""
        if isinstance(layer, SqueezeExcite):
            return self._squeeze_excite(layer, *first)
        if isinstance(layer, _CONVOLUTIONS):
            return self._apply(layer, _FIRST, layer.get_weights(), *first)
        if isinstance(layer, keras.layers.Dense):
            return self._pointwise(layer, *first)
        if isinstance(layer, _OF_SPACE):
            return self._apply(layer, _FIRST, None, *first)
        if isinstance(layer, keras.layers.BatchNormalization):
            return self._apply(layer, {"axis": 1}, layer.get_weights(), *first)
        if isinstance(layer, _ELEMENT_WISE):
            return self._apply(layer, {}, None, *first)
        return None

    def _apply(self, layer: keras.layers.Layer, changes: dict[str, Any], weights: Any, *first: Any) -> Any:
        """Calls the equal of a layer, which is made once."""
        equal = self._equals.get(id(layer))
        if equal is None:
            config = {**layer.get_config(), **changes, "name": f"{layer.name}_channels_first"}
            equal = self._equals[id(layer)] = type(layer).from_config(config)
        y = equal(first if len(first) > 1 else first[0])
        if weights is not None:
            equal.set_weights(weights)
        return y

    def _pointwise(self, dense: keras.layers.Dense, x: Any, name: str = "") -> Any:
        conv = self._equals.get(id(dense))
        if conv is None:
            conv = as_convolution(dense, "channels_first", f"{name or dense.name}_channels_first")
            self._equals[id(dense)] = conv
        return conv(x)

    def _squeeze_excite(self, layer: SqueezeExcite, x: Any) -> Any:
        if layer.reduce.quantization_mode:
            return None
        gate = keras.layers.GlobalAveragePooling2D(**_FIRST, keepdims=True, dtype=layer.dtype_policy)(x)
        for dense in (layer.reduce, layer.expand):
            gate = self._pointwise(dense, gate, f"{layer.name}_{dense.name}")
        return keras.layers.Multiply(dtype=layer.dtype_policy)([x, gate])


def as_convolution(dense: keras.layers.Dense, data_format: str, name: str) -> keras.layers.Conv2D:
    """A dense layer over the channels of images as a 1x1 convolution, with its weights."""
    kernel, *bias = dense.get_weights()
    conv = keras.layers.Conv2D(
        dense.units,
        1,
        activation=dense.activation,
        use_bias=dense.use_bias,
        data_format=data_format,
        dtype=dense.dtype_policy,
        name=name,
    )
    channels = len(kernel)
    conv.build((None, None, None, channels) if data_format == "channels_last" else (None, channels, None, None))
    conv.set_weights([np.reshape(kernel, (1, 1, *kernel.shape)), *bias])
    return conv


def _is_of_values_or_channels(layer: keras.layers.Layer) -> bool:
    """Whether the layer's last axis, if it has one, is that of channels, and its weights are numbers as they are."""
    activations = [common.gelu, *(keras.activations.get(name) for name in _ACTIVATIONS)]
    return (
        not getattr(layer, "quantization_mode", None)
        and (isinstance(layer, SqueezeExcite) or getattr(layer, "activation", None) in [None, *activations])
        and getattr(layer, "data_format", "channels_last") == "channels_last"
        and getattr(layer, "axis", -1) in (-1, 3)
    )
