"""A folded model as each runtime computes it fastest on CPUs: the same numbers from other layers.

What each of them is worth was measured; see `docs/performance.md`.

TensorFlow wants the patterns that it has single kernels for (`tensorflow_kernels.py`), ONNX Runtime and OpenVINO
channels first (`channels_first.py`), LiteRT products over the channels of images as 1x1 convolutions.
"""

from __future__ import annotations

from typing import Any

import keras

from coatnet_tf.graph import Rewrite
from coatnet_tf.layers import PointwiseDense
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
    return _PointwiseConvolutions().run(model)


class _PointwiseConvolutions(Rewrite):
    """Products over the channels of images as 1x1 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.rules = dict.fromkeys((keras.layers.Dense, PointwiseDense), self._convolution)

    def _convolution(self, dense: keras.layers.Dense, x: Any) -> Any:
        if len(x.shape) != 4 or dense.quantization_mode:
            return dense(x)
        return self.layer(id(dense), lambda: as_convolution(dense, "channels_last", dense.name))(x)
