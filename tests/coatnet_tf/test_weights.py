"""What loading weights refuses, and that it then changes nothing."""

import functools

import keras
import numpy as np
import pytest

import coatnet_tf
from coatnet_tf.weights import resize_table

SHAPE = (32, 32, 3)


@pytest.fixture
def saved(tiny, tmp_path):
    path = tmp_path / "tiny.weights.h5"
    coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=10).save_weights(path)
    return path


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"classes": 5}, r"predictions/kernel is \(48, 5\) in the model and \(48, 10\) in the file"),
        ({}, {"input_shape": (32, 32, 1)}, r"stem_conv01/kernel is \(3, 3, 1, 8\) in the model and \(3, 3, 3, 8\)"),
        (
            {},
            {"input_shape": (64, 32, 3)},
            r"s3_block01_attention/relative_bias/table is \(2, 15, 7\) in the model and \(2, 7, 7\)",
        ),
        ({"relative_attention": False}, {}, r"in the file only: s3_block01/.*relative_bias#0 \(2, 7, 7\)"),
        ({"conv_norm": "layer_norm"}, {}, r"in the file only: stem_norm01#2 \(8,\), .* and \d+ more"),
    ],
)
def test_misfits_are_named(tiny, saved, change, arguments, message):
    config = coatnet_tf.get_config(tiny, **change)
    model = coatnet_tf.CoAtNet(config, **{"input_shape": SHAPE, "classes": 10} | arguments)
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        coatnet_tf.load_weights(model, saved)
    for mine, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_missing_weights_are_named(tiny, tmp_path):
    plain = coatnet_tf.CoAtNet(coatnet_tf.get_config(tiny, relative_attention=False), input_shape=SHAPE)
    plain.save_weights(tmp_path / "plain.weights.h5")
    with pytest.raises(ValueError, match="missing in the file: s3_block01/s3_block01_attention/relative_bias/table"):
        coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, weights=tmp_path / "plain.weights.h5")


def test_compiled_models_and_their_optimizers_load(tiny, tmp_path):
    model = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=3)
    model.compile("adamw", "sparse_categorical_crossentropy", run_eagerly=True)  # tracing one step takes longer
    model.fit(np.zeros((2, *SHAPE)), np.zeros(2), verbose=0)
    model.save(tmp_path / "fit.keras")
    copy = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=3, weights=tmp_path / "fit.keras")
    for mine, theirs in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_files_that_are_none(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no weights file"):
        coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, weights=tmp_path / "none.weights.h5")
    for name in ("text.weights.h5", "text.keras"):
        (tmp_path / name).write_text("no weights")
        with pytest.raises(ValueError, match="or is damaged"):
            coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, weights=tmp_path / name)


def tables(model):
    return {v.path: np.array(v) for v in model.weights if v.path.endswith("relative_bias/table")}


@pytest.mark.parametrize("shape", [(32, 48), (64, 96), (96, 64), (16, 16)])
def test_tables_are_resized_to_another_input_size(tiny, tmp_path, shape):
    path = str(tmp_path / "trained.weights.h5")
    trained = coatnet_tf.CoAtNet(tiny, input_shape=(32, 48, 3), classes=10)
    trained.save_weights(path)
    model = coatnet_tf.CoAtNet(tiny, input_shape=(*shape, 3), classes=10)
    loaded = coatnet_tf.load_weights(model, path, resize=True)
    before, after = tables(trained), tables(model)
    assert len(before) == 3 and not loaded.reset
    for name, table in after.items():
        np.testing.assert_allclose(table, interpolated(before[name], table.shape[1:]), atol=1e-6)
        assert any(line.startswith(name) for line in loaded.resized) == (before[name].shape != table.shape)
    if shape == (32, 48):
        assert str(loaded) == "all as they were"
    for mine, theirs in zip(model.weights, trained.weights, strict=True):
        if not mine.path.endswith("relative_bias/table"):
            np.testing.assert_array_equal(mine, theirs)


