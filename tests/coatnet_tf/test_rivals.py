"""The rivals of Table 5: their published counts, the outputs of timm, saving, and what they refuse."""

import dataclasses
import functools
import inspect
import math
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import coatnet_tf
from coatnet_tf import rivals
from tests.coatnet_tf import golden_rivals as golden

DOCS = Path(__file__).parents[2] / "docs" / "rivals.md"
# Configuration, size, parameters (M) and MACs (B): counted here, and published. Table 5 has no FLOPs of the hybrid,
# and of ViT-G none that are MACs; NFNet-F4's figures are its own paper's.
COUNTS = [
    ("vit-l-16", 512, 305.17, 361.99, 307, 364),
    ("vit-h-14", 518, 633.47, 1016.72, 632, 1021),
    ("vit-g-14", 518, 1846.29, 2822.31, 1840, None),
    ("resnet50-vit-l-16", 384, 329.53, 210.06, 330, None),
    ("nfnet-f4", 512, 316.07, 215.24, 316.1, 215.24),
    ("nfnet-f4-plus", 512, 527.03, 367.41, 527, 367),
]
FACTORIES = {
    "vit-l-16": rivals.ViTL16,
    "vit-h-14": rivals.ViTH14,
    "vit-g-14": rivals.ViTG14,
    "resnet50-vit-l-16": rivals.ResNet50ViTL16,
    "nfnet-f4": rivals.NFNetF4,
    "nfnet-f4-plus": rivals.NFNetF4Plus,
}
# Options that the golden cases hold between them: patches, an MLP of odd width, a ResNet below, convolutions alone.
KINDS = ["vit_g_14", "resnet50_vit_b_16", "nfnet_f4"]


def small(name, **arguments):
    """A model with the weights of its golden case, the images and timm's logits."""
    tensors, images, logits = golden.read(name)
    model = golden.make_model(name, images.shape[1:], **arguments)
    golden.load(model, tensors)
    return model, images.astype("float32"), logits


counted = functools.cache(coatnet_tf.profile)  # the large ones take a second each


def count(variables):
    return sum(math.prod(variable.shape) for variable in variables)


def outputs(model, images):
    return keras.ops.convert_to_numpy(model(images))


@pytest.mark.parametrize(("name", "size", "params", "macs", "published_params", "published_macs"), COUNTS)
def test_published_counts(name, size, params, macs, published_params, published_macs):
    report = counted(name, (size, size, 3))
    half_a_digit = 0.00501  # the table is rounded to two decimals
    assert report.params / 1e6 == pytest.approx(params, abs=half_a_digit, rel=0)
    assert report.macs / 1e9 == pytest.approx(macs, abs=half_a_digit, rel=0)
    assert report.params / 1e6 == pytest.approx(published_params, rel=0.006)
    if published_macs is not None:
        assert report.macs / 1e9 == pytest.approx(published_macs, rel=0.006)


@pytest.mark.parametrize(("size", "flops"), [(224, 965.3), (378, 2859.9)])
def test_vit_g_counts_two_operations_a_mac_in_its_paper(size, flops):
    report = coatnet_tf.profile("vit-g-14", (size, size, 3))
    assert 2 * report.macs / 1e9 == pytest.approx(flops, rel=0.003)
    assert report.params / 1e6 == pytest.approx(1843, rel=0.002)


@pytest.mark.parametrize(
    ("resnet", "params", "macs"),
    [
        (rivals.ResNetConfig(), 329.09, 57.14),
        (rivals.ResNetConfig(depths=(3, 4, 9), stage_strides=(1, 2, 2), widths=(256, 512, 1024)), 316.87, 202.78),
    ],
)
def test_other_readings_of_the_hybrid(resnet, params, macs):
    report = coatnet_tf.profile("resnet50-vit-l-16", (384, 384, 3), resnet=resnet)
    assert (report.params / 1e6, report.macs / 1e9) == pytest.approx((params, macs), abs=0.00501, rel=0)


