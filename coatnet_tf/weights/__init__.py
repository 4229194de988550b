"""The project's own weights: files that Keras wrote, matched by the names of layers."""

from coatnet_tf.weights.keras_file import Loaded, load_weights, resize_table, stored_shapes

__all__ = ["Loaded", "load_weights", "resize_table", "stored_shapes"]
