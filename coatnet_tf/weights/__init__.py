"""Loading weights: every tensor by its name and shape, or a refusal."""

from coatnet_tf.weights.keras_file import load_weights

__all__ = ["load_weights"]
