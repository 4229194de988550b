"""BatchNorm by TensorFlow's kernel agrees with its plain equal: outputs, gradients and averages."""

import keras
import numpy as np
import pytest

from coatnet_tf.layers import BatchNormalization, tensorflow_norms

if not tensorflow_norms.is_there():
    pytest.skip("TensorFlow's kernel", allow_module_level=True)

import tensorflow as tf

LAYERS = (keras.layers.BatchNormalization, BatchNormalization)


def trained(layer_class, shape, mean, **options):
    """Output and gradients of a step, and the averages after it."""
    generator = np.random.default_rng(0)
    x, weight = (tf.constant(generator.normal(m, 2, shape), "float32") for m in (mean, 0))
    layer = layer_class(momentum=0.9, epsilon=1e-3, **options)
    layer.build(shape)
    for variable in layer.trainable_variables:
        variable.assign(generator.uniform(0.5, 2, variable.shape))
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, training=True)
        loss = tf.reduce_sum(outputs * weight)
    watched = [x, *(variable.value for variable in layer.trainable_variables)]
    averages = [layer.moving_mean.value, layer.moving_variance.value]
    return [value.numpy() for value in (outputs, *tape.gradient(loss, watched), *averages)]


@pytest.mark.parametrize("mean", [0.0, 50.0])
@pytest.mark.parametrize("shape", [(4, 6, 5, 8), (2, 1, 1, 3), (1, 1, 1, 8), (3, 17, 9, 1)], ids=str)
def test_the_kernel_agrees_with_keras(shape, mean, monkeypatch):
    called = []
    kernel = tensorflow_norms.batch_norm
    monkeypatch.setattr(tensorflow_norms, "batch_norm", lambda *args: called.append(1) or kernel(*args))
    expected, found = (trained(layer, shape, mean) for layer in LAYERS)
    assert called == [1] and len(found) == len(expected) == 6
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * max(1.0, mean))


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 6), {}),
        ((4, 6, 5, 8), {"scale": False}),
        ((4, 6, 5, 8), {"center": False}),
        ((4, 6, 5, 8), {"axis": 1}),
    ],
    ids=str,
)
def test_what_has_no_kernel_is_left_to_keras(shape, options, monkeypatch):
    monkeypatch.delattr(tensorflow_norms, "batch_norm")
    expected, found = (trained(layer, shape, 1.0, **options) for layer in LAYERS)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("trainable", [True, False])
def test_inference_and_frozen_layers_use_the_averages(trainable, monkeypatch):
    monkeypatch.delattr(tensorflow_norms, "batch_norm")
    images = np.random.default_rng(0).normal(1, 2, (2, 3, 3, 4)).astype("float32")
    layer = BatchNormalization(trainable=trainable)
    found = layer(images, training=not trainable)
    np.testing.assert_allclose(found, images / np.sqrt(1 + layer.epsilon), rtol=1e-5)
    assert not layer.moving_mean.numpy().any()
