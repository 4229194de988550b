"""CoAtNet's rivals in Table 5 of its paper: ViT, ResNet-50 + ViT and NFNet.

What each of them is made of stands on top of `coatnet_tf.rivals.family`.
"""

from coatnet_tf.rivals.family import RIVALS, NFNetF4, NFNetF4Plus, ResNet50ViTL16, ViTG14, ViTH14, ViTL16
from coatnet_tf.rivals.nfnet import NFNetBlock, NFNetConfig, ScaledStandardizedConv2D
from coatnet_tf.rivals.resnet import Bottleneck, ResNetConfig, StandardizedConv2D
from coatnet_tf.rivals.vit import ClassToken, TokenEmbedding, ViTConfig

__all__ = [
    "RIVALS",
    "Bottleneck",
    "ClassToken",
    "NFNetBlock",
    "NFNetConfig",
    "NFNetF4",
    "NFNetF4Plus",
    "ResNet50ViTL16",
    "ResNetConfig",
    "ScaledStandardizedConv2D",
    "StandardizedConv2D",
    "TokenEmbedding",
    "ViTConfig",
    "ViTG14",
    "ViTH14",
    "ViTL16",
]
