"""What every network here has: a configuration that knows its strides and its layers."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import keras

from coatnet_tf.layers import common
from coatnet_tf.layers.options import is_positive_int

ImageShape = tuple[int, int, int]  # height, width, channels
Preprocessing = Literal["tf", "torch"]


class Network(abc.ABC):
    """What the builder of models asks of a configuration: of a CoAtNet, or of one of its rivals in Table 5."""

    name: str
    preprocessing: Preprocessing
    drop_path_rate: float

    @abc.abstractmethod
    def strides(self) -> list[tuple[str, int]]:
        """Stages of the network with their strides, in order."""

    @abc.abstractmethod
    def feature_layers(self, input_shape: ImageShape, dtype: Any = None) -> list[keras.layers.Layer]:
        """The unbuilt layers from the preprocessed image on, each called on the one before.

        Args:
            input_shape: `(height, width, channels)`.
            dtype: Dtype policy of the layers; Keras' global one by default.
        """

    def map_layers(self, input_shape: ImageShape, dtype: Any = None) -> list[keras.layers.Layer]:
        """Those from the features to a feature map `[batch, H / total_stride, W / total_stride, width]`."""
        return []

    @abc.abstractmethod
    def head_layers(self, classes: int, activation: Any, dtype: Any = None) -> list[keras.layers.Layer]:
        """Those from the features to the classes."""

    @property
    def total_stride(self) -> int:
        """Input pixels per position of the last feature map, along each axis."""
        product = 1
        for _, stride in self.strides():
            product *= stride
        return product

    def drop_path_rates(self, num_blocks: int) -> list[float]:
        """Stochastic depth rate of every block: from 0, linearly, to that of the last."""
        return [self.drop_path_rate * index / max(1, num_blocks - 1) for index in range(num_blocks)]

    def check_input_shape(self, input_shape: Sequence[Any]) -> None:
        """Refuses input shapes that the network cannot take.

        Args:
            input_shape: `(height, width, channels)`.

        Raises:
            ValueError: If it is not three positive integers, or a stage cannot divide it by its stride.
        """
        shape = tuple(input_shape) if isinstance(input_shape, Iterable) else (input_shape,)
        if len(shape) != 3 or not all(map(is_positive_int, shape)):
            raise ValueError(
                f"{self.name}: input_shape must be (height, width, channels), three positive integers; got {shape}."
            )
        if shape[0] in (1, 3) and shape[2] > 4:
            raise ValueError(f"{self.name}: input_shape is (height, width, channels), channels last; got {shape}.")
        for axis, size in zip(("height", "width"), shape[:2], strict=True):
            left = size
            for stage, stride in self.strides():
                if left % stride:
                    below = size // self.total_stride * self.total_stride
                    near = [str(n) for n in (below, below + self.total_stride) if n]
                    raise ValueError(
                        f"{self.name}: stage {stage} cannot divide an input of {axis} {size} by {stride} (it arrives "
                        f"there as {left}); choose a multiple of {self.total_stride}, such as {' or '.join(near)}."
                    )
                left //= stride


def classifier_layers(
    classes: int, activation: Any, dropout: float, initializer: Any = None, dtype: Any = None
) -> list[keras.layers.Layer]:
    """Dropout, if any, and the classifier, in float32: probabilities and logits in bfloat16 would be of little use."""
    layers: list[keras.layers.Layer] = []
    if dropout:
        layers.append(keras.layers.Dropout(dropout, dtype=dtype, name="head_dropout"))
    policy = keras.dtype_policies.get(dtype)
    half = policy.compute_dtype in ("float16", "bfloat16")
    return [
        *layers,
        common.dense(
            classes, initializer, activation=activation, dtype="float32" if half else policy, name="predictions"
        ),
    ]
