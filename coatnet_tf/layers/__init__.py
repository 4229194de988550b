"""The blocks of CoAtNet as Keras layers: NHWC images in, NHWC images out, any backend of Keras."""

from coatnet_tf.layers.folded import ConstantPadding2D, FoldedSelfAttention, PointwiseDense
from coatnet_tf.layers.mbconv import MBConv, SqueezeExcite
from coatnet_tf.layers.pooling import CentredMaxPooling2D
from coatnet_tf.layers.relative_attention import RelativePositionBias, RelativePositionMLP, RelativeSelfAttention
from coatnet_tf.layers.stochastic_depth import StochasticDepth
from coatnet_tf.layers.transformer import FeedForward, LayerScale, TransformerBlock

__all__ = [
    "CentredMaxPooling2D",
    "ConstantPadding2D",
    "FeedForward",
    "FoldedSelfAttention",
    "LayerScale",
    "MBConv",
    "PointwiseDense",
    "RelativePositionBias",
    "RelativePositionMLP",
    "RelativeSelfAttention",
    "SqueezeExcite",
    "StochasticDepth",
    "TransformerBlock",
]
