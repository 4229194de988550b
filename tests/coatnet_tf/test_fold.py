"""Folding: the same outputs from fewer operations, and what it refuses."""

import dataclasses

import keras
import numpy as np
import pytest

import coatnet_tf
from coatnet_tf import fold, layers


def randomise(model):
    """Weights as after training: norms that scale and shift, statistics that are not those of the start."""
    generator = np.random.default_rng(0)
    for variable in model.variables:
        shape = tuple(variable.shape)
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(generator.uniform(0.5, 1.5, shape))
        elif variable.path.endswith(("kernel", "table")):
            variable.assign(generator.normal(0, 1 / np.sqrt(np.prod(shape[:-1])), shape))
        elif "seed" not in variable.path:
            variable.assign(generator.normal(0, 0.3, shape))
    return model


def assert_same_outputs(folded, model, shape=(3, 32, 48, 3), tolerance=1e-4):
    images = np.random.default_rng(1).uniform(0, 255, shape).astype("float32")
    images[0] = 0  # far from the grey that the preprocessing maps to zero
    expected, found = (keras.ops.convert_to_numpy(m(images)) for m in (model, folded))
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def logits(config, **arguments):
    return randomise(
        coatnet_tf.CoAtNet(
            config, **{"input_shape": (32, 48, 3), "classes": 5, "classifier_activation": None, **arguments}
        )
    )


def kinds(model):
    return [type(layer).__name__ for layer in model._flatten_layers(include_self=False)]


@pytest.mark.parametrize("downsampling", ["expand_conv", "depthwise_conv"])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("norm", ["batch_norm", "layer_norm"])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_same_outputs(tiny, downsampling, relative, norm, stem_stride):
    config = coatnet_tf.get_config(
        tiny,
        downsampling=downsampling,
        relative_attention=relative,
        conv_norm=norm,
        stem_stride=stem_stride,
        drop_path_rate=0.5,
        dropout=0.5,
        stages=(*tiny.stages[:-1], dataclasses.replace(tiny.stages[-1], stride=2 if stem_stride == 1 else 1)),
    )
    model = logits(config)
    assert_same_outputs(coatnet_tf.fold_for_inference(model), model)


