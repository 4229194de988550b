"""A folded model whose images have their channels first, as ONNX Runtime and OpenVINO compute them.

Exporters put a transposition before and behind each convolution of images with channels last, and cannot take all of
them away again: they stay around residual sums, and come between the operations of GELU. Here the network is walked
from the image on, and what has an equal for channels first is replaced by it: convolutions always, other layers if
their inputs are there with channels first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from coatnet_tf.graph import OfTensors, Rewrite
from coatnet_tf.layers import PointwiseDense, SqueezeExcite, common

_FIRST: dict[str, Any] = {"data_format": "channels_first"}
_OF_SPACE = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D, keras.layers.ZeroPadding2D)
_ELEMENT_WISE = (keras.layers.Activation, keras.layers.Add)
_DENSE = (keras.layers.Dense, PointwiseDense)
_ACTIVATIONS = ("linear", "gelu", "silu", "relu", "sigmoid", "tanh")  # of each value alone, as softmax is not


class _Conv2D(keras.layers.Conv2D):
    """A convolution with channels first, whose bias is added to the channels whatever the width.

    Keras' TensorFlow backend takes a sum with a bias for one over the last axis if that has as many positions as the
    bias has numbers: images as wide as they have channels would get it along the width.
    """

    def call(self, inputs: Any) -> Any:
        return _finished(self, self.convolution_op(inputs, self.kernel))


class _DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Likewise."""

    def call(self, inputs: Any) -> Any:
        outputs = ops.depthwise_conv(
            inputs, self.kernel, self.strides, self.padding, self.data_format, self.dilation_rate
        )
        return _finished(self, outputs)


def _finished(layer: Any, x: Any) -> Any:
    if layer.use_bias:
        x = ops.add(ops.reshape(layer.bias, (1, -1, 1, 1)), x)  # in this order it is no bias for the backend
    return x if layer.activation is None else layer.activation(x)


_CONVOLUTIONS = {keras.layers.Conv2D: _Conv2D, keras.layers.DepthwiseConv2D: _DepthwiseConv2D}


def channels_first(model: keras.Model) -> keras.Model:
    """The same function of the same images, `[batch, H, W, C]`, with channels first inside, for exporting.

    TensorFlow's own kernels for CPUs lack convolutions with channels first.

    Args:
        model: What `coatnet_tf.fold_for_inference` returned.

    Returns:
        A functional model that shares the layers without an equal with `model`.
    """
    return _ChannelsFirst().run(model)


class _ChannelsFirst(Rewrite):
    """Keeps of each tensor, whose channels are last, what is known of it with channels first."""

    def __init__(self) -> None:
        super().__init__()
        self._first: OfTensors[Any] = OfTensors()
        self._equals: dict[type, Callable[..., Any]] = {
            SqueezeExcite: self._squeeze_excite,
            keras.layers.BatchNormalization: self._batch_norm,
            **dict.fromkeys(_CONVOLUTIONS, self._convolution),
            **dict.fromkeys(_DENSE, self._pointwise),
            **dict.fromkeys(_OF_SPACE, self._of_space),
            **dict.fromkeys(_ELEMENT_WISE, self._element_wise),
        }

    def apply(self, layer: Any, x: Any) -> Any:
        inputs = keras.tree.flatten(x)
        known = all(tensor in self._first for tensor in inputs) or type(layer) in _CONVOLUTIONS
        equal = self._equals.get(type(layer))
        if equal is None or not known or not _is_of_values_or_channels(layer):
            return super().apply(layer, x)
        return self._channels_last(equal(layer, *map(self._channels_first, inputs)))

    def _channels_first(self, x: Any) -> Any:
        if x not in self._first:
            self._first[x] = keras.layers.Permute((3, 1, 2))(x)
        return self._first[x]

    def _channels_last(self, x: Any) -> Any:
        _, channels, height, width = x.shape
        # Of matrices: transposed images would be drawn through the layers that follow.
        y = keras.layers.Permute((2, 1))(keras.layers.Reshape((channels, height * width))(x))
        y = keras.layers.Reshape((height, width, channels))(y)
        self._first[y] = x
        return y

    def _convolution(self, layer: keras.layers.Layer, x: Any) -> Any:
        kind = _CONVOLUTIONS[type(layer)]
        return self.made(id(layer), lambda: _like(layer, kind, **_FIRST), x, layer.get_weights)

    def _batch_norm(self, layer: keras.layers.BatchNormalization, x: Any) -> Any:
        return self.made(id(layer), lambda: _like(layer, axis=1), x, layer.get_weights)

    def _of_space(self, layer: keras.layers.Layer, x: Any) -> Any:
        return self.layer(id(layer), lambda: _like(layer, **_FIRST))(x)

    def _element_wise(self, layer: keras.layers.Layer, *x: Any) -> Any:
        return self.layer(id(layer), lambda: _like(layer))(list(x) if len(x) > 1 else x[0])

    def _pointwise(self, dense: keras.layers.Dense, x: Any, name: str = "") -> Any:
        name = f"{name or dense.name}_channels_first"
        return self.layer(id(dense), lambda: as_convolution(dense, "channels_first", name))(x)

    def _squeeze_excite(self, layer: SqueezeExcite, x: Any) -> Any:
        gate = keras.layers.GlobalAveragePooling2D(**_FIRST, keepdims=True, dtype=layer.dtype_policy)(x)
        for dense in (layer.reduce, layer.expand):
            gate = self._pointwise(dense, gate, f"{layer.name}_{dense.name}")
        return keras.layers.Multiply(dtype=layer.dtype_policy)([x, gate])


def _like(
    layer: keras.layers.Layer, kind: type[keras.layers.Layer] | None = None, **changes: Any
) -> keras.layers.Layer:
    config = {**layer.get_config(), **changes, "name": f"{layer.name}_channels_first"}
    return (kind or type(layer)).from_config(config)


def as_convolution(dense: keras.layers.Dense, data_format: str, name: str) -> keras.layers.Conv2D:
    """A dense layer over the channels of images as a 1x1 convolution, with its weights."""
    kernel, *bias = dense.get_weights()
    conv = (_Conv2D if data_format == "channels_first" else keras.layers.Conv2D)(
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
    if type(layer) is SqueezeExcite:
        return not layer.reduce.quantization_mode
    return (
        not getattr(layer, "quantization_mode", None)
        and (getattr(layer, "activation", None) in [None, *activations])
        and getattr(layer, "data_format", "channels_last") == "channels_last"
        and getattr(layer, "axis", -1) in (-1, 3)
    )
