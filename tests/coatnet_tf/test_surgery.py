"""Other models from a trained one: same weights where they should be, the old model as it was, a sentence otherwise."""

import re
import warnings

import keras
import numpy as np
import pytest

import coatnet_tf

SHAPE = (32, 48, 3)


@pytest.fixture
def model(tiny):
    return coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=5, dropout=0.1)


def with_values(model):
    """Tables at random: they begin at zero, where any interpolation is right."""
    generator = np.random.default_rng(1)
    for variable in model.weights:
        if variable.path.endswith("relative_bias/table"):
            variable.assign(generator.normal(size=variable.shape))
    return model


def own(base):
    """A model around another, as Keras' guide to transfer learning builds it."""
    image = keras.Input(base.input_shape[1:])
    x = keras.layers.GlobalAveragePooling2D()(base(keras.layers.RandomFlip()(image)))
    return keras.Model(image, keras.layers.Dense(3, name="mine")(x), name="own")


def values(model):
    return {variable.path: np.array(variable) for variable in model.weights}


def test_features_are_the_outputs_of_the_stages(model, images):
    found = coatnet_tf.features(model, ["stem", "s2", "s3_block01", "s4", "head_hidden"])
    outputs = found(images)
    assert list(outputs) == ["stem", "s2", "s3_block01", "s4", "head_hidden"]
    blocks = ("stem_conv02", "s2_block02", "s3_block01", "s4_block01", "head_hidden")
    for output, block in zip(outputs.values(), blocks, strict=True):
        inner = keras.Model(model.input, model.get_layer(block).output)
        np.testing.assert_array_equal(output, inner(images))
    assert found.get_layer("s2_block02") is model.get_layer("s2_block02")  # shared, not copied


def test_features_of_a_backbone_and_of_the_model_inside(tiny, images):
    backbone = coatnet_tf.CoAtNetBackbone(tiny, input_shape=SHAPE)
    maps = coatnet_tf.features(backbone, ["s4"])(images)
    np.testing.assert_array_equal(maps["s4"], backbone(images))
    outer = own(backbone)
    with pytest.raises(ValueError, match=r"tiny_backbone is a model inside own; .*own.get_layer\('tiny_backbone'\)"):
        coatnet_tf.features(outer, ["s4"])
    inner = coatnet_tf.features(outer.get_layer("tiny_backbone"), ["s4"])
    np.testing.assert_array_equal(inner(images)["s4"], maps["s4"])


@pytest.mark.parametrize("kind", ["sequential", "of layers that were called before"])
def test_models_of_the_same_layers(model, images, kind):
    """Their outputs are those in this model, not those of the first one."""
    if kind == "sequential":
        other, scaled = keras.Sequential([keras.Input(SHAPE), *model.layers[1:-1], keras.layers.Dense(7)]), images
    else:
        image = keras.Input(SHAPE)
        x = keras.layers.Rescaling(0.5)(image)
        for layer in model.layers[1:]:
            x = layer(x)
        other, scaled = keras.Model(image, x), images * 0.5
    for view in (lambda m: coatnet_tf.features(m, ["s2"]), coatnet_tf.embeddings):
        found, expected = (keras.tree.flatten(view(m)(x)) for m, x in ((other, images), (model, scaled)))
        np.testing.assert_allclose(found[0], expected[0], atol=1e-5)


def test_embeddings_are_pooled_by_the_head(tiny, model, images):
    pooled = np.array(coatnet_tf.features(model, ["s4"])(images)["s4"]).mean(axis=(1, 2))
    np.testing.assert_allclose(coatnet_tf.embeddings(model)(images), pooled, atol=1e-6)
    backbone = coatnet_tf.CoAtNetBackbone(tiny, input_shape=SHAPE)
    expected = np.array(backbone(images)).mean(axis=(1, 2))
    np.testing.assert_allclose(coatnet_tf.embeddings(backbone)(images), expected, atol=1e-6)
    normed = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, head="norm_pool")
    normed_map = np.array(coatnet_tf.features(normed, ["head_norm"])(images)["head_norm"])
    np.testing.assert_allclose(coatnet_tf.embeddings(normed)(images), normed_map.mean(axis=(1, 2)), atol=1e-6)
    assert coatnet_tf.embeddings(small_vit()).output_shape == (None, 32)
    assert coatnet_tf.embeddings(small_vit(include_top=False)).output_shape == (None, 32)


