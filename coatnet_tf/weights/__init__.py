"""The project's own weights: files that Keras wrote, matched by the names of layers."""

from coatnet_tf.weights.keras_file import Loaded, load_weights, places_of, stored_shapes
from coatnet_tf.weights.resizing import adapt_channels, resize_table

__all__ = ["Loaded", "adapt_channels", "load_weights", "places_of", "resize_table", "stored_shapes"]
