"""The models: signature, names, saving, mixed precision, XLA, and what they refuse."""

import inspect

import keras
import numpy as np
import pytest

import coatnet_tf
from coatnet_tf import layers

FACTORIES = [getattr(coatnet_tf, f"CoAtNet{number}") for number in range(8)]


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_signature_is_that_of_keras_applications(factory):
    theirs = inspect.signature(keras.applications.EfficientNetV2B0).parameters
    ours = inspect.signature(factory).parameters
    assert set(ours) == {*theirs, "dtype", "options"}
    differing = {"name", "weights"}  # ours has no weights to download
    for name in set(theirs) - differing:
        assert ours[name].default == theirs[name].default, name
    assert ours["name"].default == factory.__name__.lower()
    assert "Table" in factory.__doc__


def test_factory_builds_what_its_arguments_say():
    model = coatnet_tf.CoAtNet0(
        input_shape=(64, 32, 1),
        classes=7,
        name="mine",
        downsampling="depthwise_conv",
        relative_attention=False,
        drop_path_rate=0.2,
        dropout=0.3,
    )
    assert (model.name, model.input_shape, model.output_shape) == ("mine", (None, 64, 32, 1), (None, 7))
    assert model.get_layer("s1_block01").config.downsampling == "depthwise_conv"
    assert not model.get_layer("s3_block01").config.attention.relative_attention
    rates = [layer.drop_path_rate for layer in model.layers if hasattr(layer, "drop_path_rate")]
    np.testing.assert_allclose(rates, 0.2 * np.arange(12) / 11)
    assert model.get_layer("head_dropout").rate == 0.3


def test_layer_names_are_paths(tiny):
    model = coatnet_tf.CoAtNet(tiny, input_shape=(32, 32, 3))
    names = [layer.name for layer in model._flatten_layers()]
    for name in ("stem_conv02", "s1_block01", "s2_block02_expand_conv", "s3_block02_attention", "predictions"):
        assert names.count(name) == 1, name
    paths = [variable.path for variable in model.variables]
    assert len(set(paths)) == len(paths)


def test_blocks_of_a_mixed_stage_are_numbered_through():
    stages = (
        coatnet_tf.StageConfig("s1", "mbconv", 2, 8),
        coatnet_tf.StageConfig("s1", "transformer", 1, 32, stride=1),
    )
    config = coatnet_tf.CoAtNetConfig("mixed", coatnet_tf.StemConfig(1, 8), stages)
    model = coatnet_tf.CoAtNet(config, input_shape=(16, 16, 3), include_top=False)
    assert [layer.name for layer in model.layers[-3:]] == ["s1_block01", "s1_block02", "s1_block03"]
    assert model.output_shape == (None, 4, 4, 32)


@pytest.mark.parametrize(("pooling", "shape"), [(None, (2, 2, 3, 48)), ("avg", (2, 48)), ("max", (2, 48))])
def test_features_without_the_top(tiny, images, pooling, shape):
    model = coatnet_tf.CoAtNet(tiny, include_top=False, input_shape=(32, 48, 3), pooling=pooling)
    assert tuple(model(images).shape) == shape


