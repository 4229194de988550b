"""The blocks of CoAtNet as Keras layers: NHWC images in, NHWC images out, any backend of Keras."""

from coatnet_tf.layers.attention import (
    AttentionConfig,
    RelativePositionBias,
    RelativePositionMLP,
    RelativeSelfAttention,
)
from coatnet_tf.layers.folded import ConstantPadding2D, FoldedSelfAttention, PointwiseDense
from coatnet_tf.layers.mbconv import MBConv, MBConvConfig, SqueezeExcite, SqueezeExciteConfig
from coatnet_tf.layers.norms import BatchNormalization, LayerNormalization
from coatnet_tf.layers.pooling import CentredMaxPooling2D
from coatnet_tf.layers.residual import ResidualBlock
from coatnet_tf.layers.stochastic_depth import StochasticDepth
from coatnet_tf.layers.transformer import (
    FeedForward,
    FeedForwardConfig,
    LayerScale,
    TransformerBlock,
    TransformerConfig,
)

__all__ = [
    "AttentionConfig",
    "BatchNormalization",
    "CentredMaxPooling2D",
    "ConstantPadding2D",
    "FeedForward",
    "FeedForwardConfig",
    "FoldedSelfAttention",
    "LayerNormalization",
    "LayerScale",
    "MBConv",
    "MBConvConfig",
    "PointwiseDense",
    "RelativePositionBias",
    "RelativePositionMLP",
    "RelativeSelfAttention",
    "ResidualBlock",
    "SqueezeExcite",
    "SqueezeExciteConfig",
    "StochasticDepth",
    "TransformerBlock",
    "TransformerConfig",
]
