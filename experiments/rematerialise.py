"""Recomputing a layer's activations in the backward pass, in place of keeping them."""

from __future__ import annotations

import keras
import tensorflow as tf


def rematerialised(layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
    """Calls a layer for training without keeping its inner activations.

    `keras.RematScope` would update BatchNorm's averages twice and drop other branches the second time:
    here the second call works on copies of the layer's state, with the random state of the first.

    Args:
        layer: A built layer of one input and one output.
        inputs: Its input.

    Returns:
        Its output, with the gradients it would have otherwise.
    """
    states = [variable for variable in layer.variables if variable.path.endswith("seed_generator_state")]
    before = [(state, tf.identity(state.value)) for state in states]
    calls = 0

    @tf.recompute_grad
    def call(x: tf.Tensor) -> tf.Tensor:
        nonlocal calls
        calls += 1
        if calls == 1:
            return layer(x, training=True)
        with keras.StatelessScope(state_mapping=before, initialize_variables=False):  # none are made here
            return layer(x, training=True)

    return call(inputs)
