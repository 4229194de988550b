"""Transformer block of CoAtNet: relative attention and a feed-forward network, both pre-normalised."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from coatnet_tf.layers import common, pooling
from coatnet_tf.layers.attention import AttentionConfig, RelativeSelfAttention
from coatnet_tf.layers.options import ConfiguredLayer, Options, PositiveNumber, Shape, check
from coatnet_tf.layers.residual import ResidualBlock


@keras.saving.register_keras_serializable(package="coatnet_tf")
class LayerScale(keras.layers.Layer):
    """Multiplies each channel by a trained number (Touvron et al., arXiv:2103.17239).

    Args:
        initial: What the numbers begin at.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `initial` is no positive number.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import LayerScale
    >>> np.asarray(LayerScale(0.5)(np.ones((1, 2), "float32"))).tolist()
    [[0.5, 0.5]]
    """

    def __init__(self, initial: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check("initial", initial, PositiveNumber)
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


@dataclasses.dataclass(frozen=True)
class FeedForwardConfig(Options):
    """Options of `FeedForward`; the defaults are the paper's.

    Args:
        ffn_expansion: Hidden width over input width.
        ffn_activation: `"gelu_tanh"` (the paper's code), `"gelu"` (exact), `"silu"` or `"relu"`.
        ffn_bias: Whether both layers have a bias.
    """

    ffn_expansion: PositiveNumber = 4
    ffn_activation: common.Activation = "gelu_tanh"
    ffn_bias: bool = True


@keras.saving.register_keras_serializable(package="coatnet_tf")
class FeedForward(ConfiguredLayer):
    """`Dense(GELU(Dense(x)))` over the last axis, widened in between; the output's shape is the input's.

    Args:
        kernel_initializer: Initializer of the kernels; normal(0.02) by default.
        config: A `FeedForwardConfig`.
        **kwargs: Fields of `FeedForwardConfig`, and arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import FeedForward
    >>> tuple(FeedForward(ffn_expansion=2)(np.zeros((2, 7, 7, 32), "float32")).shape)
    (2, 7, 7, 32)
    """

    config_class = FeedForwardConfig

    def prepare(self, input_shape: Shape) -> None:
        """Makes the layers for an input, unbuilt."""
        config, width = self.config, input_shape[-1]
        inner = common.inner_width("ffn_expansion", config.ffn_expansion, width)
        self.expand = common.dense(inner, self.kernel_initializer, use_bias=config.ffn_bias, **self.named("expand"))
        self.act = common.activation(config.ffn_activation, **self.named("act"))
        self.shrink = common.dense(width, self.kernel_initializer, use_bias=config.ffn_bias, **self.named("shrink"))

    def layers(self) -> list[keras.layers.Layer]:
        """The layers, in the order in which they are called."""
        return [self.expand, self.act, self.shrink]

    def build(self, input_shape: Shape) -> None:
        self.prepare(input_shape)
        self.restore_parts()
        common.build_chain(self.layers(), input_shape)
        common.finish_build(self)

    def call(self, inputs: Any) -> Any:
        return common.chain(self.layers(), inputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


@dataclasses.dataclass(frozen=True)
class TransformerConfig(Options):
    """Options of `TransformerBlock`; the defaults are the paper's.

    Args:
        attention: Options of the attention.
        ffn: Options of the feed-forward network.
        pool: `"max"`, `"avg"` (2x2) or `"max3"` (3x3, as in PyTorch).
        shortcut_bias: Whether the projection of the shortcut has a bias.
        transformer_norm: `"layer_norm"`, `"batch_norm"` or `"sync_batch_norm"`.
        transformer_norm_epsilon: Epsilon of the norms; 1e-5 for LayerNorm and 1e-3 for BatchNorm by default.
        layer_scale: What the `LayerScale` of both branches begins at; `None` leaves it out.
    """

    attention: AttentionConfig = AttentionConfig()
    ffn: FeedForwardConfig = FeedForwardConfig()
    pool: pooling.Pool = "max"
    shortcut_bias: bool = True
    transformer_norm: common.Norm = "layer_norm"
    transformer_norm_epsilon: PositiveNumber | None = None
    layer_scale: PositiveNumber | None = None


@keras.saving.register_keras_serializable(package="coatnet_tf")
class TransformerBlock(ResidualBlock):
    """Relative attention and feed-forward network, each `x <- x + Module(Norm(x))`.

    With `strides=2` both branches of the attention are pooled first (Eq. 4 of the paper):
    `x <- Proj(Pool(x)) + Attention(Pool(Norm(x)))`. The shortcut is projected where the width changes.
    Inputs are `[batch, H, W, C]`, outputs `[batch, H / strides, W / strides, filters]`.

    Args:
        filters: Output width.
        strides: 1 or 2.
        drop_path_rate: Stochastic depth rate of both residual branches.
        kernel_initializer: Initializer of the kernels; normal(0.02) by default.
        config: A `TransformerConfig`.
        **kwargs: Fields of `TransformerConfig`, and arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of its range, H or W is unknown, or cannot be halved.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import TransformerBlock
    >>> tuple(TransformerBlock(64, strides=2, head_size=16)(np.zeros((2, 14, 14, 32), "float32")).shape)
    (2, 7, 7, 64)
    """

    config_class = TransformerConfig

    def prepare(self, input_shape: Shape) -> None:
        config = self.config
        self.prepare_shortcut(input_shape, config.pool, config.shortcut_bias)
        self.attention_norm = self._norm("attention_norm")
        self.attention = RelativeSelfAttention(
            self.filters, self.kernel_initializer, config.attention, **self.named("attention")
        )
        self.attention_scale = self._scale("attention_scale")
        self.attention_drop_path = self.make_drop_path("attention_drop_path")
        self.ffn_norm = self._norm("ffn_norm")
        self.ffn = FeedForward(self.kernel_initializer, config.ffn, **self.named("ffn"))
        self.ffn_scale = self._scale("ffn_scale")
        self.ffn_drop_path = self.make_drop_path("ffn_drop_path")

    def _norm(self, name: str) -> keras.layers.Layer:
        return common.make_norm(self.config.transformer_norm, self.config.transformer_norm_epsilon, **self.named(name))

    def _scale(self, name: str) -> LayerScale | None:
        initial = self.config.layer_scale
        return None if initial is None else LayerScale(initial, **self.named(name))

    def branches(self) -> list[list[keras.layers.Layer]]:
        return [
            common.present(
                self.attention_norm, self.pool, self.attention, self.attention_scale, self.attention_drop_path
            ),
            common.present(self.ffn_norm, self.ffn, self.ffn_scale, self.ffn_drop_path),
        ]
