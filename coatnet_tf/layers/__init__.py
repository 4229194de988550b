"""The blocks of CoAtNet as Keras layers: NHWC images in, NHWC images out, any backend of Keras."""

from coatnet_tf.layers.folded import ConstantPadding2D, FoldedSelfAttention, PointwiseDense
from coatnet_tf.layers.mbconv import MBConv, SqueezeExcite
from coatnet_tf.layers.relative_attention import RelativePositionBias, RelativeSelfAttention
from coatnet_tf.layers.stochastic_depth import StochasticDepth
from coatnet_tf.layers.transformer import FeedForward, TransformerBlock

__all__ = [
    "ConstantPadding2D",
    "FeedForward",
    "FoldedSelfAttention",
    "MBConv",
    "PointwiseDense",
    "RelativePositionBias",
    "RelativeSelfAttention",
    "SqueezeExcite",
    "StochasticDepth",
    "TransformerBlock",
]