def test_preprocessing_is_in_the_model_or_before_it(tiny, images):
    inside = coatnet_tf.CoAtNet(tiny, input_shape=(32, 48, 3))
    outside = coatnet_tf.CoAtNet(tiny, input_shape=(32, 48, 3), include_preprocessing=False)
    outside.set_weights(inside.get_weights())
    expected = inside.predict(images, verbose=0)
    rescaled = coatnet_tf.rescale(images)
    assert images.max() > 1  # still the caller's
    assert (rescaled.min() >= -1) and (rescaled.max() <= 1)
    np.testing.assert_allclose(outside.predict(rescaled, verbose=0), expected, rtol=1e-4)
    np.testing.assert_allclose(expected.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(
        inside.predict(images.astype("uint8"), verbose=0),
        inside.predict(images.astype("uint8").astype("float32"), verbose=0),
    )


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_the_habit_of_keras_applications_gives_right_answers(tiny, images, dtype):
    model = coatnet_tf.CoAtNet(tiny, input_shape=(32, 48, 3))
    images = images.astype(dtype)
    expected = model.predict(images.copy(), verbose=0)
    np.testing.assert_array_equal(model.predict(coatnet_tf.preprocess_input(images), verbose=0), expected)
    with pytest.raises(ValueError, match=r"got 'torch'.*coatnet_tf.rescale\(x, "):
        coatnet_tf.preprocess_input(images, "torch")


@pytest.mark.parametrize("mode", ["tf", "torch"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_rescale_is_what_models_do_inside(tiny, mode, channels):
    """For arrays, which stay as they are, tensors and datasets, of whole numbers too."""
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 48, channels)).astype("uint8")
    model = coatnet_tf.CoAtNet(tiny, input_shape=(32, 48, channels), preprocessing=mode)
    inside = keras.Model(model.inputs, model.get_layer("preprocessing").output)
    expected = inside.predict(images, verbose=0)
    before = images.copy()
    for dtype in ("uint8", "float32", "float64"):
        mine = images.astype(dtype)
        found = coatnet_tf.rescale(mine, mode)
        assert isinstance(found, np.ndarray) and found.dtype == "float32"
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_array_equal(mine, before)
    found = coatnet_tf.rescale(keras.ops.convert_to_tensor(images), mode)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), expected, atol=1e-6)
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(images).map(lambda x: coatnet_tf.rescale(x, mode)).batch(2)
    np.testing.assert_allclose(next(dataset.as_numpy_iterator()), expected, atol=1e-6)  # whatever backend Keras has


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tensors whose shape is not known")
def test_rescale_where_the_channels_are_not_known():
    import tensorflow as tf

    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype("uint8")
    file = tf.io.encode_png(image)
    for decode in (tf.io.decode_png, tf.io.decode_image):  # without channels, and without a rank
        files = tf.data.Dataset.from_tensors(file)
        (found,) = files.map(lambda data, decode=decode: coatnet_tf.rescale(decode(data), "tf"))
        np.testing.assert_allclose(found, coatnet_tf.rescale(image), atol=1e-6)
        with pytest.raises(ValueError, match="needs the number of channels, which x does not say"):
            files.map(lambda data, decode=decode: coatnet_tf.rescale(decode(data), "torch"))
    np.testing.assert_allclose(coatnet_tf.rescale(image.tolist(), "torch"), coatnet_tf.rescale(image, "torch"))


def test_torch_of_other_channel_counts_is_the_mean_of_its_numbers():
    grey = coatnet_tf.rescale(np.full((1, 2, 2, 1), 255 * 0.449), "torch")
    np.testing.assert_allclose(grey, 0.0, atol=1e-6)
    white = coatnet_tf.rescale(np.full((1, 2, 2, 5), 255.0), "torch")
    np.testing.assert_allclose(white, (1 - 0.449) / 0.226, rtol=1e-5)


def test_input_tensor_and_logits(tiny, images):
    tensor = keras.Input((32, 48, 3))
    flipped = keras.layers.RandomFlip()(tensor)
    model = coatnet_tf.CoAtNet(tiny, input_tensor=flipped, classifier_activation=None, classes=4)
    assert model.inputs[0] is tensor
    assert tuple(model(images).shape) == (2, 4)


@pytest.mark.parametrize("conv_norm", ["batch_norm", "layer_norm"])
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_saved_models_give_the_same_outputs(tiny, images, tmp_path, suffix, conv_norm):
    config = coatnet_tf.get_config(tiny, conv_norm=conv_norm, drop_path_rate=0.1, dropout=0.1)
    model = coatnet_tf.CoAtNet(config, input_shape=(32, 48, 3), classes=5)
    for variable in model.weights:  # moving statistics and biases too are to come back
        variable.assign(np.abs(np.random.default_rng(0).normal(0.1, 0.1, variable.shape)))
    path = tmp_path / f"model{suffix}"
    if suffix == ".keras":
        model.save(path)
        copies = [keras.models.load_model(path)]
    else:
        model.save_weights(path)
        copies = []
    copies.append(coatnet_tf.CoAtNet(config, input_shape=(32, 48, 3), classes=5, weights=path))
    expected = model.predict(images, verbose=0)
    for copy in copies:
        np.testing.assert_array_equal(copy.predict(images, verbose=0), expected)


def test_model_survives_its_config(tiny, images):
    model = coatnet_tf.CoAtNet(tiny, input_shape=(32, 48, 3), classes=5)
    copy = keras.Model.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(copy.predict(images, verbose=0), model.predict(images, verbose=0))


def test_frozen_blocks_stay_frozen(tiny, tmp_path):
    """In copies of a model, and in a model of models."""
    model = coatnet_tf.CoAtNet(tiny, input_shape=(32, 32, 3), include_top=False, pooling="avg")
    for layer in model.layers:
        layer.trainable = not layer.name.startswith("s2")
    whole = keras.Sequential([model, keras.layers.Dense(2)])
    whole.save(tmp_path / "whole.keras")
    copies = [keras.models.load_model(tmp_path / "whole.keras").layers[0], keras.models.clone_model(model)]
    names = [variable.path.partition("/")[2] for variable in model.trainable_variables]
    assert 0 < len(names) < len([v for v in model.variables if v.path.partition("/")[0] != "s2"])
    for copy in copies:
        assert [variable.path.partition("/")[2] for variable in copy.trainable_variables] == names