def interpolated(table, shape):
    """Bilinear interpolation in float64 with half-pixel centres, point by point."""
    result = np.zeros((table.shape[0], *shape))
    for i, j in np.ndindex(*shape):
        y, x = (
            min(max((place + 0.5) * old / new - 0.5, 0), old - 1)
            for place, old, new in zip((i, j), table.shape[1:], shape, strict=True)
        )
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, table.shape[1] - 1), min(x0 + 1, table.shape[2] - 1)
        t = table.astype("float64")
        upper = t[:, y0, x0] * (1 - (x - x0)) + t[:, y0, x1] * (x - x0)
        lower = t[:, y1, x0] * (1 - (x - x0)) + t[:, y1, x1] * (x - x0)
        result[:, i, j] = upper * (1 - (y - y0)) + lower * (y - y0)
    return result


def test_resized_table_keeps_dtype_and_values_at_equal_size():
    table = np.random.default_rng(0).normal(size=(4, 13, 27)).astype("float32")
    np.testing.assert_array_equal(resize_table(table, (13, 27)), table)
    assert resize_table(table, (20, 20)).dtype == np.float32


def test_other_sizes_and_classes_are_refused_unless_asked_for(tiny, tmp_path):
    path = str(tmp_path / "trained.keras")
    trained = coatnet_tf.CoAtNet(tiny, input_shape=(32, 48, 3), classes=10)
    trained.save(path)
    model = coatnet_tf.CoAtNet(tiny, input_shape=(64, 48, 3), classes=7)
    before = model.get_weights()
    for arguments, message in (
        ({}, "resize=True .another input shape. or reset_head=True .other classes."),
        (
            {"resize": True},
            r"of another shape: predictions/kernel is \(48, 7\) in the model and \(48, 10\) in the file",
        ),
        ({"reset_head": True}, "of another shape: s3_block01.*table"),
    ):
        with pytest.raises(ValueError, match=message):
            coatnet_tf.load_weights(model, path, **arguments)
        for mine, expected in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(mine, expected)
    loaded = coatnet_tf.load_weights(model, path, resize=True, reset_head=True)
    assert loaded.reset == ("predictions/kernel", "predictions/bias")
    np.testing.assert_array_equal(model.get_layer("predictions").kernel, before[-2])
    np.testing.assert_array_equal(model.get_layer("head_hidden").kernel, trained.get_layer("head_hidden").kernel)


def composed(kind):
    """Models that are made of others; each call gives other random weights and the same names."""
    config = coatnet_tf.make_config("small", (1, 1, 1), (8, 8, 16), "CT", head_size=16)
    backbone = coatnet_tf.CoAtNetBackbone(config, input_shape=SHAPE)
    pool, dense = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, name="classes")
    image = keras.Input(SHAPE, name="mine")
    if kind == "nested":
        return keras.Model(image, dense(pool(backbone(image))))
    if kind == "sequential":
        flip = keras.layers.RandomFlip(name="flip")
        return keras.Sequential([image, flip, backbone, pool, keras.layers.Dropout(0.5, name="drop"), dense])
    if kind == "two":
        other = coatnet_tf.CoAtNetBackbone(config, input_shape=SHAPE, name="other")
        return keras.Model(image, dense(pool(keras.layers.Concatenate()([backbone(image), other(image)]))))
    if kind == "deep":
        inner = keras.Model(image, backbone(image), name="inner")
        return keras.Model(image, dense(pool(inner(image))))
    if kind == "shared":  # one layer in two models, kept in the file with the first
        shared = keras.layers.Dense(4, name="shared")
        parts = [keras.Sequential([backbone, shared], name=name) for name in ("a", "b")]
        return keras.Model(image, dense(pool(keras.layers.Add()([part(image) for part in parts]))))
    if kind == "called twice":
        block = coatnet_tf.layers.MBConv(3, name="block")
        return keras.Model(image, dense(pool(block(block(image)))))
    model = Subclassed(backbone, dense)
    model(np.zeros((1, *SHAPE), "float32"))
    return model


