"""The layers against vectors of the blocks of Google's MaxViT release, and as Keras layers."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from coatnet_tf import layers

GOLDEN = Path(__file__).parents[1] / "golden"

# Names in the release -> names of the layers here.
RENAMED = {
    "mbconv": {
        "shortcut_conv": "proj",
        "reduce_conv2d": "reduce",
        "expand_conv2d": "expand",
        "depthwise_kernel": "kernel",
    },
    "transformer": {
        "shortcut_proj": "proj",
        "attn_layer_norm": "attention_norm",
        "ffn_layer_norm": "ffn_norm",
        "relative_bias": "relative_bias/table",
        "expand_dense": "expand",
        "shrink_dense": "shrink",
        "weight": "kernel",
        "q": "query",
        "k": "key",
        "v": "value",
        "o": "out",
    },
}
DOWNSAMPLING = {"depth_conv": "depthwise_conv", "expand_conv": "expand_conv"}


def load_golden(path):
    """Input, output, settings and weights `{path of attributes: array}` of a vector."""
    with np.load(path) as file:
        arrays = dict(file)
    weights, settings = {}, {}
    for name, value in arrays.items():
        if name.startswith("weights/"):
            _, kind, *parts = name.split("/")
            weights["/".join(RENAMED[kind].get(part, part) for part in parts)] = value
        elif name.startswith("meta/"):
            settings[name.removeprefix("meta/")] = value.item()
    return arrays["input"], arrays["output"], settings, weights


def assign(layer, weights):
    """Assigns every weight of the vector, and checks that the layer has no other."""
    for path, value in weights.items():
        variable = layer
        for attribute in path.split("/"):
            variable = getattr(variable, attribute)
        variable.assign(value.reshape(variable.shape))
    assert len(layer.weights) == len(weights)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("mbconv*.npz")), ids=lambda path: path.stem)
def test_mbconv_is_that_of_the_maxvit_release(path):
    inputs, output, settings, weights = load_golden(path)
    downsampling = DOWNSAMPLING[settings["downsample_loc"]]
    layer = layers.MBConv(output.shape[-1], settings["pool_stride"], downsampling=downsampling)
    layer.build(inputs.shape)
    assign(layer, weights)
    np.testing.assert_allclose(layer(inputs), output, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reindexing", ["gather", "einsum"])
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("transformer*.npz")), ids=lambda path: path.stem)
def test_transformer_block_is_that_of_the_maxvit_release(path, reindexing):
    inputs, output, settings, weights = load_golden(path)
    relative = any("relative_bias" in name for name in weights)
    layer = layers.TransformerBlock(
        output.shape[-1],
        settings["pool_stride"],
        head_size=settings["head_size"],
        relative_attention=relative,
        bias_reindexing=reindexing,
    )
    layer.build(inputs.shape)
    assign(layer, weights)
    result = np.reshape(layer(inputs), output.shape)
    np.testing.assert_allclose(result, output, atol=1e-5, rtol=1e-5)


LAYERS = {
    "mbconv": lambda: layers.MBConv(16, 2, downsampling="depthwise_conv", expansion=3, se_ratio=0.5, kernel_size=5),
    "mbconv initializer": lambda: layers.MBConv(8, kernel_initializer="lecun_normal"),
    "transformer initializer": lambda: layers.TransformerBlock(16, head_size=8, kernel_initializer="he_normal"),
    "mbconv layer_norm": lambda: layers.MBConv(8, conv_norm="layer_norm", drop_path_rate=0.1),
    "squeeze_excite": lambda: layers.SqueezeExcite(3),
    "attention": lambda: layers.RelativeSelfAttention(16, head_size=8, bias_reindexing="einsum"),
    "plain attention": lambda: layers.RelativeSelfAttention(16, head_size=8, relative_attention=False),
    "feed_forward": lambda: layers.FeedForward(ffn_expansion=3),
    "transformer": lambda: layers.TransformerBlock(16, 2, head_size=8, ffn_expansion=2, drop_path_rate=0.2),
    "stochastic_depth": lambda: layers.StochasticDepth(0.3, seed=1),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
def test_layer_survives_its_config(make):
    inputs = np.random.default_rng(0).normal(size=(2, 6, 4, 8)).astype("float32")
    layer = make()
    expected = layer(inputs)
    assert layer.compute_output_spec(keras.KerasTensor(inputs.shape)).shape == tuple(expected.shape)
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert copy.get_config() == layer.get_config()
    copy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(copy(inputs), expected)


def test_bias_of_position_pairs_on_a_grid_that_is_no_square():
    height, width = 3, 2
    layer = layers.RelativePositionBias((height, width), num_heads=2)
    layer.build((None, 2, 6, 6))
    layer.table.assign(np.random.default_rng(0).normal(size=(2, 5, 3)))
    table, bias = np.asarray(layer.table), np.asarray(layer.bias()).reshape(2, height, width, height, width)
    for i, j, k, m in np.ndindex(height, width, height, width):
        np.testing.assert_array_equal(bias[:, i, j, k, m], table[:, k - i + height - 1, m - j + width - 1])


def test_attention_scores_of_symbolic_inputs():
    layer = layers.RelativeSelfAttention(16, head_size=8)
    output, scores = layer(keras.Input((5, 3, 8)), return_attention_scores=True)
    assert (output.shape, scores.shape) == ((None, 5, 3, 16), (None, 2, 15, 15))


def test_attention_scores_are_probabilities_in_float32_under_mixed_precision():
    layer = layers.RelativeSelfAttention(16, head_size=8, dtype="mixed_bfloat16")
    inputs = np.random.default_rng(0).normal(size=(2, 5, 3, 8)).astype("float32")
    output, scores = layer(inputs, return_attention_scores=True)
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(scores.dtype) == "float32"
    assert layer.relative_bias.table.dtype == "float32"
    np.testing.assert_allclose(np.sum(scores, axis=-1), 1.0, atol=1e-5)  # bfloat16 would miss by 1e-3


@pytest.mark.parametrize(("initializer", "deviation"), [(None, 0.02), ("lecun_normal", 256**-0.5)])
def test_kernels_are_drawn_from_the_initializer_each_on_its_own(initializer, deviation):
    layer = layers.RelativeSelfAttention(256, kernel_initializer=initializer)
    layer.build((None, 2, 2, 256))
    kernels = [np.asarray(dense.kernel) for dense in (layer.query, layer.key, layer.value, layer.out)]
    assert [kernel.std() for kernel in kernels] == pytest.approx([deviation] * 4, rel=0.03)
    assert np.abs(kernels[0] - kernels[1]).max() > deviation
    assert np.std(layer.relative_bias.table) == pytest.approx(0.02, rel=0.4)


def test_stochastic_depth_drops_whole_images_at_its_rate_and_keeps_the_mean():
    layer = layers.StochasticDepth(0.25, seed=0)
    inputs = np.ones((4000, 2, 2, 1), "float32")
    np.testing.assert_array_equal(layer(inputs, training=False), inputs)
    output = ops.convert_to_numpy(layer(inputs, training=True)).reshape(4000, 4)
    assert (output == output[:, :1]).all()
    assert (output == 0).mean() == pytest.approx(0.25, abs=0.03)
    assert output.mean() == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.MBConv(8, strides=3), "strides must be 1 or 2"),
        (lambda: layers.MBConv(8, downsampling="pool"), "downsampling must be one of expand_conv, depthwise_conv"),
        (
            lambda: layers.MBConv(8, conv_norm="group"),
            "conv_norm must be one of batch_norm, sync_batch_norm, layer_norm",
        ),
        (lambda: layers.MBConv(8, drop_path_rate=1.0), "drop_path_rate must be at least 0 and below 1"),
        (lambda: layers.RelativeSelfAttention(20, head_size=8), "head_size must divide the width of q, k and v"),
        (lambda: layers.RelativePositionBias((2, 2), 1, "scatter"), "bias_reindexing must be one of gather, einsum"),
        (
            lambda: layers.MBConv(8, expansion=0.01).build((None, 8, 8, 8)),
            "expansion=0.01 of 8 channels leaves none inside; it must be at least 0.12",
        ),
        (
            lambda: layers.TransformerBlock(32, ffn_expansion=0.01).build((None, 8, 8, 32)),
            "ffn_expansion=0.01 of 32 channels leaves none inside",
        ),
        (lambda: layers.MBConv(8, 2).build((None, 7, 8, 4)), "height is odd \\(7\\)"),
        (lambda: layers.TransformerBlock(32, 2).build((None, 8, 9, 4)), "width is odd \\(9\\)"),
        (lambda: layers.TransformerBlock(32).build((None, None, 8, 4)), "needs a fixed height and width"),
        (lambda: layers.TransformerBlock(32).build((None, 64, 8)), "takes images"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
