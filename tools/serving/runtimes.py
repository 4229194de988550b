"""A folded model as each runtime computes it fastest on CPUs: the same numbers from other layers.

What each of them is worth was measured; see `docs/performance.md`.

TensorFlow wants the patterns that it has single kernels for (`tensorflow_kernels.py`), ONNX Runtime and OpenVINO
channels first (`channels_first.py`), LiteRT products over the channels of images as 1x1 convolutions.
"""

from __future__ import annotations

import keras

from tools.serving.channels_first import as_convolution, channels_first
from tools.serving.tensorflow_kernels import fused


def for_runtime(model: keras.Model, name: str) -> keras.Model:
    """The model with the layers that a runtime computes fastest.

    Args:
        model: What `coatnet_tf.fold_for_inference` returned.
        name: `"tf_saved_model"`, `"onnx"`, `"openvino"` or `"litert"`.

    Returns:
        A functional model with the same outputs, which shares other layers with `model`.
    """
    if name in ("onnx", "openvino"):
        return channels_first(model)
    if name == "tf_saved_model":
        return fused(model)
    return keras.models.clone_model(model, clone_function=lambda layer: _convolution(layer) or layer)


def _convolution(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    if not isinstance(layer, keras.layers.Dense) or len(layer.input.shape) != 4 or layer.quantization_mode:
        return None
    return as_convolution(layer, "channels_last", layer.name)
