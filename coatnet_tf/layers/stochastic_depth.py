"""Stochastic depth (Huang et al., arXiv:1603.09382), per image."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from coatnet_tf.layers.options import Rate, check


@keras.saving.register_keras_serializable(package="coatnet_tf")
class StochasticDepth(keras.layers.Layer):
    """Drops a residual branch of each image at random, and scales the survivors up.

    In training, `output = input * keep / (1 - rate)` with `keep` drawn from Bernoulli(1 - rate) once
    per image; otherwise the input is returned as it is.

    Args:
        rate: Probability of dropping a branch, at least 0 and below 1.
        seed: Integer seed, or `None` for a random one.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `rate` is out of range.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import StochasticDepth
    >>> branch = np.ones((64, 4, 4, 8), "float32")
    >>> kept = np.asarray(StochasticDepth(0.5, seed=0)(branch, training=True))
    >>> sorted({float(value) for value in kept.ravel()})
    [0.0, 2.0]
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check("rate", rate, Rate)
        self.rate = rate
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed) if rate else None

    def build(self, input_shape: tuple[Any, ...]) -> None:
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not training or not self.rate:
            return inputs
        keep_rate = 1.0 - self.rate
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        # Drawn in float32: bfloat16 would round the rate itself.
        keep = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator) < keep_rate
        return inputs * (ops.cast(keep, inputs.dtype) / keep_rate)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
