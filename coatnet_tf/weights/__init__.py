"""Weights: files that Keras wrote."""

from coatnet_tf.weights.keras_file import Loaded, load_weights, resize_table

__all__ = ["Loaded", "load_weights", "resize_table"]