class Subclassed(keras.Model):
    def __init__(self, backbone, dense, **kwargs):
        super().__init__(**kwargs)
        self.parts = [backbone, keras.layers.GlobalAveragePooling2D(), dense]
        self.gain = self.add_weight(name="gain", initializer="random_normal")

    def call(self, inputs):
        for part in self.parts:
            inputs = part(inputs)
        return inputs * self.gain

    def get_config(self):  # what `save` asks for
        return {}


def assert_equal_weights(mine, theirs):
    assert len(mine.weights) == len(theirs.weights)
    for variable, expected in zip(mine.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(np.array(variable), np.array(expected), err_msg=variable.path)


@pytest.mark.parametrize("kind", ["nested", "sequential", "two", "deep", "shared", "called twice", "subclassed"])
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_models_of_models_load(tmp_path, kind, suffix):
    keras.utils.set_random_seed(1)
    trained, model = composed(kind), composed(kind)
    path = tmp_path / f"trained{suffix}"
    (trained.save if suffix == ".keras" else trained.save_weights)(path)
    with pytest.raises(AssertionError):
        assert_equal_weights(model, trained)
    assert str(coatnet_tf.load_weights(model, path)) == "all as they were"
    assert_equal_weights(model, trained)


def test_misfits_in_models_of_models_are_named(tmp_path):
    composed("nested").save_weights(tmp_path / "a.weights.h5")
    model = composed("deep")
    before = model.get_weights()
    with pytest.raises(
        ValueError, match="missing in the file: inner/small_backbone/stem_conv01/kernel.*in the file only: small_back"
    ):
        coatnet_tf.load_weights(model, tmp_path / "a.weights.h5")
    for mine, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_layers_of_one_name_are_refused(tmp_path):
    class Twins(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="twins")
            self.parts = [keras.layers.Dense(3, name="dense") for _ in range(2)]

        def call(self, inputs):
            return self.parts[1](self.parts[0](inputs))

    model = keras.Sequential([keras.Input((3,)), Twins()])
    model.save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match="Two layers of .* are called 'twins/dense'.*give each a name of its own"):
        coatnet_tf.load_weights(model, tmp_path / "a.weights.h5")


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_pure_bfloat16(tiny, tmp_path, suffix):
    """Into a model of the same type, and of float32."""
    keras.config.set_dtype_policy("bfloat16")
    try:
        trained, copy = (coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=3) for _ in range(2))
    finally:
        keras.config.set_dtype_policy("float32")
    path = tmp_path / f"trained{suffix}"
    (trained.save if suffix == ".keras" else trained.save_weights)(path)
    wider = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=3)
    larger = coatnet_tf.CoAtNet(tiny, input_shape=(48, 32, 3), classes=3)
    for model in (copy, wider):
        coatnet_tf.load_weights(model, path)
        for mine, theirs in zip(model.weights, trained.weights, strict=True):
            np.testing.assert_array_equal(*(keras.ops.cast(x.value, "float32") for x in (mine, theirs)))
    assert len(coatnet_tf.load_weights(larger, path, resize=True).resized) == 3


def test_the_old_format_is_refused(tiny, tmp_path):
    model = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=3)
    model.save(tmp_path / "whole.h5")
    with pytest.raises(
        ValueError, match=r"in Keras' old HDF5 format.*load_model\('.*whole.h5'\).save\('model.keras'\)"
    ):
        coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=3, weights=tmp_path / "whole.h5")
    keras.models.load_model(tmp_path / "whole.h5", compile=False).save(tmp_path / "model.keras")
    copy = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=3, weights=tmp_path / "model.keras")
    assert_equal_weights(copy, model)


