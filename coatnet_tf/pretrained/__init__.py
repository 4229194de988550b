"""Other people's trained CoAtNets: which there are, their files, and the names of their weights, there and back."""

from coatnet_tf.pretrained.catalog import CATALOG, PretrainedWeights, list_weights
from coatnet_tf.pretrained.networks import (
    PretrainedFile,
    PretrainedNetwork,
    find_pretrained,
    is_pretrained_name,
    load_initial_weights,
    save_timm,
)
from coatnet_tf.pretrained.published import find_published, is_published_name
from coatnet_tf.pretrained.tensor_files import read_tensors

__all__ = [
    "CATALOG",
    "PretrainedFile",
    "PretrainedNetwork",
    "PretrainedWeights",
    "find_pretrained",
    "find_published",
    "is_pretrained_name",
    "is_published_name",
    "list_weights",
    "load_initial_weights",
    "read_tensors",
    "save_timm",
]
