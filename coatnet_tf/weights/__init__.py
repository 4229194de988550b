"""Weights: files that Keras wrote, and other people's trained networks."""

from coatnet_tf.weights.catalog import CATALOG, PretrainedWeights, list_weights
from coatnet_tf.weights.keras_file import Loaded, load_weights, resize_table, stored_shapes
from coatnet_tf.weights.pretrained import Source, find_source, is_pretrained_name, load_initial_weights
from coatnet_tf.weights.tensor_files import read_tensors

__all__ = [
    "CATALOG",
    "Loaded",
    "PretrainedWeights",
    "Source",
    "find_source",
    "is_pretrained_name",
    "list_weights",
    "load_initial_weights",
    "load_weights",
    "read_tensors",
    "resize_table",
    "stored_shapes",
]
