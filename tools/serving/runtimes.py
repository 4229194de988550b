"""A folded model as each runtime computes it fastest on CPUs: the same numbers from other layers.

What each of them is worth was measured; see `docs/performance.md`.

TensorFlow computes GELU of anything but a product of matrices in eight operations, each with a pass over memory and in
bfloat16 with two conversions. Its one fused kernel computes `GELU(x W + b)` of matrices. With the identity of a few
channels for W and zeros for b, it computes GELU of any tensor, exactly, for a product that is hidden behind the memory.

ONNX Runtime and OpenVINO want channels first (`channels_first.py`), LiteRT products over the channels of images as
1x1 convolutions.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from coatnet_tf.layers import common
from tools.serving.channels_first import as_convolution, channels_first

_CHANNELS = 32  # of the identity: fewer are slower products, more are more of them


@keras.saving.register_keras_serializable(package="coatnet_tf")
class FusedGelu(keras.layers.Layer):
    """GELU in its tanh form, for TensorFlow, of tensors with a multiple of 32 values an example."""

    def build(self, input_shape: tuple[Any, ...]) -> None:
        # Variables: TensorFlow would remove a constant bias of zeros, and with it the fusion.
        self.identity = self.add_weight(
            name="identity", shape=(_CHANNELS, _CHANNELS), initializer="identity", trainable=False
        )
        self.zeros = self.add_weight(name="zeros", shape=(_CHANNELS,), initializer="zeros", trainable=False)
        self.built = True

    def call(self, inputs: Any) -> Any:
        x = ops.reshape(inputs, (-1, _CHANNELS))
        x = common.gelu(ops.add(ops.matmul(x, self.identity), self.zeros))
        return ops.reshape(x, (-1, *inputs.shape[1:]))


def for_runtime(model: keras.Model, name: str) -> keras.Model:
    """The model with the layers that a runtime computes fastest.

    Args:
        model: What `coatnet_tf.fold_for_inference` returned.
        name: `"tf_saved_model"`, `"onnx"`, `"openvino"` or `"litert"`.

    Returns:
        A functional model with the same outputs, which shares other layers with `model`.
    """
    if name in ("onnx", "openvino"):
        return channels_first(model)
    swap = {"tf_saved_model": _fused_gelu, "litert": _convolution}[name]
    return keras.models.clone_model(model, clone_function=lambda layer: swap(layer) or layer)


def _fused_gelu(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    is_gelu = isinstance(layer, keras.layers.Activation) and layer.activation is common.gelu
    if not is_gelu or np.prod(layer.output.shape[1:]) % _CHANNELS:
        return None
    return FusedGelu(dtype=layer.dtype_policy, name=layer.name)


def _convolution(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    if not isinstance(layer, keras.layers.Dense) or len(layer.input.shape) != 4 or layer.quantization_mode:
        return None
    return as_convolution(layer, "channels_last", layer.name)
