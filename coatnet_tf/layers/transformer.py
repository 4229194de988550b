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
class LayerScale(keras.layers.Layer):
    """Multiplies each channel by a trained number (Touvron et al., arXiv:2103.17239).

    Args:
        initial: What the numbers begin at.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import LayerScale
    >>> np.asarray(LayerScale(0.5)(np.ones((1, 2), "float32"))).tolist()
    [[0.5, 0.5]]
    """

    def __init__(self, initial: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial = initial

    def build(self, input_shape: Shape) -> None:
        self.gamma = self.add_weight(
            name="gamma", shape=(input_shape[-1],), initializer=keras.initializers.Constant(self.initial)
        )
        self.built = True

    def call(self, inputs: Any) -> Any:
        return inputs * self.gamma

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initial": self.initial}


@keras.saving.register_keras_serializable(package="coatnet_tf")
class FeedForward(keras.layers.Layer):
    """`Dense(GELU(Dense(x)))` over the last axis, widened in between; the output's shape is the input's.

    Args:
        expansion: Hidden width over input width.
        kernel_initializer: Initializer of the kernels; normal(0.02) by default, as in the released code.
        activation: `"gelu_tanh"` (the paper's code), `"gelu"`, `"silu"` or `"relu"`.
        use_bias: Whether both layers have a bias.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import FeedForward
    >>> tuple(FeedForward()(np.zeros((2, 7, 7, 32), "float32")).shape)
    (2, 7, 7, 32)
    """

    def __init__(
        self,
        expansion: float = 4,
        kernel_initializer: Any = None,
        activation: str = "gelu_tanh",
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kernel_initializer = common.get_initializer(kernel_initializer)
        self.expansion = expansion
        self.activation = activation
        self.use_bias = use_bias
        self.act = common.get_activation(activation)

    def inner_width(self, input_width: int) -> int:
        """Hidden width."""
        return round(self.expansion * input_width)

    def build(self, input_shape: Shape) -> None:
        width = input_shape[-1]
        inner = self.inner_width(width)
        options = {"use_bias": self.use_bias, "dtype": self.dtype_policy}
        self.expand = common.dense(inner, "expand", self.kernel_initializer, **options)
        self.shrink = common.dense(width, "shrink", self.kernel_initializer, **options)
        self.expand.build(input_shape)
        self.shrink.build((*input_shape[:-1], inner))
        common.finish_build(self)

    def call(self, inputs: Any) -> Any:
        return self.shrink(self.act(self.expand(inputs)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "expansion": self.expansion,
            "kernel_initializer": common.serialize_initializer(self.kernel_initializer),
            "activation": self.activation,
            "use_bias": self.use_bias,
        }


@keras.saving.register_keras_serializable(package="coatnet_tf")
class TransformerBlock(ResidualBlock):
    """Relative attention and feed-forward network, each `x <- x + Module(Norm(x))`.

    With `strides=2` both branches of the attention are pooled first (Eq. 4 of the paper):
    `x <- Proj(Pool(x)) + Attention(Pool(Norm(x)))`. The shortcut is projected where the width changes.
    Inputs are `[batch, H, W, C]`, outputs `[batch, H / strides, W / strides, filters]`. The defaults are the
    paper's; what else there is belongs to other people's trained networks.

    Args:
        filters: Output width.
        strides: 1 or 2.
        head_size: Channels of one head; divides `filters`.
        expansion: Hidden width of the feed-forward network over `filters`.
        relative: Whether attention has a relative position bias.
        reindexing: How the bias table is re-indexed, `"gather"` or `"einsum"`.
        drop_path_rate: Stochastic depth rate of both residual branches.
        kernel_initializer: Initializer of the kernels; normal(0.02) by default, as in the released code.
        relative_mlp_units: See `RelativeSelfAttention`.
        attention_width: Whether q, k and v have the `"output"` width, as in the paper, or the `"input"` width.
        attention_bias: Whether the projections of the attention have a bias.
        shortcut_bias: Whether the projection of the shortcut has a bias.
        ffn_bias: Whether the feed-forward network has biases.
        pool: `"max"`, `"avg"` (2x2) or `"max3"` (3x3, as in PyTorch).
        activation: Activation of the feed-forward network.
        norm: `"layer_norm"`, `"batch_norm"` or `"sync_batch_norm"`.
        norm_epsilon: Epsilon of the norms; 1e-5 for LayerNorm and 1e-3 for BatchNorm by default.
        layer_scale: What the `LayerScale` of both branches begins at; `None` leaves it out.
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
        expansion: float = 4,
        relative: bool = True,
        reindexing: str = "gather",
        drop_path_rate: float = 0.0,
        kernel_initializer: Any = None,
        relative_mlp_units: int | None = None,
        attention_width: str = "output",
        attention_bias: bool = True,
        shortcut_bias: bool = True,
        ffn_bias: bool = True,
        pool: str = "max",
        activation: str = "gelu_tanh",
        norm: str = "layer_norm",
        norm_epsilon: float | None = None,
        layer_scale: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, strides, pool, shortcut_bias, drop_path_rate, kernel_initializer, **kwargs)
        self.head_size = head_size
        self.expansion = expansion
        self.relative = relative
        self.reindexing = reindexing
        self.relative_mlp_units = relative_mlp_units
        self.attention_width = attention_width
        self.attention_bias = attention_bias
        self.ffn_bias = ffn_bias
        self.activation = activation
        self.norm = norm
        self.norm_epsilon = norm_epsilon
        self.layer_scale = layer_scale

        policy = self.dtype_policy
        prefix = f"{self.name}_"
        self.attention_norm = common.make_norm(norm, prefix + "attention_norm", norm_epsilon, dtype=policy)
        self.attention = RelativeSelfAttention(
            filters,
            head_size,
            relative,
            reindexing,
            kernel_initializer,
            relative_mlp_units,
            attention_width,
            attention_bias,
            dtype=policy,
            name=prefix + "attention",
        )
        self.ffn_norm = common.make_norm(norm, prefix + "ffn_norm", norm_epsilon, dtype=policy)
        self.ffn = FeedForward(expansion, kernel_initializer, activation, ffn_bias, dtype=policy, name=prefix + "ffn")
        self.attention_scale: LayerScale | None = None
        self.ffn_scale: LayerScale | None = None
        if layer_scale is not None:
            self.attention_scale = LayerScale(layer_scale, dtype=policy, name=prefix + "attention_scale")
            self.ffn_scale = LayerScale(layer_scale, dtype=policy, name=prefix + "ffn_scale")
        self.attention_drop_path = StochasticDepth(drop_path_rate, dtype=policy, name=prefix + "attention_drop_path")
        self.ffn_drop_path = StochasticDepth(drop_path_rate, dtype=policy, name=prefix + "ffn_drop_path")

    def build(self, input_shape: Shape) -> None:
        self.build_shortcut(input_shape)
        self.attention_norm.build(input_shape)
        output_shape = self.compute_output_shape(input_shape)
        self.attention.build((*output_shape[:-1], input_shape[-1]))
        scales = [] if self.attention_scale is None else [self.attention_scale, self.ffn_scale]
        for layer in (self.ffn_norm, self.ffn, *scales, self.attention_drop_path, self.ffn_drop_path):
            layer.build(output_shape)
        common.finish_build(self)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = self.attention_norm(inputs, training=training)
        x = self.attention(x if self.pool is None else self.pool(x))
        if self.attention_scale is not None:
            x = self.attention_scale(x)
        x = ops.add(self.shortcut(inputs), self.attention_drop_path(x, training=training))

        residual = self.ffn(self.ffn_norm(x, training=training))
        if self.ffn_scale is not None:
            residual = self.ffn_scale(residual)
        return ops.add(x, self.ffn_drop_path(residual, training=training))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "head_size": self.head_size,
            "expansion": self.expansion,
            "relative": self.relative,
            "reindexing": self.reindexing,
            "relative_mlp_units": self.relative_mlp_units,
            "attention_width": self.attention_width,
            "attention_bias": self.attention_bias,
            "shortcut_bias": self.shortcut_bias,
            "ffn_bias": self.ffn_bias,
            "activation": self.activation,
            "norm": self.norm,
            "norm_epsilon": self.norm_epsilon,
            "layer_scale": self.layer_scale,
        }
