"""BatchNorm by TensorFlow's kernel and GELU by XLA agree with their plain equals, gradients and averages too."""

import keras
import numpy as np
import pytest

from coatnet_tf.layers import BatchNormalization, common, tensorflow_training

if not tensorflow_training.is_there():
    pytest.skip("TensorFlow's kernel", allow_module_level=True)

import tensorflow as tf

LAYERS = (keras.layers.BatchNormalization, BatchNormalization)


def trained(layer_class, shape, mean, dtype="float32", **options):
    """Output and gradients of a step, and the averages after it."""
    generator = np.random.default_rng(0)
    x, weight = (tf.constant(generator.normal(m, 2, shape), "float32") for m in (mean, 0))
    policy = dtype if dtype == "float32" else f"mixed_{dtype}"
    layer = layer_class(momentum=0.9, epsilon=1e-3, dtype=policy, **options)
    layer.build(shape)
    for variable in layer.trainable_variables:
        variable.assign(generator.uniform(0.5, 2, variable.shape))
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, training=True)
        loss = tf.reduce_sum(tf.cast(outputs, "float32") * weight)
    watched = [x, *(variable.value for variable in layer.trainable_variables)]
    averages = [layer.moving_mean.value, layer.moving_variance.value]
    assert outputs.dtype == dtype
    return [tf.cast(value, "float32").numpy() for value in (outputs, *tape.gradient(loss, watched), *averages)]


@pytest.mark.parametrize("mean", [0.0, 50.0])
@pytest.mark.parametrize("shape", [(4, 6, 5, 8), (2, 1, 1, 3), (1, 1, 1, 8), (3, 17, 9, 1)], ids=str)
def test_the_kernel_agrees_with_keras(shape, mean, monkeypatch):
    called = []
    kernel = tensorflow_training.batch_norm
    monkeypatch.setattr(tensorflow_training, "batch_norm", lambda *args: called.append(1) or kernel(*args))
    expected, found = (trained(layer, shape, mean) for layer in LAYERS)
    assert called == [1] and len(found) == len(expected) == 6
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * max(1.0, mean))


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_the_kernel_takes_numbers_of_16_bits(half):
    """To the rounding of its inputs; the averages are of float32."""
    (*expected, mean, variance), found = (
        trained(layer, (4, 6, 5, 8), 1.0, dtype) for layer, dtype in zip(LAYERS, ("float32", half), strict=True)
    )
    for ours, theirs in zip(found, expected, strict=False):
        np.testing.assert_allclose(ours, theirs, atol=0.01 * np.abs(theirs).max())
    for ours, theirs in zip(found[-2:], (mean, variance), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4)


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
    monkeypatch.delattr(tensorflow_training, "batch_norm")
    expected, found = (trained(layer, shape, 1.0, **options) for layer in LAYERS)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("trainable", [True, False])
def test_inference_and_frozen_layers_use_the_averages(trainable, monkeypatch):
    monkeypatch.delattr(tensorflow_training, "batch_norm")
    images = np.random.default_rng(0).normal(1, 2, (2, 3, 3, 4)).astype("float32")
    layer = BatchNormalization(trainable=trainable)
    found = layer(images, training=not trainable)
    np.testing.assert_allclose(found, images / np.sqrt(1 + layer.epsilon), rtol=1e-5)
    assert not layer.moving_mean.numpy().any()


def gelu(x, weight):
    """Its values and gradients, in a graph, as a step has it."""

    @tf.function(autograph=False)
    def call(x, weight):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = common.gelu(x)
            loss = tf.reduce_sum(y * tf.cast(weight, y.dtype))
        return y, tape.gradient(loss, x)

    return [tf.cast(value, "float32").numpy() for value in call(x, weight)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 5e-3)])
def test_gelu_of_xla_agrees_with_keras(dtype, tolerance):
    """With Keras' of float64, as its own gradient of float32 and bfloat16 is a sum of rounded terms."""
    generator = np.random.default_rng(0)
    x = np.concatenate([np.linspace(-30, 30, 2**19), generator.normal(0, 1, 2**19)]).reshape(4, 2**9, 2**9)
    weight = generator.normal(0, 1, x.shape)
    x, weight = (tf.cast(value, dtype) for value in (x, weight))
    expected = gelu(tf.cast(x, "float64"), weight)
    with tensorflow_training.compiling() as shapes:
        found = gelu(x, weight)
    assert shapes == [(4, 2**9, 2**9)]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def test_small_gelus_are_not_compiled_nor_those_outside():
    with tensorflow_training.compiling() as shapes:
        common.gelu(tf.zeros((2**20 - 1,)))
        assert common.gelu(tf.zeros((2**20,), "float64")).dtype == "float64"
    common.gelu(tf.zeros((2**20,)))
    with tensorflow_training.compiling():
        tf.function(common.gelu, input_signature=[tf.TensorSpec((None, 2**20))]).get_concrete_function()
    assert shapes == []


def test_without_xla_nothing_is_compiled(monkeypatch):
    def refuse(x):
        raise tf.errors.UnimplementedError(None, None, "built without XLA")

    large = tf.ones((2**20,))
    monkeypatch.setattr(tensorflow_training, "_compiled", lambda: (refuse, refuse))
    monkeypatch.setattr(tensorflow_training, "_can_compile", tensorflow_training._can_compile.__wrapped__)
    with tensorflow_training.compiling() as shapes:
        np.testing.assert_allclose(common.gelu(large)[0], 0.841192, rtol=1e-5)
    assert shapes == []
