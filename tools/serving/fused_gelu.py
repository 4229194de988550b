"""GELU at the price of one pass over memory, for models that TensorFlow runs on CPUs.

TensorFlow computes GELU of anything but a product of matrices in eight operations, each with a pass over memory and in
bfloat16 with two conversions; these take a third of a folded CoAtNet-0's time (`docs/performance.md`). Its one fused
kernel computes `GELU(x W + b)` of matrices. With the identity of a few channels for W and zeros for b, it computes GELU
of any tensor, exactly, for a product that is hidden behind the memory.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from coatnet_tf.layers import common

_CHANNELS = 32  # of the identity: fewer are slower products, more are more of them


@keras.saving.register_keras_serializable(package="coatnet_tf")
class FusedGelu(keras.layers.Layer):
    """GELU in its tanh form, of tensors with a multiple of 32 values an example."""

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


def with_fused_gelu(model: keras.Model) -> keras.Model:
    """The same layers, with `FusedGelu` for each GELU that is a layer of its own.

    Args:
        model: What `coatnet_tf.fold_for_inference` returned.

    Returns:
        A functional model that shares the weights of `model`.
    """

    def swap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not isinstance(layer, keras.layers.Activation) or layer.activation is not common.gelu:
            return layer
        values = 1
        for size in layer.output.shape[1:]:
            values *= size
        return layer if values % _CHANNELS else FusedGelu(dtype=layer.dtype_policy, name=layer.name)

    return keras.models.clone_model(model, clone_function=swap)