def test_documented_numbers_are_those_counted(capsys, monkeypatch):
    monkeypatch.setattr(coatnet_tf, "profile", counted)
    text = DOCS.read_text()
    exec(re.search("```python\n(.*?)```", text, re.DOTALL)[1], {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(COUNTS)
    for line in printed:
        name, *numbers = line.split(", ")
        row = next(row for row in text.splitlines() if row.startswith(f"| `{name}`"))
        for number in numbers:
            assert f" {number} " in row, line


@pytest.mark.parametrize("name", golden.CONFIGS)
def test_outputs_of_timm(name):
    model, images, logits = small(name)
    found = model.predict(images, verbose=0)  # compiled: JAX would compile each operation by itself
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-5 * np.abs(logits).max())


def test_every_tensor_of_timm_is_used():
    tensors, images, _ = golden.read("nfnet_f4")
    model = golden.make_model("nfnet_f4", images.shape[1:])
    with pytest.raises(ValueError, match="extra \\(1,\\) is used by no layer"):
        golden.load(model, {**tensors, "extra": np.zeros(1)})
    del tensors["stages.1.1.skipinit_gain"]
    with pytest.raises(ValueError, match="skipinit_gain is missing"):
        golden.load(model, tensors)


@pytest.mark.parametrize("include_top", [True, False])
@pytest.mark.parametrize("name", golden.CONFIGS)
def test_built_models_count_the_same(name, include_top):
    stride = golden.CONFIGS[name].total_stride
    shape = (2 * stride, 3 * stride, 3)
    model = golden.make_model(name, shape, include_top=include_top)
    report = coatnet_tf.profile(model)
    assert report.params == count(model.trainable_weights) == count(model.weights)
    assert report.non_trainable_params == 0
    of_config = coatnet_tf.profile(golden.CONFIGS[name], shape, include_top=include_top, classes=10)
    assert (report.params, report.macs) == (of_config.params, of_config.macs)
    assert list(report.stages) == list(of_config.stages)


@pytest.mark.parametrize(("name", "size"), [(row[0], row[1]) for row in COUNTS])
def test_factories_build_what_is_counted(name, size):
    try:
        with keras.StatelessScope(initialize_variables=False):  # in symbols: nothing is allocated
            model = FACTORIES[name](input_shape=(size, size, 3))
            features = FACTORIES[name](input_shape=(size, size, 3), include_top=False)
        assert count(model.weights) == counted(name, (size, size, 3)).params
        assert model.output_shape == (None, 1000)
        grid = size // rivals.RIVALS[name].total_stride
        assert features.output_shape[:3] == (None, grid, grid)
    finally:
        keras.utils.clear_session()  # the next scope of that kind would allocate what this one did not


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=lambda factory: factory.__name__)
def test_signature_is_that_of_keras_applications(factory):
    theirs = inspect.signature(keras.applications.EfficientNetV2B0).parameters
    ours = inspect.signature(factory).parameters
    assert set(ours) == {*theirs, "dtype", "options"}
    for name in set(theirs) - {"name", "weights"}:  # ours has no weights to download
        assert ours[name].default == theirs[name].default, name
    assert ours["name"].default == factory.__name__.lower()
    assert "MACs at" in factory.__doc__


@pytest.mark.parametrize("name", KINDS)
def test_arguments_reach_the_layers(name):
    shape = (64, 96, 1) if name != "vit_g_14" else (28, 42, 1)
    model = golden.make_model(name, shape, name="mine", classes=7, drop_path_rate=0.2, dropout=0.3)
    assert (model.name, model.input_shape, model.output_shape) == ("mine", (None, *shape), (None, 7))
    blocks = [layer for layer in model.layers if isinstance(layer, coatnet_tf.layers.ResidualBlock)]
    rates = [block.drop_path_rate for block in blocks if not isinstance(block, rivals.Bottleneck)]  # of a ViT's stem
    np.testing.assert_allclose(rates, np.linspace(0, 0.2, len(rates)))
    assert model.get_layer("head_dropout").rate == 0.3


