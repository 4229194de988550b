from coatnet_tf.baselines.base import Baseline, BaselineConfig
from coatnet_tf.baselines.family import FAMILY, ViTL16
from coatnet_tf.baselines.nfnet import NFNetBlock, NFNetConfig, ScaledStandardizedConv2D
from coatnet_tf.baselines.resnet import Bottleneck, ResNetConfig, StandardizedConv2D
from coatnet_tf.baselines.vit import ClassToken, TokenEmbedding, ViTConfig
