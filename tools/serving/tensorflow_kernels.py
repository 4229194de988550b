"""A folded model in the operations that TensorFlow has single kernels for on CPUs.

TensorFlow's graph optimiser replaces a few patterns of operations by one kernel of oneDNN each, and computes everything
else operation by operation, each with a pass over memory. Here the network is walked from the image on, and what has an
equal in those patterns is replaced by it. Elsewhere (GPUs, CPUs without oneDNN) the same operations run one by one.

| pattern | kernel |
| --- | --- |
| product of matrices, bias, GELU | `_FusedMatMul` |
| product of matrices, bias, sum with matrices of the same unknown number of rows | `_FusedMatMul` |
| the FusedBatchNormV3 of Keras 2's LayerNormalization, scale, shift | `_MklLayerNorm` |
| products of stacked matrices, a number, sum with something of size 1 along the second axis | `_FusedBatchMatMulV2` |
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from coatnet_tf.graph import OfTensors, Rewrite
from coatnet_tf.layers import FoldedSelfAttention, PointwiseDense, SqueezeExcite, common

_GELU_CHANNELS = 32  # of the identity: fewer are slower products, more are more of them


def fused(model: keras.Model) -> keras.Model:
    """The same function of the same images, for a SavedModel.

    Args:
        model: What `coatnet_tf.fold_for_inference` returned.

    Returns:
        A functional model that shares weights and the layers without an equal with `model`.
    """
    return _Fused().run(model)


class _Fused(Rewrite):
    """Keeps of each tensor what is known of it as a matrix, and what squeeze-and-excitation made it of."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: OfTensors[Any] = OfTensors()  # the same as a matrix, a row for each position
        self._gated: OfTensors[tuple[SqueezeExcite, Any]] = OfTensors()
        self.rules = {
            SqueezeExcite: self._squeeze_excite,
            keras.layers.Conv2D: self._convolution,
            keras.layers.Activation: self._activation,
            FoldedSelfAttention: self._attention,
            PointwiseDense: lambda dense, x: self._of_rows(dense, x),
            keras.layers.LayerNormalization: self._norm,
            keras.layers.Add: self._add,
        }

    def _squeeze_excite(self, layer: SqueezeExcite, x: Any) -> Any:
        y = layer(x)
        self._gated[y] = layer, x
        return y

    def _convolution(self, layer: keras.layers.Conv2D, x: Any) -> Any:
        if x not in self._gated or not _is_pointwise_convolution(layer):
            return layer(x)
        squeeze_excite, inputs = self._gated[x]
        return self._equal(layer, GatedConvolution, squeeze_excite, layer)(inputs)

    def _activation(self, layer: keras.layers.Activation, x: Any) -> Any:
        fused = layer.activation is common.gelu and math.prod(x.shape[1:]) % _GELU_CHANNELS == 0
        return self._equal(layer, FusedGelu)(x) if fused else layer(x)

    def _attention(self, layer: FoldedSelfAttention, x: Any) -> Any:
        return self._of_rows(self._equal(layer, FusedSelfAttention, layer, x.shape[1:3]), x)

    def _norm(self, layer: keras.layers.LayerNormalization, x: Any) -> Any:
        if layer.rms_scaling or not common.is_of_channels(layer, len(x.shape)):
            return layer(x)
        return self._of_rows(self._equal(layer, FusedLayerNormalization, layer), x)

    def _add(self, layer: keras.layers.Add, inputs: Any) -> Any:
        if not all(x in self._rows for x in inputs):
            return layer(inputs)
        rows = keras.layers.Add(dtype=layer.dtype_policy)([self._rows[x] for x in inputs])
        return self._as_before(rows, inputs[0].shape)

    def _of_rows(self, layer: keras.layers.Layer, x: Any) -> Any:
        """Calls a layer of matrices on images."""
        if len(x.shape) == 2:
            return layer(x)
        if x not in self._rows:
            self._rows[x] = ops.reshape(x, (-1, x.shape[-1]))
        return self._as_before(layer(self._rows[x]), x.shape)

    def _as_before(self, rows: Any, shape: tuple[int, ...]) -> Any:
        """The matrix as the tensor that it is in the model, whose positions are those of `shape`."""
        y = ops.reshape(rows, (-1, *shape[1:-1], rows.shape[-1]))
        self._rows[y] = rows
        return y

    def _equal(self, layer: keras.layers.Layer, kind: type, *args: Any) -> keras.layers.Layer:
        """The equal of a layer, which is made once."""
        return self.layer(id(layer), lambda: kind(*args, dtype=layer.dtype_policy, name=f"{layer.name}_fused"))