def on_a_network(kind, tiny):
    """Somebody's own classifier on a CoAtNet: as Keras' guide shows, flat, sequential, and with its own head kept."""
    base = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, include_top=kind == "with its head", name="mine", classes=7)
    pool, dense = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)
    image = keras.Input(SHAPE)
    if kind == "guide":
        x = keras.layers.RandomFlip()(image)
        return base, keras.Model(image, dense(keras.layers.Dropout(0.2)(pool(base(x, training=False)))))
    if kind == "deep":
        return base, keras.Model(image, dense(pool(keras.Model(image, base(image), name="inner")(image))))
    if kind == "sequential":
        return base, keras.Sequential([image, base, pool, dense])
    if kind == "with its head":
        return base, keras.Model(image, dense(base(image)))
    dense.name = "predictions" if kind == "flat, of the same name" else dense.name
    return base, keras.Model(base.input, dense(pool(base.output)))


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize("kind", ["guide", "deep", "sequential", "with its head", "flat", "flat, of the same name"])
def test_the_network_in_a_file_is_found(tiny, tmp_path, kind, suffix):
    base, whole = on_a_network(kind, tiny)
    path = tmp_path / f"whole{suffix}"
    (whole.save if suffix == ".keras" else whole.save_weights)(path)
    model = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=3)
    before = model.get_layer("predictions").get_weights()
    if kind != "flat, of the same name":
        with pytest.raises(ValueError, match=r"dense\w*#0 \(.* reset_head=True \(other classes\)"):
            coatnet_tf.load_weights(model, path)
    loaded = coatnet_tf.load_weights(model, path, reset_head=True)
    body = len(coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, include_top=False).weights)
    for mine, theirs in zip(model.weights[:body], base.weights[:body], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(model.get_layer("predictions").kernel, before[0])
    assert loaded.reset[-2:] == ("predictions/kernel", "predictions/bias")
    if kind == "with its head":
        np.testing.assert_array_equal(model.get_layer("head_hidden").kernel, base.get_layer("head_hidden").kernel)
    elif kind != "flat, of the same name":
        assert "head_norm/gamma" in loaded.reset and any(name.startswith("dense") for name in loaded.left_aside)
    coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, include_top=False, weights=path)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_a_head_of_the_same_name_beside_the_network_is_loaded(tiny, tmp_path, suffix):
    config = coatnet_tf.get_config(tiny, head="pool")
    base = coatnet_tf.CoAtNet(config, input_shape=SHAPE, include_top=False, pooling="avg")
    image = keras.Input(SHAPE)
    whole = keras.Model(image, keras.layers.Dense(3, activation="softmax", name="predictions")(base(image)))
    (whole.save if suffix == ".keras" else whole.save_weights)(tmp_path / f"whole{suffix}")
    model = coatnet_tf.CoAtNet(config, input_shape=SHAPE, classes=3)
    loaded = coatnet_tf.load_weights(model, tmp_path / f"whole{suffix}")
    assert not (loaded.reset or loaded.left_aside)
    for mine, theirs in zip(model.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_one_of_several_networks_is_not_guessed(tiny, tmp_path):
    image = keras.Input(SHAPE)
    parts = [coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, include_top=False, name=name)(image) for name in ("a", "b")]
    keras.Model(image, keras.layers.Add()(parts)).save(tmp_path / "two.keras")
    model = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, include_top=False)
    with pytest.raises(ValueError, match="holds several models with stem_conv01 in them: a, b"):
        coatnet_tf.load_weights(model, tmp_path / "two.keras", reset_head=True)