@pytest.mark.parametrize("name", KINDS)
def test_names_are_paths(name):
    model, _, _ = small(name)
    paths = [variable.path for variable in model.variables]
    assert len(set(paths)) == len(paths)
    assert all(path.split("/")[0] in {layer.name for layer in model.layers} for path in paths)


@pytest.mark.parametrize("name", KINDS)
def test_features_of_the_same_weights(name, tmp_path):
    whole, images, _ = small(name)
    whole.save_weights(tmp_path / "whole.weights.h5")
    arguments = {"include_top": False, "weights": tmp_path / "whole.weights.h5"}
    grids = {
        pooling: outputs(golden.make_model(name, images.shape[1:], pooling=pooling, **arguments), images)
        for pooling in (None, "avg", "max")
    }
    stride = golden.CONFIGS[name].total_stride
    assert grids[None].shape[:3] == (2, images.shape[1] // stride, images.shape[2] // stride)
    np.testing.assert_allclose(grids["avg"], grids[None].mean((1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grids["max"], grids[None].max((1, 2)))
    if name == "nfnet_f4":
        classifier = whole.get_layer("predictions")
        logits = keras.ops.convert_to_numpy(classifier(grids["avg"]))
    else:  # the patches are those of the tokens, the class token left out
        encoder = keras.Model(whole.input, whole.get_layer("encoder_norm").output)
        tokens = outputs(encoder, images)
        np.testing.assert_allclose(grids[None].reshape(2, 1, -1, 32), tokens[:, :, 1:], rtol=1e-5, atol=1e-5)
        logits = keras.ops.convert_to_numpy(whole.get_layer("predictions")(tokens[:, 0, 0]))
    np.testing.assert_allclose(logits, outputs(whole, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_saved_models_give_the_same_outputs(name, tmp_path):
    model, images, _ = small(name, drop_path_rate=0.1, dropout=0.1)
    expected = outputs(model, images)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    copies = [keras.models.load_model(tmp_path / "model.keras")]
    for file in ("model.keras", "model.weights.h5"):
        copies.append(golden.make_model(name, images.shape[1:], weights=tmp_path / file))
    for copy in copies:
        np.testing.assert_array_equal(outputs(copy, images), expected)


@pytest.mark.parametrize("name", KINDS)
def test_model_survives_its_config(name):
    model, images, _ = small(name)
    copy = keras.Model.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(outputs(copy, images), outputs(model, images))


@pytest.mark.parametrize("name", KINDS)
def test_preprocessing_is_in_the_model_or_before_it(name):
    model, images, logits = small(name, include_preprocessing=False)
    mean, deviation = (0.5, 0.5) if "vit" in name else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    found = outputs(model, ((images / 255 - mean) / deviation).astype("float32"))
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-5 * np.abs(logits).max())


@pytest.mark.parametrize("name", KINDS)
def test_mixed_precision_is_close_to_float32_and_ends_in_float32(name):
    model, images, logits = small(name, dtype="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    assert {layer.compute_dtype for layer in model.layers[1:-1]} == {"bfloat16"}
    output = model(images)
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    assert np.abs(keras.ops.convert_to_numpy(output) - logits).max() < 0.05 * np.abs(logits).max()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses a GradientTape")
@pytest.mark.parametrize("name", KINDS)
def test_gradients_reach_every_weight(name):
    import tensorflow as tf

    model, images, _ = small(name, drop_path_rate=0.1, dropout=0.1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images, training=True)[:, 0])
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(loss, [v.value for v in model.trainable_variables]), strict=True
    ):
        if not variable.path.endswith("key/bias"):  # shifts all logits of a query alike: its gradient is 0
            assert float(tf.reduce_max(tf.abs(gradient))) > 0, variable.path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"input_shape": (100, 96, 3)},
            "vit-l-16: stage patches cannot divide an input of height 100 by 16 .* such as 96 or 112",
        ),
        ({"input_shape": (96, 8, 3)}, "cannot divide an input of width 8 .* such as 16\\."),
        ({"input_shape": (3, 32, 32)}, "channels last; got \\(3, 32, 32\\)"),
        ({"input_shape": (32, 32)}, "three positive integers"),
        ({"input_shape": (32, 32, 0)}, "three positive integers"),
        ({"pooling": "mean"}, 'pooling must be None, "avg" or "max"'),
        ({"classes": 0}, "classes must be a positive integer"),
        ({"input_tensor": np.zeros((1, 32, 32, 3))}, "must be a Keras tensor"),
        ({"drop_path_rate": 1.0}, "drop_path_rate must be at least 0"),
        ({"dropout": -0.1}, "dropout must be at least 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        rivals.ViTL16(**arguments)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("vit-l-16", {"depth": 0}, "depth must be a positive integer; got 0"),
        ("vit-l-16", {"num_heads": 15}, "num_heads must divide width 1024"),
        ("vit-l-16", {"depths": 3}, "ViTConfig has no field 'depths'; the nearest are depth"),
        ("nfnet-f4", {"depths": (5, 10, 30)}, "depths must be four"),
        ("nfnet-f4", {"group_width": 160}, "got width 256"),
        ("nfnet-f4", {"widths": (320, 512, 1536, 1540)}, "equal groups of 128"),
    ],
)
def test_bad_configurations_are_refused(name, fields, message):
    with pytest.raises(ValueError, match=message):
        coatnet_tf.profile(name, (224, 224, 3), **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": (3, 4)}, "one entry per stage; got 2, 4 and 4"),
        ({"stage_strides": (1, 2, 0, 2)}, "stage_strides must be a tuple, each a positive integer"),
        ({"groups": 24}, "groups must divide stem_width"),
    ],
)
def test_bad_resnets_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        rivals.ResNetConfig(**fields)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    model, _, _ = small("vit_l_16")
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match="patch_tokens/positions is .* in the model and .* in the file"):
        golden.make_model("vit_l_16", (48, 48, 3), weights=tmp_path / "model.weights.h5")
    with pytest.raises(FileNotFoundError, match="no weights file"):
        golden.make_model("vit_l_16", (32, 48, 3), weights=tmp_path / "other.keras")