@pytest.mark.parametrize("name", coatnet_tf.FAMILY)
def test_every_member_of_the_family(name):
    """Its stages and blocks, narrower and with at most two equal blocks in a row."""
    config = coatnet_tf.FAMILY[name]
    head_size = config.transformer.attention.head_size // 4
    stages = tuple(
        dataclasses.replace(stage, depth=min(2, stage.depth), width=max(head_size, stage.width // 16))
        for stage in config.stages
    )
    model = logits(
        coatnet_tf.get_config(config, stem_width=8, head_size=head_size, stages=stages), input_shape=(64, 96, 3)
    )
    assert_same_outputs(coatnet_tf.fold_for_inference(model), model, (2, 64, 96, 3))


@pytest.mark.parametrize(
    "arguments",
    [
        {"include_preprocessing": False},
        {"include_top": False},
        {"include_top": False, "pooling": "avg"},
        {"classifier_activation": "softmax"},
        {"input_shape": (32, 48, 1)},
    ],
    ids=str,
)
def test_same_outputs_of_other_models(tiny, arguments):
    model = logits(tiny, **arguments)
    channels = arguments.get("input_shape", (32, 48, 3))[-1]
    assert_same_outputs(coatnet_tf.fold_for_inference(model), model, (3, 32, 48, channels))


def test_what_is_left(tiny):
    model = logits(tiny, drop_path_rate=0.2, dropout=0.2)
    folded = coatnet_tf.fold_for_inference(model)
    found = kinds(folded)
    for gone in ("BatchNormalization", "Rescaling", "RelativePositionBias", "StochasticDepth", "Dropout"):
        assert gone in kinds(model)
        assert gone not in found, gone
    norms = {
        layer.name: (layer.scale, layer.center)
        for layer in folded._flatten_layers()
        if isinstance(layer, keras.layers.LayerNormalization)
    }
    pooled = {"s3_block01_attention_norm", "s4_block01_attention_norm"}
    assert {name for name, affine in norms.items() if affine == (True, True)} == pooled
    assert {affine for name, affine in norms.items() if name not in pooled} == {(False, False)}
    assert folded.name == model.name
    assert folded.count_params() > 0
    assert {"stem_conv01", "s1_block01_expand_conv", "s3_block02_attention", "predictions"} <= {
        layer.name for layer in folded.layers
    }


def test_the_border_is_padded_with_what_becomes_zero(tiny):
    """With the shift folded but the border padded with black, the first convolution would differ there alone."""
    model = logits(tiny, stem_stride=1)
    folded = coatnet_tf.fold_for_inference(model)
    image = np.zeros((1, 32, 48, 3), "float32")
    expected, found = (
        keras.ops.convert_to_numpy(keras.Model(m.inputs, m.get_layer(name).output)(image))
        for m, name in ((model, "stem_norm01"), (folded, "stem_conv01"))
    )
    assert np.ptp(expected, axis=(1, 2)).max() > 0.1  # the border differs from the middle
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_folding_leaves_the_model_alone(tiny):
    model = logits(tiny)
    before, config = [w.copy() for w in model.get_weights()], model.get_config()
    folded = coatnet_tf.fold_for_inference(model)
    for variable in folded.variables:
        variable.assign(keras.ops.zeros_like(variable.value))
    assert model.get_config() == config
    for mine, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, old)


def test_layers_around_the_blocks_are_copied(tiny):
    """A backbone inside a functional model, with a second branch, and a sequential model."""
    image = keras.Input((32, 48, 3))
    features = logits(tiny, include_top=False)
    x = keras.layers.GlobalMaxPooling2D()(features(image))
    x = keras.layers.Concatenate()([x, keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))])
    model = keras.Model(image, [keras.layers.Dense(4)(x), keras.ops.mean(x, axis=-1)])
    folded = coatnet_tf.fold_for_inference(model)
    images = np.random.default_rng(1).uniform(0, 255, (2, 32, 48, 3)).astype("float32")
    for mine, theirs in zip(folded(images), model(images), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)

    model = keras.Sequential([logits(tiny, include_top=False), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.build((None, 32, 48, 3))
    assert_same_outputs(coatnet_tf.fold_for_inference(model), model)


def resized_and_augmented(tiny, augmentation):
    """Layers before the network in one model, as Keras' guides have them."""
    image = keras.Input((50, 60, 3))
    x = keras.layers.CenterCrop(48, 56)(image)
    x = keras.layers.Resizing(32, 48)(augmentation(x))
    return keras.Model(image, logits(tiny)(x))


def test_layers_that_prepare_images_are_kept_and_those_that_augment_them_dropped(tiny):
    augmentation = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(0.2),
            keras.layers.RandomZoom(0.2),
            keras.layers.RandomContrast(0.2),
            keras.layers.GaussianNoise(0.5),
        ]
    )
    model = resized_and_augmented(tiny, augmentation)
    folded = coatnet_tf.fold_for_inference(model)
    images = np.random.default_rng(1).uniform(0, 255, (3, 50, 60, 3)).astype("float32")
    expected = model.predict(images, verbose=0)
    for outputs in (folded.predict(images, verbose=0), keras.ops.convert_to_numpy(folded(images))):
        np.testing.assert_allclose(outputs, expected, atol=1e-4 * np.abs(expected).max())
    found = kinds(folded)
    assert {"CenterCrop", "Resizing"} <= set(found)
    assert not [kind for kind in found if kind.startswith(("Random", "Gaussian"))]


def test_images_of_whole_numbers(tiny):
    """The colour that is rescaled to 0 is none of them."""
    image = keras.Input((32, 48, 3), dtype="uint8")
    model = logits(tiny, input_tensor=image, input_shape=None)
    images = np.random.default_rng(1).integers(0, 256, (2, 32, 48, 3)).astype("uint8")
    expected = keras.ops.convert_to_numpy(model(images))
    found = coatnet_tf.fold_for_inference(model)(images)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_subclass_that_augments_is_kept_outside_training(tiny):
    model = resized_and_augmented(tiny, LouderFlip("horizontal"))
    folded = coatnet_tf.fold_for_inference(model)
    images = np.random.default_rng(1).uniform(0, 255, (3, 50, 60, 3)).astype("float32")
    expected = model.predict(images, verbose=0)
    for _ in range(3):  # a flip would show, sooner or later
        np.testing.assert_allclose(folded(images), expected, atol=1e-4 * np.abs(expected).max())
    assert "LouderFlip" in kinds(folded)