def test_mixed_precision_is_close_to_float32_and_ends_in_float32(tiny, images):
    arguments = {"input_shape": (32, 48, 3), "classes": 5, "classifier_activation": None}
    config = coatnet_tf.get_config(tiny, kernel_initializer="lecun_normal")
    reference = coatnet_tf.CoAtNet(config, **arguments)
    model = coatnet_tf.CoAtNet(config, **arguments, dtype="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    model.set_weights(reference.get_weights())
    expected, output = np.asarray(reference(images)), model(images)
    assert model.get_layer("s2_block01").compute_dtype == "bfloat16"
    assert all(variable.dtype == "float32" for variable in model.weights)
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    assert np.abs(output - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("norm", ["batch_norm", "layer_norm"])
def test_norms_statistics_are_float32_under_mixed_precision(norm):
    """Of values around 100 in bfloat16, whose squares in bfloat16 would lose the variance altogether."""
    inputs = np.random.default_rng(0).normal(100, 1, (8, 4, 4, 16)).astype("float32")
    layer = layers.common.make_norm(norm, dtype="mixed_bfloat16")
    output = np.asarray(
        keras.ops.cast(layer(inputs, **({"training": True} if norm == "batch_norm" else {})), "float32")
    )
    assert output.std() == pytest.approx(1.0, abs=0.02)
    assert abs(output.mean()) < 0.02


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compiles a tf.function")
def test_training_step_compiles_with_xla_and_gradients_reach_every_weight(tiny, images):
    import tensorflow as tf

    config = coatnet_tf.get_config(tiny, drop_path_rate=0.1, dropout=0.1)
    model = coatnet_tf.CoAtNet(config, input_shape=(32, 48, 3), classes=5)

    optimizer = keras.optimizers.AdamW(1e-3)
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=True)
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=True)[:, 0])
        gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        optimizer.apply(gradients, model.trainable_variables)
        return gradients

    before = model.get_weights()
    for variable, gradient in zip(model.trainable_variables, step(), strict=True):
        if not variable.path.endswith("key/bias"):  # shifts all logits of a query alike: its gradient is 0
            assert float(tf.reduce_max(tf.abs(gradient))) > 0, variable.path
    for variable, theirs in zip(model.weights, before, strict=True):
        assert variable.path.endswith("key/bias") or (np.asarray(variable) != theirs).any(), variable.path


def test_images_of_another_channel_count_are_refused(tiny):
    model = coatnet_tf.CoAtNet(tiny, input_shape=(32, 32, 3))
    with pytest.raises(ValueError, match="expected axis -1 of input shape to have value 3"):
        model.predict(np.zeros((2, 32, 32, 1)), verbose=0)


def test_decode_predictions_refuses_other_shapes():
    with pytest.raises(ValueError, match="decode_predictions"):
        coatnet_tf.decode_predictions(np.zeros((2, 10)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (100, 96, 3)}, "stage s3 cannot divide an input of height 100 by 2 .* such as 96 or 112"),
        ({"input_shape": (32, 40, 3)}, "stage s4 cannot divide an input of width 40"),
        ({"input_shape": (8, 32, 3)}, "such as 16"),
        ({"input_shape": (None, 32, 3)}, "three positive integers"),
        ({"input_shape": (32, 32)}, "input_shape must be \\(height, width, channels\\)"),
        ({"input_shape": (32, 32, 0)}, "three positive integers"),
        ({"input_shape": (3, 32, 32)}, "channels last; got \\(3, 32, 32\\)"),
        ({"pooling": "mean"}, 'pooling must be None, "avg" or "max"'),
        ({"classes": 0}, "classes must be a positive integer"),
        ({"input_tensor": np.zeros((1, 32, 32, 3))}, "must be a Keras tensor"),
        (
            {"input_tensor": keras.Input((32, 32, 3), dtype="uint8"), "include_preprocessing": False},
            "input_tensor is uint8, and without preprocessing the network takes floating-point images",
        ),
        ({"input_tensor": keras.Input((32, 32, 1)), "input_shape": (32, 32, 3)}, "disagree"),
        ({"drop_path_rate": -0.1}, "drop_path_rate must be at least 0"),
        ({"clases": 3}, "There is no argument 'clases'; the nearest is classes"),
        ({"head_sise": 8}, "has no field 'head_sise'; the nearest are head_size"),
        ({"pool": "avg"}, "pool is a field in several places; say which one: mbconv={'pool': ...} or transformer="),
        ({"mbconv": {"pool": "mean"}}, "pool must be one of max, max3, avg; got 'mean'"),
        ({"dtype": "float99"}, "Cannot convert 'float99'"),
    ],
)
def test_bad_arguments_are_refused(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        coatnet_tf.CoAtNet(tiny, **arguments)
