"""What loading weights refuses, and that it then changes nothing."""

import numpy as np
import pytest

import coatnet_tf

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
    model.compile("adamw", "sparse_categorical_crossentropy")
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