@pytest.mark.parametrize("kind", fold._IN_TRAINING_ALONE)
def test_what_is_dropped_does_nothing_outside_training(kind):
    required = {"RandomRotation": (0.5,), "RandomTranslation": (0.3, 0.3), "RandomPosterization": (3,)}
    one = ("Brightness", "Contrast", "Zoom", "Hue", "Saturation", "Sharpness", "ColorDegeneration")
    required |= {f"Random{name}": (0.5,) for name in one}
    required |= {
        name: (0.5,) for name in ("AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "SpatialDropout2D")
    }
    layer = kind(*required.get(kind.__name__, ()))
    images = np.random.default_rng(1).uniform(20, 200, (2, 8, 12, 3)).astype("float32")
    np.testing.assert_array_equal(layer(images, training=False), images)


def test_what_others_use_too_is_not_folded():
    """A convolution before a norm and a sum, a norm before two dense layers, norms without scale or shift."""
    image = keras.Input((8, 6, 16))
    x = keras.layers.Conv2D(16, 3, padding="same")(image)
    x = keras.layers.Add()([x, keras.layers.BatchNormalization()(x)])
    x = keras.layers.BatchNormalization(scale=False)(keras.layers.Conv2D(16, 3)(x))
    x = keras.layers.GlobalAveragePooling2D()(layers.MBConv(16)(x))
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.Concatenate()([keras.layers.Dense(3)(x), keras.layers.Dense(4)(x)])
    model = randomise(keras.Model(image, keras.layers.Dense(2)(keras.layers.LayerNormalization(center=False)(x))))
    assert_same_outputs(coatnet_tf.fold_for_inference(model), model, (2, 8, 6, 16))


def test_several_outputs_of_a_channel():
    """A norm, of a scale for each output, behind a depthwise convolution that makes three of each channel."""
    image = keras.Input((8, 6, 4))
    x = keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=3)(image)
    model = randomise(keras.Model(image, layers.MBConv(12)(keras.layers.BatchNormalization()(x))))
    folded = coatnet_tf.fold_for_inference(model)
    assert "BatchNormalization" not in kinds(folded)
    assert_same_outputs(folded, model, (2, 8, 6, 4))


def test_blocks_alone():
    image = keras.Input((8, 6, 16))
    x = layers.RelativeSelfAttention(32, head_size=8)(keras.layers.LayerNormalization()(image))
    model = randomise(keras.Model(image, layers.MBConv(24)(x)))
    assert_same_outputs(coatnet_tf.fold_for_inference(model), model, (2, 8, 6, 16))


def test_folded_model_saves_and_loads(tiny, tmp_path):
    model = logits(tiny)
    folded = coatnet_tf.fold_for_inference(model)
    folded.save(tmp_path / "folded.keras")
    loaded = keras.models.load_model(tmp_path / "folded.keras")
    assert_same_outputs(loaded, folded, tolerance=1e-7)
    folded.save_weights(tmp_path / "folded.weights.h5")
    other = coatnet_tf.fold_for_inference(logits(tiny))
    for variable in other.variables:
        variable.assign(keras.ops.zeros_like(variable.value))
    coatnet_tf.load_weights(other, tmp_path / "folded.weights.h5")
    assert_same_outputs(other, folded, tolerance=1e-7)


def test_mixed_precision(tiny):
    model = logits(tiny, dtype="mixed_bfloat16")
    folded = coatnet_tf.fold_for_inference(model)
    assert folded.get_layer("s1_block01_expand_conv").compute_dtype == "bfloat16"
    assert_same_outputs(folded, model, tolerance=0.05)


def test_lora_is_folded_in(tiny):
    model = logits(tiny)
    attention = model.get_layer("s4_block01").attention
    attention.query.enable_lora(2)
    attention.out.enable_lora(2)
    for dense in (attention.query, attention.out):
        dense.lora_kernel_b.assign(keras.random.normal(dense.lora_kernel_b.shape))
    assert_same_outputs(coatnet_tf.fold_for_inference(model), model)


@pytest.mark.slow
def test_folded_model_is_quantised(tiny):
    model = logits(tiny)
    folded = coatnet_tf.fold_for_inference(model)
    folded.quantize("int8")
    assert folded.get_layer("s3_block01_attention").qkv.kernel.dtype == "int8"
    pointwise = [layer for layer in folded.layers if isinstance(layer, layers.PointwiseDense)]
    assert {layer.kernel.dtype for layer in pointwise} == {"int8"} and len(pointwise) > 4
    assert_same_outputs(folded, model, tolerance=0.1)
    with pytest.raises(ValueError, match="is folded already"):
        coatnet_tf.fold_for_inference(folded)


