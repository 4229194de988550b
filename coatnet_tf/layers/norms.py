"""Keras' norms, which read 16-bit input once for both moments: BatchNorm in training, LayerNorm always.

BatchNorm is trained by TensorFlow's own kernel, where Keras runs on TensorFlow.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from coatnet_tf.layers import half_precision, tensorflow_training

_OF_KERNEL = ("float32", *half_precision.DTYPES)


@keras.saving.register_keras_serializable(package="coatnet_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, trained in one pass; the same arguments, weights and inference.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import BatchNormalization
    >>> norm = BatchNormalization(dtype="mixed_bfloat16")
    >>> np.asarray(norm(np.array([[0.0], [4.0]], "float32"), training=True)).astype("float32").ravel().tolist()
    [-1.0, 1.0]
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not (training and self.trainable and mask is None and self._has_kernel(inputs)):
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = tensorflow_training.batch_norm(inputs, self.gamma, self.beta, self.epsilon)
        for moving, of_batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + of_batch * (1.0 - self.momentum))
        return outputs

    def _has_kernel(self, inputs: Any) -> bool:
        of_images = len(inputs.shape) == 4 and self.axis in (-1, 3)
        usual = self.scale and self.center and not self.synchronized and not getattr(self, "renorm", False)
        dtypes = self.compute_dtype in _OF_KERNEL and self.variable_dtype == "float32"
        return tensorflow_training.is_there() and dtypes and of_images and usual

    def _moments(self, inputs: Any, mask: Any) -> tuple[Any, Any]:
        if mask is not None or self.synchronized or self.compute_dtype not in half_precision.DTYPES:
            return super()._moments(inputs, mask)
        mean, variance = half_precision.moments(inputs, self._reduction_axes)
        return ops.squeeze(mean, self._reduction_axes), ops.squeeze(variance, self._reduction_axes)


@keras.saving.register_keras_serializable(package="coatnet_tf")
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` in one pass; the same arguments and weights.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import LayerNormalization
    >>> norm = LayerNormalization(dtype="mixed_bfloat16")
    >>> np.asarray(norm(np.array([[0.0, 4.0]], "float32"))).astype("float32").ravel().tolist()
    [-1.0, 1.0]
    """

    def call(self, inputs: Any) -> Any:
        if self.compute_dtype not in half_precision.DTYPES or self.axis not in (-1, [-1]) or self.rms_scaling:
            return super().call(inputs)
        mean, variance = half_precision.moments(inputs, -1)
        scale = ops.rsqrt(variance + self.epsilon)
        x = ops.cast(inputs, "float32") * scale - mean * scale
        if self.gamma is not None:
            x = x * ops.cast(self.gamma, "float32")
        if self.beta is not None:
            x = x + ops.cast(self.beta, "float32")
        return ops.cast(x, self.compute_dtype)