@pytest.mark.parametrize("layer", [rivals.TokenEmbedding, rivals.Bottleneck, rivals.NFNetBlock])
def test_layers_refuse(layer):
    arguments, shape, message = {
        rivals.TokenEmbedding: ({}, (None, None, 4, 8), "needs a fixed height and width"),
        rivals.Bottleneck: ({"filters": 30}, None, "filters must be divisible by 4"),
        rivals.NFNetBlock: ({"filters": 128}, None, "equal groups of 128"),
    }[layer]
    with pytest.raises(ValueError, match=message):
        layer(**arguments).build(shape)


def test_nfnet_begins_as_its_shortcuts():
    """Every branch begins with a gain of 0, and each input of a block has the variance that `beta` expects."""
    config = dataclasses.replace(golden.CONFIGS["nfnet_f4"], depths=(1, 3, 1, 1))
    blocks = [layer for layer in config.feature_layers((64, 64, 3)) if isinstance(layer, rivals.NFNetBlock)]
    expected = [1.0, 1.04, 1.04, 1.08, 1.12, 1.04]
    np.testing.assert_allclose([block.config.beta**-2 for block in blocks], expected)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 32)).astype("float32")
    np.testing.assert_array_equal(outputs(rivals.NFNetBlock(32, group_width=8), images), images)


def test_a_network_with_lora_is_read_again(tmp_path):
    sizes = {"depths": (1, 1, 1, 1), "widths": (16,) * 4, "stem_widths": (8,) * 4, "group_width": 4}
    model = coatnet_tf.rivals.NFNetF4(input_shape=(32, 32, 3), classes=3, **sizes)
    stem = model.get_layer("stem_conv01")
    stem.enable_lora(2)
    stem.lora_kernel_b.assign(np.ones(stem.lora_kernel_b.shape))
    model.save(tmp_path / "model.keras")
    image = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "model.keras")(image), model(image), atol=1e-6)
