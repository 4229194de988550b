"""What training computes in another way with 16-bit numbers agrees with its plain equal, gradients too."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import coatnet_tf
from coatnet_tf import layers
from coatnet_tf.layers import half_precision

TOLERANCE = {"float32": 1e-5, "bfloat16": 0.03, "float16": 0.005}


def draw(*shape, seed=0, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1.0, shape).astype("float32")


def with_gradients(function, inputs, weight):
    """A function's output and the gradients of its weighted sum, as float32 arrays."""
    if keras.backend.backend() == "jax":
        import jax

        @jax.jit
        def both(*inputs):
            outputs, backward = jax.vjp(function, *inputs)
            return outputs, backward(ops.cast(weight, outputs.dtype))

        outputs, gradients = both(*map(ops.convert_to_tensor, inputs))
    else:
        import tensorflow as tf

        inputs = [tf.convert_to_tensor(x) for x in inputs]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = function(*inputs)
        gradients = tape.gradient(outputs, inputs, tf.cast(weight, outputs.dtype))
    return [ops.convert_to_numpy(ops.cast(x, "float32")) for x in (outputs, *gradients)]


def assert_close(found, expected, dtype, factor=1):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= factor * TOLERANCE[dtype] * np.abs(b).max()


def plain(query, key, value, bias):
    query, key, value = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))
    logits = ops.cast(ops.matmul(query, ops.swapaxes(key, -1, -2)), "float32") + bias
    return ops.matmul(ops.cast(ops.softmax(logits), value.dtype), value)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("scale", [1.0, 4.0], ids=["flat", "peaked"])
def test_attend_is_softmax_times_value(dtype, scale):
    inputs = [scale * draw(2, 12, 3, 8, seed=1), *(draw(2, 12, 3, 8, seed=seed) for seed in (2, 3))]
    inputs = [ops.cast(x, dtype) for x in inputs] + [draw(1, 3, 12, 12, seed=4)]
    weight = draw(2, 3, 12, 8, seed=5)
    expected = with_gradients(plain, inputs, weight)
    # Compilers differ in where they round products of 16-bit numbers, by a sixteenth where these are about 12.
    assert_close(with_gradients(half_precision.attend, inputs, weight), expected, dtype, 2 if scale > 1 else 1)


@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_moments_in_one_pass(mean):
    x = ops.convert_to_numpy(ops.cast(ops.cast(draw(64, 5, 5, 8, mean=mean), "bfloat16"), "float32"))
    found = half_precision.moments(ops.cast(x, "bfloat16"), (0, 1, 2))
    assert [tuple(moment.shape) for moment in found] == [(1, 1, 1, 8)] * 2
    for moment, expected in zip(
        found, (x.astype("float64").mean((0, 1, 2)), x.astype("float64").var((0, 1, 2))), strict=True
    ):
        assert np.asarray(moment).ravel() == pytest.approx(expected, rel=2e-3, abs=2e-3)


def make(kind, dtype):
    if kind == "attention":
        return layers.RelativeSelfAttention(32, head_size=8, kernel_initializer="glorot_uniform", dtype=dtype)
    return layers.common.make_norm(kind, dtype=dtype)


@pytest.mark.parametrize("kind", ["batch_norm", "layer_norm", "attention"])
def test_layers_train_as_in_float32(kind):
    """Outputs, gradients and moving statistics of the layer in bfloat16, to the rounding of its inputs."""
    x, weight = draw(4, 6, 6, 32, mean=0.5), draw(4, 6, 6, 32, seed=1)
    arguments = {} if kind == "layer_norm" else {"training": True}
    made = [make(kind, dtype) for dtype in ("float32", "mixed_bfloat16")]
    for layer in made:
        layer.build(x.shape)
        layer.set_weights(made[0].get_weights())

    def call(layer, x):
        with keras.StatelessScope():
            return layer(x, **arguments)

    expected, found = (with_gradients(functools.partial(call, layer), [x], weight) for layer in made)
    assert_close(found, expected, "bfloat16")
    for layer in made:
        layer(x, **arguments)
    for a, b in zip(*(layer.non_trainable_variables for layer in made), strict=True):
        assert ops.convert_to_numpy(a) == pytest.approx(ops.convert_to_numpy(b), abs=2e-3)


def test_float32_layer_norm_is_computed_as_keras_does():
    x = draw(8, 4, 4, 16, mean=1000.0)
    found, expected = layers.LayerNormalization()(x), keras.layers.LayerNormalization()(x)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_float32_batch_norm_is_at_least_as_exact_as_that_of_keras():
    x = draw(8, 4, 4, 16, mean=1000.0)
    exact = x.astype("float64") - x.astype("float64").mean(axis=(0, 1, 2))
    exact /= np.sqrt((exact**2).mean(axis=(0, 1, 2)) + 1e-3)
    ours, theirs = (
        np.abs(np.asarray(layer(epsilon=1e-3)(x, training=True)) - exact).max()
        for layer in (layers.BatchNormalization, keras.layers.BatchNormalization)
    )
    assert ours <= theirs < 1e-2


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float16"])
@pytest.mark.parametrize("options", [{}, {"bias_reindexing": "einsum"}, {"relative_mlp_units": 8}])
def test_every_policy_trains_down_to_one_position(tiny, dtype, options):
    """A last map of one pixel, whose attention has one position; weights in 16 bits too."""
    model = coatnet_tf.CoAtNet(tiny, input_shape=(16, 16, 3), classes=3, dtype=dtype, **options)
    assert model.get_layer("s4_block01").output.shape[1:3] == (1, 1)
    model.compile("sgd", "sparse_categorical_crossentropy")
    images = np.random.default_rng(0).uniform(0, 255, (8, 16, 16, 3))
    history = model.fit(images, np.arange(8) % 3, batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
