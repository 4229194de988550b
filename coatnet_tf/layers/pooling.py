"""How blocks halve the resolution: pools, and the border of strided convolutions.

Keras' "same" puts windows of three pixels with stride 2 around the odd pixels of an even image; PyTorch, and so the
networks that were trained in it, around the even ones.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from coatnet_tf.layers.options import Shape

Pool = Literal["max", "max3", "avg"]
Padding = Literal["same", "centred"]


def make_pool(pool: Pool, **kwargs: Any) -> keras.layers.Layer:
    """A pool that halves the resolution: `"max"` and `"avg"` of 2x2, `"max3"` of 3x3 around the even pixels."""
    if pool == "max3":
        return CentredMaxPooling2D(**kwargs)
    kind = keras.layers.MaxPooling2D if pool == "max" else keras.layers.AveragePooling2D
    return kind(2, padding="same", data_format="channels_last", **kwargs)


def make_padding(kernel_size: int, **kwargs: Any) -> keras.layers.Layer:
    """The border that makes a "valid" convolution with stride 2 one around the even pixels of an even image."""
    border = (kernel_size // 2, kernel_size // 2 - 1)
    return keras.layers.ZeroPadding2D((border, border), data_format="channels_last", **kwargs)


@keras.saving.register_keras_serializable(package="coatnet_tf")
class CentredMaxPooling2D(keras.layers.Layer):
    """3x3 max pool with stride 2 around the even pixels.

    Inputs are `[batch, H, W, C]` with H and W even, outputs `[batch, H / 2, W / 2, C]`.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import CentredMaxPooling2D
    >>> image = np.array([1.0, 2.0, 3.0, 4.0]).reshape((1, 1, 4, 1)).repeat(2, axis=1)
    >>> np.asarray(CentredMaxPooling2D()(image))[0, 0, :, 0].tolist()
    [2.0, 4.0]
    """

    def build(self, input_shape: Shape) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        x = ops.pad(inputs, ((0, 0), (1, 0), (1, 0), (0, 0)), constant_values=float("-inf"))
        return ops.max_pool(x, 3, 2, padding="valid", data_format="channels_last")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        return (batch, *(None if size is None else size // 2 for size in (height, width)), channels)

    def get_config(self) -> dict[str, Any]:
        return super().get_config()