def test_what_folding_refuses(tiny):
    model = logits(tiny)
    folded = coatnet_tf.fold_for_inference(model)
    with pytest.raises(ValueError, match="tiny is folded already; fold the model it came from"):
        coatnet_tf.fold_for_inference(folded)
    with pytest.raises(ValueError, match="takes a functional keras.Model, as CoAtNet0"):
        coatnet_tf.fold_for_inference(layers.MBConv(8))
    image = keras.Input((32, 32, 3))
    with pytest.raises(ValueError, match="has no block of CoAtNet to fold"):
        coatnet_tf.fold_for_inference(keras.Model(image, keras.layers.Conv2D(3, 1)(image)))
    training = keras.Model(image, layers.MBConv(8)(image, training=True))
    with pytest.raises(ValueError, match="called with training=True"):
        coatnet_tf.fold_for_inference(training)
    quantised = keras.Model(image, keras.layers.Dense(3)(layers.MBConv(8)(image)))
    quantised.quantize("int8")
    with pytest.raises(ValueError, match="is quantised; fold the model first"):
        coatnet_tf.fold_for_inference(quantised)
    model.compile(optimizer="adam", loss="mse")
    with pytest.raises(ValueError, match=r"compiled for training with Adam, .*load_model\(path, compile=False\)"):
        coatnet_tf.fold_for_inference(model)


def test_a_block_that_is_called_twice():
    """As ALBERT shares its layers: each call has its own input, and one set of weights."""
    image = keras.Input((8, 6, 16))
    mbconv, transformer, norm = layers.MBConv(16), layers.TransformerBlock(16, head_size=8), layers.LayerScale(0.5)
    x = transformer(mbconv(mbconv(image)))
    model = randomise(keras.Model(image, norm(transformer(norm(x)))))
    folded = coatnet_tf.fold_for_inference(model)
    assert_same_outputs(folded, model, (2, 8, 6, 16))
    assert len(folded.weights) < len(model.weights)


SHARED = {
    "convolution": lambda: keras.layers.Conv2D(8, 3, padding="same"),
    "pointwise": lambda: keras.layers.Conv2D(8, 1, activation="relu"),
    "attention": lambda: layers.RelativeSelfAttention(16, head_size=8),
    "feed-forward": layers.FeedForward,
    "dense": lambda: keras.layers.Dense(8),
    "block": lambda: layers.TransformerBlock(16, head_size=8),
}


@pytest.mark.parametrize("place", ["before", "before one", "behind", "behind one"])
@pytest.mark.parametrize("kind", SHARED)
def test_a_layer_that_several_norms_are_beside(kind, place):
    """As the heads of detectors, which all levels of a pyramid share, but for their norms."""
    image = keras.Input((8, 6, 16))
    maps = [layers.MBConv(16)(image), layers.MBConv(16)(image)]
    layer, (first, second) = SHARED[kind](), (keras.layers.BatchNormalization() for _ in range(2))
    if place.startswith("before"):
        outputs = [layer(first(maps[0])), layer(maps[1] if place == "before one" else second(maps[1]))]
    else:
        outputs = [first(layer(maps[0])), layer(maps[1])]
        outputs[1] = outputs[1] if place == "behind one" else second(outputs[1])
    model = randomise(keras.Model(image, keras.layers.Concatenate()(outputs)))
    assert_same_outputs(coatnet_tf.fold_for_inference(model), model, (2, 8, 6, 16), tolerance=1e-3)