@pytest.mark.parametrize("kind", ["plain", "own", "own activation", "sequential"])
def test_a_new_classifier_on_the_same_network(tiny, images, kind):
    base = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=5, name="tiny")
    name = "predictions"
    if kind != "plain":
        base, name = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, include_top=False, pooling="avg"), "mine"
        image = keras.Input(SHAPE)
        scores = keras.layers.Dense(5, name=name)(base(image))
        base = keras.Model(image, keras.layers.Softmax()(scores) if kind == "own activation" else scores)
        base = keras.Sequential([keras.Input(SHAPE), *base.layers[1:]]) if kind == "sequential" else base
    coatnet_tf.freeze(base, until="s2")
    base.compile("adam", "mse")
    before, outputs = values(base), np.array(base(images))
    copy = coatnet_tf.reset_classifier(base, 7)
    assert copy.output_shape == (None, 7) and copy.name == base.name and not copy.compiled
    named = ({layer.name: layer for layer in part.layers if layer.weights} for part in (base, copy))
    olds, news = ({key: layer for key, layer in layers.items() if key != name} for layers in named)
    assert list(olds) == list(news)
    for old, new in zip(olds.values(), news.values(), strict=True):
        assert old is not new
        assert len(old.trainable_weights) == len(new.trainable_weights)  # what was frozen is
        for theirs, mine in zip(old.get_weights(), new.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    kernel = np.array(copy.get_layer(name).kernel)
    assert kernel.std() > 0
    copy.set_weights([np.zeros_like(weight) for weight in copy.get_weights()])
    for path, value in values(base).items():
        np.testing.assert_array_equal(value, before[path])
    np.testing.assert_array_equal(base(images), outputs)


def test_resized_as_weights_are_when_they_are_loaded(tiny, model, tmp_path):
    with_values(model).save_weights(tmp_path / "old.weights.h5")
    larger = coatnet_tf.CoAtNet(tiny, input_shape=(64, 96, 3), classes=5)
    loaded = coatnet_tf.load_weights(larger, tmp_path / "old.weights.h5", resize=True)
    with pytest.warns(UserWarning, match=f"^{re.escape(f'tiny: {loaded}.')}$"):
        copy = coatnet_tf.resize(model, (64, 96))
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    np.testing.assert_allclose(copy(images), larger(images), atol=1e-6)
    assert model.input_shape == (None, *SHAPE) and copy.input_shape == (None, 64, 96, 3)


def test_resized_to_its_own_size_it_is_the_same(model, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        copy = coatnet_tf.resize(with_values(model), SHAPE[:2])
    np.testing.assert_allclose(copy(images), model(images), atol=1e-6)
    assert copy.get_layer("predictions") is not model.get_layer("predictions")


@pytest.mark.filterwarnings("ignore:.*bias tables resized")
@pytest.mark.parametrize("kind", ["input_tensor", "list", "dictionary"])
def test_however_the_input_is_given(tiny, kind):
    model = coatnet_tf.CoAtNet(tiny, classes=5, input_tensor=keras.Input(SHAPE))
    if kind != "input_tensor":
        model = keras.Model([model.inputs[0]] if kind == "list" else {"picture": model.inputs[0]}, model.outputs[0])
    copy = coatnet_tf.resize(model, (64, 96))
    images = np.zeros((1, 64, 96, 3), "float32")
    assert copy({"picture": images} if kind == "dictionary" else images).shape == (1, 5)


@pytest.mark.filterwarnings("ignore:.*bias tables resized")
def test_backbones_and_models_around_a_network_are_resized(tiny):
    backbone = with_values(coatnet_tf.CoAtNetBackbone(tiny, input_shape=SHAPE))
    larger = coatnet_tf.resize(backbone, (64, 64))
    assert isinstance(larger, coatnet_tf.CoAtNetBackbone) and larger.input_shape == (None, 64, 64, 3)
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    outer = own(backbone)
    resized = coatnet_tf.resize(outer, (64, 64))
    pooled = np.array(larger(images)).mean(axis=(1, 2))
    np.testing.assert_allclose(resized(images, training=False), outer.get_layer("mine")(pooled), atol=1e-5)
    assert keras.models.clone_model(resized).output_shape == (None, 3)


def with_flatten(tiny):
    base = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, include_top=False)
    return keras.Model(base.input, keras.layers.Dense(2)(keras.layers.Flatten()(base.output)), name="flat")


def small_vit(**options):
    sizes = {"depth": 1, "width": 32, "mlp_width": 32, "num_heads": 2}
    return coatnet_tf.rivals.ViTL16(input_shape=(32, 32, 3), **sizes, **options)


def segmenter(config):
    backbone = coatnet_tf.CoAtNetBackbone(config, input_shape=SHAPE)
    return keras.Model(backbone.inputs, keras.layers.Conv2D(7, 1)(backbone.pyramid_outputs["P4"]))


def around(model, **arguments):
    image = keras.Input(SHAPE)
    return keras.Model(image, model(image, **arguments))


def behind_resizing(model):
    image = keras.Input((128, 128, 3))
    return keras.Model(image, model(keras.layers.Resizing(*SHAPE[:2])(image)))


def siamese(model):
    images = [keras.Input(SHAPE), keras.Input(SHAPE)]
    return keras.Model(images, keras.layers.Subtract()([model(image) for image in images]))


def test_a_new_classifier_of_a_frozen_model_is_trained(model):
    model.trainable = False
    copy = coatnet_tf.reset_classifier(model, 6)
    assert [weight.path for weight in copy.trainable_weights] == ["predictions/kernel", "predictions/bias"]


def test_lora_stays_where_it_is(model, images, tmp_path):
    """In blocks too: saved, cloned, resized and with other classes, but for the new classifier."""
    for layer in model._flatten_layers():
        if hasattr(layer, "enable_lora"):
            layer.enable_lora(2)
    for weight in model.trainable_weights:
        weight.assign(weight + 0.1)
    trained = [tuple(weight.shape) for weight in model.trainable_weights]
    model.save(tmp_path / "lora.keras")
    loaded = keras.models.load_model(tmp_path / "lora.keras")
    resized = coatnet_tf.resize(model, SHAPE[:2])
    cloned = keras.models.clone_model(model)
    cloned.set_weights(model.get_weights())
    for other in (loaded, resized, cloned):
        assert [tuple(weight.shape) for weight in other.trainable_weights] == trained
        np.testing.assert_allclose(other(images), model(images), atol=1e-5)
    begun_anew = coatnet_tf.reset_classifier(model, 6)
    assert not begun_anew.get_layer("predictions").lora_enabled
    assert begun_anew.get_layer("s4_block01").ffn.expand.lora_enabled
    with pytest.raises(ValueError, match="tiny has LoRA, whose kernels would be trained then"):
        coatnet_tf.freeze(model)


class Subclass(keras.Model):
    def call(self, inputs):
        return inputs


def of_two(model):
    return keras.Model(model.input, [model.output, model.get_layer("head_pool").output], name="tiny")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m, t: coatnet_tf.features(m, ["s7"]), "no layer or stage 's7' in tiny; the nearest are s4"),
        (lambda m, t: coatnet_tf.features(m, "s2"), "takes a list of stages or layers"),
        (lambda m, t: coatnet_tf.features(Subclass(), ["s2"]), "features takes a functional keras.Model"),
        (lambda m, t: coatnet_tf.embeddings(with_flatten(t)), "flat has neither a head of this package"),
        (lambda m, t: coatnet_tf.reset_classifier(m, 0), "classes must be a positive integer; got 0"),
        (lambda m, t: coatnet_tf.reset_classifier(of_two(m), 3), "a model with one output; tiny has 2"),
        (lambda m, t: coatnet_tf.reset_classifier(coatnet_tf.features(m, ["s4"]), 3), "ends in s4_block01, which is"),
        (lambda m, t: coatnet_tf.resize(m, 64), r"size must be \(height, width\), two positive integers; got 64"),
        (lambda m, t: coatnet_tf.resize(m, (40, 48)), "of height 40: choose a multiple of 16, such as 32 or 48"),
        (lambda m, t: coatnet_tf.resize(with_flatten(t), (64, 64)), r"depend on the input size .*dense.*/kernel from"),
        (lambda m, t: coatnet_tf.resize(coatnet_tf.fold_for_inference(m), (64, 64)), "resize the model it came from"),
        (lambda m, t: coatnet_tf.resize(small_vit(), (64, 64)), "it has position embeddings"),
        (lambda m, t: coatnet_tf.embeddings(segmenter(t)), "has neither a head of this package"),
        (
            lambda m, t: coatnet_tf.resize(around(m, training=True), (64, 64)),
            "the model tiny in it with training=True",
        ),
        (lambda m, t: coatnet_tf.resize(behind_resizing(m), (64, 64)), "its layer resizing.* fixes the size"),
        (lambda m, t: coatnet_tf.resize(siamese(m), (64, 64)), "has 2 inputs"),
        (lambda m, t: coatnet_tf.features(m, [2]), r"takes a list of stages or layers, .* got \[2\]"),
    ],
)
def test_what_cannot_be_is_refused(model, tiny, act, message):
    with pytest.raises(ValueError, match=message):
        act(model, tiny)
