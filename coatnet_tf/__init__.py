"""CoAtNet (Dai et al., NeurIPS 2021, arXiv:2106.04803) for Keras 3."""

from coatnet_tf import layers, rivals
from coatnet_tf.config import CoAtNetConfig, StageConfig, StemConfig, make_config
from coatnet_tf.cost import Cost, CostReport, profile, profile_layers
from coatnet_tf.family import FAMILY, get_config
from coatnet_tf.fold import fold_for_inference
from coatnet_tf.freezing import freeze
from coatnet_tf.imagenet import decode_predictions, preprocess_input, rescale
from coatnet_tf.model import (
    CoAtNet,
    CoAtNet0,
    CoAtNet1,
    CoAtNet2,
    CoAtNet3,
    CoAtNet4,
    CoAtNet5,
    CoAtNet6,
    CoAtNet7,
    CoAtNetBackbone,
    from_pretrained,
)
from coatnet_tf.pretrained import PretrainedWeights, list_weights, save_timm
from coatnet_tf.pretrained.configs import RELATIVES
from coatnet_tf.surgery import embeddings, features, reset_classifier, resize
from coatnet_tf.weights import Loaded, load_weights

__version__ = "0.2.0"

__all__ = [
    "FAMILY",
    "RELATIVES",
    "CoAtNet",
    "CoAtNet0",
    "CoAtNet1",
    "CoAtNet2",
    "CoAtNet3",
    "CoAtNet4",
    "CoAtNet5",
    "CoAtNet6",
    "CoAtNet7",
    "CoAtNetBackbone",
    "CoAtNetConfig",
    "Cost",
    "CostReport",
    "Loaded",
    "PretrainedWeights",
    "StageConfig",
    "StemConfig",
    "decode_predictions",
    "embeddings",
    "features",
    "fold_for_inference",
    "freeze",
    "from_pretrained",
    "get_config",
    "layers",
    "list_weights",
    "load_weights",
    "make_config",
    "preprocess_input",
    "profile",
    "profile_layers",
    "rescale",
    "reset_classifier",
    "resize",
    "rivals",
    "save_timm",
]