def test_a_layer_that_another_model_uses_too(tiny):
    """`layer.output` is that of the first call, which is in the other model."""
    convolution = keras.layers.Conv2D(8, 3, padding="same")
    convolution(keras.Input((8, 6, 16)))
    image = keras.Input((8, 6, 16))
    x = convolution(layers.MBConv(16)(image))
    model = randomise(keras.Model(image, [x, keras.layers.BatchNormalization()(x)]))
    found, expected = coatnet_tf.fold_for_inference(model), model
    pictures = np.random.default_rng(1).normal(size=(2, 8, 6, 16)).astype("float32")
    for mine, theirs in zip(found(pictures), expected(pictures), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_a_model_that_is_called_twice(tiny):
    image, other = keras.Input((32, 48, 3)), keras.Input((32, 48, 3))
    features = logits(tiny, include_top=False, pooling="avg")
    model = keras.Model([image, other], keras.layers.Subtract()([features(image), features(other)]))
    folded = coatnet_tf.fold_for_inference(model)
    first, second = np.random.default_rng(1).uniform(0, 255, (2, 2, 32, 48, 3)).astype("float32")
    np.testing.assert_allclose(folded([first, second]), model([first, second]), rtol=1e-3, atol=1e-4)


@keras.saving.register_keras_serializable(package="tests")
class StandardisedConv2D(keras.layers.Conv2D):
    """A convolution with other weights than those that it shows."""

    def convolution_op(self, inputs, kernel):
        mean = keras.ops.mean(kernel, axis=(0, 1, 2), keepdims=True)
        return super().convolution_op(inputs, 3.0 * (kernel - mean))


@keras.saving.register_keras_serializable(package="tests")
class HalvedDense(keras.layers.Dense):
    def call(self, inputs, training=None):
        return 0.5 * super().call(inputs, training=training)


@keras.saving.register_keras_serializable(package="tests")
class ShiftedBatchNorm(keras.layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask) + 1.0


@keras.saving.register_keras_serializable(package="tests")
class ScaledMBConv(layers.MBConv):
    def call(self, inputs, training=None):
        return 2.0 * super().call(inputs, training=training)


@keras.saving.register_keras_serializable(package="tests")
class LouderRescaling(keras.layers.Rescaling):
    def call(self, inputs):
        return 2.0 * super().call(inputs)


@keras.saving.register_keras_serializable(package="tests")
class LouderFlip(keras.layers.RandomFlip):
    def call(self, inputs, training=True):
        return 2.0 * super().call(inputs, training=training)


@pytest.mark.parametrize(
    "before, after",
    [
        ([lambda: keras.layers.Rescaling(1 / 255), lambda: StandardisedConv2D(16, 3, padding="same")], []),
        ([lambda: LouderRescaling(1 / 255), lambda: keras.layers.Conv2D(16, 3, padding="same")], []),
        ([lambda: StandardisedConv2D(16, 3), lambda: keras.layers.BatchNormalization()], []),
        ([lambda: keras.layers.Conv2D(16, 3), lambda: ShiftedBatchNorm()], [lambda: keras.layers.Conv2D(4, 1)]),
        ([lambda: ScaledMBConv(16)], []),
        ([], [lambda: keras.layers.LayerNormalization(), lambda: HalvedDense(4)]),
        ([], [lambda: keras.layers.LayerNormalization(rms_scaling=True), lambda: keras.layers.Dense(4)]),
        ([], [lambda: keras.layers.LayerNormalization(axis=(1, 3)), lambda: keras.layers.Dense(4)]),
        ([], [lambda: keras.layers.BatchNormalization(axis=1), lambda: keras.layers.Conv2D(4, 1)]),
        ([], [lambda: keras.layers.Conv2D(4, 1, groups=2), lambda: keras.layers.Activation("gelu")]),
        ([], [lambda: keras.layers.Dense(4), lambda: keras.layers.BatchNormalization()]),
    ],
)
def test_a_subclass_of_a_layer_is_another_layer(before, after):
    """Nothing is taken for the layer that it inherits from, and no norm for one of the channels."""
    image = keras.Input((8, 6, 4))
    x = image
    for make in [*before, lambda: layers.MBConv(16), *after]:
        x = make()(x)
    model = randomise(keras.Model(image, x))
    assert_same_outputs(coatnet_tf.fold_for_inference(model), model, (2, 8, 6, 4))


@pytest.mark.parametrize("preprocessing", ["tf", "torch"])
def test_under_channels_first_as_keras_default(tiny, preprocessing):
    tiny = coatnet_tf.get_config(tiny, preprocessing=preprocessing)
    model = logits(tiny)
    stages = coatnet_tf.profile(model).stages
    keras.config.set_image_data_format("channels_first")
    try:
        other = logits(tiny)
        folded = coatnet_tf.fold_for_inference(model)
        assert coatnet_tf.profile(other).stages == stages
        assert_same_outputs(other, model, tolerance=1e-6)
        assert_same_outputs(folded, model)
    finally:
        keras.config.set_image_data_format("channels_last")
