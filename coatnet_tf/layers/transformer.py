"""Transformer block of CoAtNet: relative attention and a feed-forward network, both pre-normalised."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from coatnet_tf.layers import common
from coatnet_tf.layers.relative_attention import RelativeSelfAttention
from coatnet_tf.layers.residual import ResidualBlock, Shape
from coatnet_tf.layers.stochastic_depth import StochasticDepth


@keras.saving.register_keras_serializable(package="coatnet_tf")
class FeedForward(keras.layers.Layer):
    """`Dense(GELU(Dense(x)))` over the last axis, widened in between; the output's shape is the input's.

    Args:
        expansion: Hidden width over input width.
        kernel_initializer: Initializer of the kernels; normal(0.02) by default, as in the released code.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import FeedForward
    >>> tuple(FeedForward()(np.zeros((2, 7, 7, 32), "float32")).shape)
    (2, 7, 7, 32)
    """

    def __init__(self, expansion: int = 4, kernel_initializer: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kernel_initializer = common.get_initializer(kernel_initializer)
        self.expansion = expansion

    def build(self, input_shape: Shape) -> None:
        width = input_shape[-1]
        inner = self.expansion * width
        self.expand = common.dense(inner, "expand", self.kernel_initializer, dtype=self.dtype_policy)
        self.shrink = common.dense(width, "shrink", self.kernel_initializer, dtype=self.dtype_policy)
        self.expand.build(input_shape)
        self.shrink.build((*input_shape[:-1], inner))
        self.built = True

    def call(self, inputs: Any) -> Any:
        return self.shrink(common.gelu(self.expand(inputs)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "expansion": self.expansion,
            "kernel_initializer": common.serialize_initializer(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="coatnet_tf")
class TransformerBlock(ResidualBlock):
    """Relative attention and feed-forward network, each `x <- x + Module(Norm(x))`.

    With `strides=2` both branches of the attention are max-pooled first (Eq. 4 of the paper):
    `x <- Proj(Pool(x)) + Attention(Pool(Norm(x)))`. The shortcut is projected where the width changes.
    Inputs are `[batch, H, W, C]`, outputs `[batch, H / strides, W / strides, filters]`.

    Args:
        filters: Output width.
        strides: 1 or 2.
        head_size: Channels of one head; divides `filters`.
        expansion: Hidden width of the feed-forward network over `filters`.
        relative: Whether attention has a relative position bias.
        reindexing: How the bias table is re-indexed, `"gather"` or `"einsum"`.
        drop_path_rate: Stochastic depth rate of both residual branches.
        kernel_initializer: Initializer of the kernels; normal(0.02) by default, as in the released code.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of range, H or W is unknown, or cannot be halved.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import TransformerBlock
    >>> tuple(TransformerBlock(64, strides=2)(np.zeros((2, 14, 14, 32), "float32")).shape)
    (2, 7, 7, 64)
    """

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        head_size: int = 32,
        expansion: int = 4,
        relative: bool = True,
        reindexing: str = "gather",
        drop_path_rate: float = 0.0,
        kernel_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, strides, drop_path_rate, kernel_initializer, **kwargs)
        self.head_size = head_size
        self.expansion = expansion
        self.relative = relative
        self.reindexing = reindexing

        policy = self.dtype_policy
        prefix = f"{self.name}_"
        self.attention_norm = common.make_norm("layer_norm", prefix + "attention_norm", dtype=policy)
        self.attention = RelativeSelfAttention(
            filters, head_size, relative, reindexing, kernel_initializer, dtype=policy, name=prefix + "attention"
        )
        self.ffn_norm = common.make_norm("layer_norm", prefix + "ffn_norm", dtype=policy)
        self.ffn = FeedForward(expansion, kernel_initializer, dtype=policy, name=prefix + "ffn")
        self.attention_drop_path = StochasticDepth(drop_path_rate, dtype=policy, name=prefix + "attention_drop_path")
        self.ffn_drop_path = StochasticDepth(drop_path_rate, dtype=policy, name=prefix + "ffn_drop_path")

    def build(self, input_shape: Shape) -> None:
        self.build_shortcut(input_shape)
        self.attention_norm.build(input_shape)
        output_shape = self.compute_output_shape(input_shape)
        self.attention.build((*output_shape[:-1], input_shape[-1]))
        for layer in (self.ffn_norm, self.ffn, self.attention_drop_path, self.ffn_drop_path):
            layer.build(output_shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = self.attention_norm(inputs)
        if self.pool is not None:
            x = self.pool(x)
        x = ops.add(self.shortcut(inputs), self.attention_drop_path(self.attention(x), training=training))

        residual = self.ffn(self.ffn_norm(x))
        return ops.add(x, self.ffn_drop_path(residual, training=training))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "head_size": self.head_size,
            "expansion": self.expansion,
            "relative": self.relative,
            "reindexing": self.reindexing,
        }