def test_parts_of_the_network_are_not_left_aside(tiny, tmp_path):
    """With a new head too: a block more in the file is another network."""
    coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=3).save(tmp_path / "a.keras")
    shorter = coatnet_tf.get_config(tiny, stages=tiny.stages[:-1])
    model = coatnet_tf.CoAtNet(shorter, input_shape=SHAPE, classes=3)
    with pytest.raises(ValueError, match="in the file only: s4_block01/"):
        coatnet_tf.load_weights(model, tmp_path / "a.keras", reset_head=True)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_other_channels(tiny, tmp_path, channels, suffix):
    trained = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=3)
    path = tmp_path / f"trained{suffix}"
    (trained.save if suffix == ".keras" else trained.save_weights)(path)
    model = coatnet_tf.CoAtNet(tiny, input_shape=(*SHAPE[:2], channels), classes=3)
    loaded = coatnet_tf.load_weights(model, path, resize=True)
    how = "summed for 1 channel" if channels == 1 else f"repeated for {channels} channels and scaled by 3/{channels}"
    assert str(loaded) == f"trained on RGB images: stem_conv01/kernel {how}"
    kernel, rgb = np.array(model.get_layer("stem_conv01").kernel), np.array(trained.get_layer("stem_conv01").kernel)
    for channel in range(channels):
        expected = rgb.sum(axis=2) if channels == 1 else rgb[:, :, channel % 3] * 3 / channels
        np.testing.assert_allclose(kernel[:, :, channel], expected, rtol=1e-5, atol=1e-8)
    grey = np.random.default_rng(0).uniform(0, 255, (2, *SHAPE[:2], 1)).astype("float32")
    if channels == 1:
        np.testing.assert_allclose(model(grey), trained(np.repeat(grey, 3, axis=-1)), atol=1e-5)


def test_colours_are_not_made_of_grey(tiny, tmp_path):
    coatnet_tf.CoAtNet(tiny, input_shape=(32, 32, 1), classes=3).save(tmp_path / "grey.keras")
    with pytest.raises(
        ValueError, match=r"stem_conv01/kernel is \(3, 3, 3, 8\) in the model and \(3, 3, 1, 8\) in the"
    ):
        model = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=3)
        coatnet_tf.load_weights(model, tmp_path / "grey.keras", resize=True)


def test_a_file_without_a_head_begins_a_classifier(tiny, tmp_path):
    features = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, include_top=False)
    features.save_weights(tmp_path / "features.weights.h5")
    model = coatnet_tf.CoAtNet(tiny, input_shape=SHAPE, classes=3)
    before = model.get_layer("head_hidden").get_weights()
    with pytest.raises(ValueError, match="missing in the file: head_norm/gamma"):
        coatnet_tf.load_weights(model, tmp_path / "features.weights.h5")
    loaded = coatnet_tf.load_weights(model, tmp_path / "features.weights.h5", reset_head=True)
    assert loaded.reset[:3] == ("head_norm/gamma", "head_norm/beta", "head_hidden/kernel") and len(loaded.reset) == 6
    for mine, theirs in zip(model.weights, features.weights, strict=False):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(model.get_layer("head_hidden").kernel, before[0])


def test_weights_of_another_function_are_refused(tiny, tmp_path):
    """Of equal shapes: only a .keras file says what was computed with them."""
    path = tmp_path / "a.keras"
    coatnet_tf.CoAtNet(tiny, input_shape=(32, 32, 3), classes=4, downsampling="depthwise_conv").save(path)
    build = functools.partial(coatnet_tf.CoAtNet, tiny, input_shape=(32, 32, 3), classes=4, weights=path)
    with pytest.raises(
        ValueError, match="s1_block01: downsampling is 'expand_conv' in the model and 'depthwise_conv' in"
    ):
        build()
    with pytest.raises(ValueError, match="preprocessing: scale is .*activation is 'relu' in the model and 'gelu_tanh'"):
        build(downsampling="depthwise_conv", activation="relu", preprocessing="torch")
    free = {"drop_path_rate": 0.5, "conv_norm": "sync_batch_norm", "dropout": 0.1, "dtype": "mixed_bfloat16"}
    build(downsampling="depthwise_conv", **free)
    build(downsampling="depthwise_conv", include_top=False, include_preprocessing=False)
    padded = {"padding": "centred", "downsampling": "depthwise_conv"}  # tuples within tuples
    build(weights=None, **padded).save(path)
    build(**padded)
