"""What only a folded model is made of."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from coatnet_tf.layers import common
from coatnet_tf.layers.options import Shape
from coatnet_tf.layers.parts import LayerOfLayers


@keras.saving.register_keras_serializable(package="coatnet_tf")
class ConstantPadding2D(keras.layers.Layer):
    """Pads images `[batch, H, W, C]` with a constant, as `keras.layers.ZeroPadding2D` does with 0.

    Args:
        padding: `((top, bottom), (left, right))`, in pixels.
        value: The constant.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import ConstantPadding2D
    >>> np.asarray(ConstantPadding2D(((0, 1), (1, 0)), 9.0)(np.zeros((1, 1, 1, 1))))[0, ..., 0].tolist()
    [[9.0, 0.0], [9.0, 9.0]]
    """

    def __init__(self, padding: tuple[tuple[int, int], tuple[int, int]], value: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padding = tuple(tuple(pair) for pair in padding)
        self.value = value

    def build(self, input_shape: Shape) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        inputs = ops.cast(inputs, self.compute_dtype)  # images of whole numbers too
        return ops.pad(inputs, ((0, 0), *self.padding, (0, 0)), constant_values=self.value)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.padding, "value": self.value}


@keras.saving.register_keras_serializable(package="coatnet_tf")
class PointwiseDense(keras.layers.Dense):
    """`keras.layers.Dense` over the channels of images, computed as one product of two matrices.

    A 1x1 convolution, whose GELU costs next to nothing: TensorFlow has one kernel for a product of matrices, its
    bias and its GELU, and none for a convolution or a product of more dimensions. Inputs are `[batch, H, W, C]`,
    outputs `[batch, H, W, units]`; matrices `[rows, C]` are taken as they are. The arguments are those of
    `keras.layers.Dense`.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import PointwiseDense
    >>> tuple(PointwiseDense(64, activation="gelu")(np.zeros((2, 7, 5, 16), "float32")).shape)
    (2, 7, 5, 64)
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if len(inputs.shape) == 2:
            return super().call(inputs, training=training)
        _, height, width, channels = inputs.shape
        x = super().call(ops.reshape(inputs, (-1, channels)), training=training)
        return ops.reshape(x, (-1, height, width, self.units))

    def quantize(self, mode: str | None = None, type_check: bool = True, config: Any = None) -> None:
        """Quantises the weights as those of `keras.layers.Dense`, whose layers below it Keras passes over otherwise."""
        super().quantize(mode, type_check=False, config=config)


@keras.saving.register_keras_serializable(package="coatnet_tf")
class FoldedSelfAttention(LayerOfLayers):
    """`RelativeSelfAttention` for inference: one product for q, k and v, and the bias as it is added.

    q's scale is in its kernel, and the bias is stored for every pair of positions, `[heads, H*W, H*W]`
    in float32, which takes `heads * (H * W)**2 * 4` bytes. Inputs are `[batch, H, W, C]` with H and W
    known, outputs `[batch, H, W, filters]`. The softmax is taken in float32 under every dtype policy.

    Args:
        filters: Output width.
        head_size: Channels of one head; divides `filters`.
        relative_attention: Whether there is a bias.
        attention_width: Whether q, k and v have the `"output"` or the `"input"` width.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import FoldedSelfAttention
    >>> tuple(FoldedSelfAttention(64)(np.zeros((2, 7, 5, 48), "float32")).shape)
    (2, 7, 5, 64)
    """

    def __init__(
        self,
        filters: int,
        head_size: int = 32,
        relative_attention: bool = True,
        attention_width: str = "output",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.head_size = head_size
        self.relative_attention = relative_attention
        self.attention_width = attention_width
        self.out = common.dense(filters, name="out", dtype=self.dtype_policy)

    def build(self, input_shape: Shape) -> None:
        _, height, width, channels = input_shape
        positions = height * width
        inner = self.filters if self.attention_width == "output" else channels
        self.num_heads = inner // self.head_size
        self.qkv = common.dense(3 * inner, name="qkv", dtype=self.dtype_policy)
        self.restore_parts()
        self.qkv.build((None, channels))
        if self.relative_attention:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.num_heads, positions, positions),
                initializer="zeros",
                dtype="float32",
                autocast=False,
                trainable=False,
            )
        self.out.build((None, inner))
        common.finish_build(self)

    def call(self, inputs: Any) -> Any:
        _, height, width, channels = inputs.shape
        positions = height * width
        x = self.qkv(ops.reshape(inputs, (-1, channels)))  # of matrices: every runtime adds the bias in their product
        x = ops.reshape(x, (-1, positions, 3, self.num_heads, self.head_size))
        query, key, value = ops.unstack(ops.transpose(x, (2, 0, 3, 1, 4)), 3)

        logits = ops.cast(ops.matmul(query, ops.swapaxes(key, -1, -2)), "float32")
        scores = ops.softmax(ops.add(logits, self.bias) if self.relative_attention else logits, axis=-1)

        x = ops.matmul(ops.cast(scores, value.dtype), value)
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, self.num_heads * self.head_size))
        return ops.reshape(self.out(x), (-1, height, width, self.filters))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "head_size": self.head_size,
            "relative_attention": self.relative_attention,
            "attention_width": self.attention_width,
        }
