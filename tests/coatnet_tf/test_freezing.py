"""`freeze`: which weights a training step changes, in models, copies of them and models of models."""

import keras
import numpy as np
import pytest

import coatnet_tf
from coatnet_tf import layers

SHAPE = (32, 32, 3)


def guide(tiny, **arguments):
    """A model as Keras' guide to transfer learning builds it."""
    base = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, include_top=False, **arguments)
    image = keras.Input(SHAPE)
    x = keras.layers.RandomFlip("horizontal")(image)
    x = keras.layers.GlobalAveragePooling2D()(base(x))
    return keras.Model(image, keras.layers.Dense(3, name="mine")(x))


def make(kind, tiny):
    if kind == "plain":
        return coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=3, classifier_activation=None)
    if kind == "guide":
        return guide(tiny)
    if kind == "sequential":
        parts = [keras.Input(SHAPE), coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, include_top=False, pooling="avg")]
        return keras.Sequential([*parts, keras.layers.Dense(3, name="mine")])
    backbone = coatnet_tf.CoAtNetBackbone(tiny, input_shape=SHAPE)
    x = keras.layers.GlobalAveragePooling2D()(backbone.output)
    if kind == "on a backbone":
        return keras.Model(backbone.inputs, keras.layers.Dense(3, name="mine")(x))
    image = keras.Input(SHAPE)
    return keras.Model(image, keras.layers.Dense(3, name="mine")(keras.layers.Flatten()(backbone(image))))


def changed_by_training(model):
    """Paths of the weights that training changed, without those of models around."""
    before = [np.array(variable) for variable in model.weights]
    model.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(True), run_eagerly=True)
    images = np.random.default_rng(0).uniform(0, 255, (4, *SHAPE)).astype("float32")
    model.fit(images, np.array([0, 1, 2, 0]), epochs=2, batch_size=4, verbose=0)
    return {
        variable.path.rpartition("tiny_backbone/")[2]
        for variable, old in zip(model.weights, before, strict=True)
        if (np.array(variable) != old).any()
    }


def is_norm(path):
    return path.rpartition("/")[2] in ("gamma", "beta", "moving_mean", "moving_variance")


@pytest.mark.parametrize("copied", ["not", "saved", "cloned"])
@pytest.mark.parametrize("kind", ["plain", "guide", "sequential", "on a backbone", "a backbone inside"])
def test_norms_are_frozen_wherever_they_are(tiny, tmp_path, kind, copied):
    model = make(kind, tiny)
    coatnet_tf.freeze(model, until="s2")
    if copied == "saved":
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    elif copied == "cloned":
        model = keras.models.clone_model(model)
    changed = changed_by_training(model)
    assert not {path for path in changed if is_norm(path) or path.startswith(("stem", "s1", "s2"))}
    for part in (
        "s3_block01/s3_block01_attention/query/kernel",
        "s3_block02/s3_block02_ffn/s3_block02_ffn_expand/kernel",
    ):
        assert part in changed, part
    assert any("predictions" in path or "mine" in path for path in changed)


def test_norms_of_mbconv_blocks_that_are_trained(tiny):
    """The habit that changed all moving statistics."""
    model = make("plain", tiny)
    coatnet_tf.freeze(model)
    changed = changed_by_training(model)
    assert not {path for path in changed if is_norm(path)}
    assert "s2_block02/s2_block02_depthwise_conv/kernel" in changed and "stem_conv01/kernel" in changed


def test_norms_are_trained_if_asked_for(tiny):
    model = make("plain", tiny)
    coatnet_tf.freeze(model, until="s1", norms=False)
    changed = changed_by_training(model)
    assert not {path for path in changed if path.startswith(("stem", "s1"))}
    assert "s2_block01/s2_block01_pre_norm/moving_mean" in changed and "head_norm/gamma" in changed


@pytest.mark.parametrize(
    ("until", "last"),
    [("stem", "stem_conv02"), ("stem_conv01", "stem_conv01"), ("s2", "s2_block02"), ("s3_block01",) * 2],
)
def test_where_freezing_ends(tiny, until, last):
    model = make("plain", tiny)
    coatnet_tf.freeze(model, until="s4", norms=False)  # frozen before, and trained again behind the new end
    coatnet_tf.freeze(model, until=until, norms=False)
    names = [layer.name for layer in model.layers if layer.weights]
    trained = [layer.name for layer in model.layers if layer.weights and layer.trainable]
    assert trained == names[names.index(last) + 1 :]


def test_single_parts_of_blocks_stay_frozen(tiny, tmp_path):
    model = coatnet_tf.CoAtNetBackbone(tiny, input_shape=SHAPE)
    model.get_layer("s3_block01").attention.query.trainable = False
    model.get_layer("s1_block01").se.trainable = False
    model.get_layer("stem_conv01").trainable = False
    names = [variable.path for variable in model.trainable_variables]
    model.save(tmp_path / "model.keras")
    model.save_to_preset(tmp_path / "preset")
    for copy in (
        keras.models.load_model(tmp_path / "model.keras"),
        coatnet_tf.CoAtNetBackbone.from_preset(tmp_path / "preset"),
    ):
        assert [variable.path for variable in copy.trainable_variables] == names
        assert not copy.get_layer("s1_block01").se.trainable
    block = layers.MBConv.from_config(model.get_layer("s1_block01").get_config())  # and in one that is not built
    again = layers.MBConv.from_config(block.get_config())
    again.build((None, 16, 16, 8))
    assert not again.se.trainable and again.pre_norm.trainable


def test_parts_of_a_frozen_block_stay_trained(tiny, tmp_path):
    model = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=5)
    block, other = model.get_layer("s3_block01"), model.get_layer("s1_block01")
    block.trainable = other.trainable = False
    block.attention.trainable = True
    block.attention.key.trainable = False  # a frozen part of a trained part of a frozen block
    other.se.trainable = True
    names = [variable.path for variable in model.trainable_variables]
    assert block.attention.query.kernel.path in names and block.attention.key.kernel.path not in names
    model.save(tmp_path / "model.keras")
    for copy in (
        keras.models.load_model(tmp_path / "model.keras"),
        keras.models.clone_model(model),
        coatnet_tf.reset_classifier(model, 5),
        coatnet_tf.resize(model, SHAPE[:2]),
    ):
        assert [variable.path for variable in copy.trainable_variables] == names


def test_what_is_not_there_is_named(tiny):
    model = make("plain", tiny)
    with pytest.raises(ValueError, match="no layer or stage 'stage3' in tiny; the nearest are .*s3"):
        coatnet_tf.freeze(model, until="stage3")
    with pytest.raises(ValueError, match="is not built"):
        coatnet_tf.freeze(keras.Sequential([keras.layers.Dense(3)]))