class FusedGelu(keras.layers.Layer):
    """GELU in its tanh form of tensors with a multiple of 32 values an example, as a product with the identity."""

    def build(self, input_shape: tuple[Any, ...]) -> None:
        # Variables: TensorFlow would remove a constant bias of zeros, and with it the fusion.
        self.identity = self.add_weight(
            name="identity", shape=(_GELU_CHANNELS, _GELU_CHANNELS), initializer="identity", trainable=False
        )
        self.zeros = self.add_weight(name="zeros", shape=(_GELU_CHANNELS,), initializer="zeros", trainable=False)
        self.built = True

    def call(self, inputs: Any) -> Any:
        x = ops.reshape(inputs, (-1, _GELU_CHANNELS))
        x = common.gelu(ops.add(ops.matmul(x, self.identity), self.zeros))
        return ops.reshape(x, (-1, *inputs.shape[1:]))


class FusedLayerNormalization(keras.layers.Layer):
    """LayerNorm over the last axis of matrices.

    Args:
        source: The layer whose epsilon, scale and shift these are.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, source: keras.layers.LayerNormalization, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = source.epsilon
        self.gamma = source.gamma
        self.beta = source.beta

    def build(self, input_shape: tuple[Any, ...]) -> None:
        # Variables for the same reason as the zeros of GELU.
        shape = (input_shape[-1],)
        if self.gamma is None:
            self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones", trainable=False)
        if self.beta is None:
            self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros", trainable=False)
        self.built = True

    def call(self, inputs: Any) -> Any:
        shape = tf.shape(inputs)
        # The rows as channels of one image: their statistics are those of LayerNorm.
        x = tf.reshape(inputs, (1, shape[0], inputs.shape[-1], 1))
        x = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=tf.fill((shape[0],), 1.0),
            offset=tf.fill((shape[0],), 0.0),
            mean=tf.constant([]),
            variance=tf.constant([]),
            epsilon=self.epsilon,
            data_format="NCHW",
        ).y
        x = tf.reshape(x, shape) * tf.cast(self.gamma, x.dtype) + tf.cast(self.beta, x.dtype)
        return tf.ensure_shape(x, inputs.shape)


class FusedSelfAttention(keras.layers.Layer):
    """`FoldedSelfAttention` of matrices with a row for each position, whose heads come before the examples.

    Args:
        source: The layer whose weights these are.
        size: Height and width of the images.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, source: FoldedSelfAttention, size: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.positions = size[0] * size[1]

    def build(self, input_shape: tuple[Any, ...]) -> None:
        self.one: Any = None
        if (
            self.source.relative_attention and self.compute_dtype == "float32"
        ):  # the kernel with a sum is for nothing else
            # A variable again: a product with a constant 1 would be removed.
            self.one = self.add_weight(name="one", shape=(), initializer="ones", trainable=False)
        self.built = True

    def call(self, inputs: Any) -> Any:
        source = self.source
        x = ops.reshape(source.qkv(inputs), (-1, self.positions, 3, source.num_heads, source.head_size))
        query, key, value = ops.unstack(ops.transpose(x, (2, 3, 0, 1, 4)), 3)
        logits = ops.matmul(query, ops.swapaxes(key, -1, -2))
        if self.one is not None:
            logits = ops.multiply(logits, self.one)
        logits = ops.cast(logits, "float32")
        scores = ops.softmax(
            ops.add(logits, ops.expand_dims(source.bias, 1)) if source.relative_attention else logits, axis=-1
        )
        x = ops.matmul(ops.cast(scores, value.dtype), value)
        return source.out(ops.reshape(ops.transpose(x, (1, 2, 0, 3)), (-1, source.num_heads * source.head_size)))


class GatedConvolution(keras.layers.Layer):
    """Squeeze-and-excitation and the 1x1 convolution behind it, whose kernel takes the gate.

    A gate is one number a channel of an example, so that a kernel for each example costs far less than a product of the
    gate with every position. The mean over positions is a product too.

    Args:
        squeeze_excite: The one layer.
        convolution: The other.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, squeeze_excite: SqueezeExcite, convolution: keras.layers.Conv2D, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.squeeze_excite = squeeze_excite
        self.convolution = convolution
        self.built = True

    def call(self, inputs: Any) -> Any:
        _, height, width, channels = inputs.shape
        positions = height * width
        x = ops.reshape(inputs, (-1, positions, channels))
        mean = ops.matmul(ops.ones((1, 1, positions), x.dtype), x) * (1 / positions)
        gate = self.squeeze_excite.expand(self.squeeze_excite.reduce(ops.reshape(mean, (-1, 1, 1, channels))))
        kernel = ops.cast(self.convolution.kernel[0], x.dtype)
        x = ops.matmul(x, ops.reshape(gate, (-1, channels, 1)) * kernel)
        if self.convolution.use_bias:
            x = ops.add(x, ops.cast(self.convolution.bias, x.dtype))
        return ops.reshape(x, (-1, height, width, self.convolution.filters))


def _is_pointwise_convolution(layer: keras.layers.Layer) -> bool:
    return (
        (layer.kernel_size, layer.strides, layer.groups) == ((1, 1), (1, 1), 1)
        and layer.activation is keras.activations.linear
        and layer.data_format == "channels_last"
    )
