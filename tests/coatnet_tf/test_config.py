"""The family table and what configurations refuse."""

import dataclasses
import json

import numpy as np
import pytest

import coatnet_tf
from coatnet_tf import CoAtNetConfig, StageConfig, StemConfig, layers

# Tables 3, 11 and 12 as (L, D) of S0..S4, and the head size; S4 of -6 follows Table 5.
PAPER = {
    "coatnet-0": ((2, 64), (2, 96), (3, 192), (5, 384), (2, 768), 32),
    "coatnet-1": ((2, 64), (2, 96), (6, 192), (14, 384), (2, 768), 32),
    "coatnet-2": ((2, 128), (2, 128), (6, 256), (14, 512), (2, 1024), 32),
    "coatnet-3": ((2, 192), (2, 192), (6, 384), (14, 768), (2, 1536), 32),
    "coatnet-4": ((2, 192), (2, 192), (12, 384), (28, 768), (2, 1536), 32),
    "coatnet-5": ((2, 192), (2, 256), (12, 512), (28, 1280), (2, 2048), 64),
    "coatnet-6": ((2, 192), (2, 192), (4, 384), (8, 768), (42, 1536), (2, 3072), 128),
    "coatnet-7": ((2, 192), (2, 256), (4, 512), (8, 1024), (42, 2048), (2, 3072), 128),
}


@pytest.mark.parametrize("name", PAPER)
def test_family_is_the_papers(name):
    config = coatnet_tf.get_config(name)
    *cells, head_size = PAPER[name]
    assert ((config.stem.stem_depth, config.stem.stem_width), *((s.depth, s.width) for s in config.stages)) == tuple(
        cells
    )
    assert config.transformer.attention.head_size == head_size
    assert config.total_stride == 32


def test_mixed_stage_downsamples_in_its_mbconv_part():
    s3 = [stage for stage in coatnet_tf.get_config("coatnet-7").stages if stage.name == "s3"]
    assert [(stage.block, stage.stride) for stage in s3] == [("mbconv", 2), ("transformer", 1)]


def test_layouts_and_strides_of_ones_own():
    config = coatnet_tf.make_config("x", (1, 1, 1, 1, 1), (32,) * 5, "C-C-C-T", (1, 2, 1, 2, 1), dropout=0.1)
    assert [stage.block for stage in config.stages] == ["mbconv", "mbconv", "mbconv", "transformer"]
    assert (config.total_stride, config.num_blocks, config.dropout) == (4, 4, 0.1)


STAGES = (StageConfig("s1", "mbconv", 1, 32),)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: coatnet_tf.get_config("coatnet-8"), "no configuration 'coatnet-8'; the known ones are coatnet-0,"),
        (lambda: coatnet_tf.get_config("coatnet-0", depth=3), "no field 'depth'; the nearest are stem_depth"),
        (lambda: coatnet_tf.get_config("coatnet-0", head_size=36), "head_size 36 must divide .* 384 of stage 's3'"),
        (lambda: coatnet_tf.get_config("coatnet-0", drop_path_rate=1.5), "drop_path_rate must be at least 0 and below"),
        (lambda: coatnet_tf.get_config("coatnet-0", downsampling="pool"), "downsampling must be one of expand_conv"),
        (lambda: coatnet_tf.get_config("coatnet-0", conv_norm="none"), "conv_norm must be one of batch_norm"),
        (lambda: coatnet_tf.get_config("coatnet-0", bias_reindexing="x"), "bias_reindexing must be one of gather"),
        (
            lambda: coatnet_tf.get_config("coatnet-0", kernel_initializer="lecun"),
            "such as lecun_normal, or None; got 'lecun'",
        ),
        (lambda: StageConfig("s1", "conv", 1, 8), "block must be one of mbconv, transformer; got 'conv'"),
        (lambda: StageConfig("s1", "mbconv", 0, 8), "depth must be a positive integer; got 0"),
        (lambda: StageConfig("s1", "mbconv", 1, 8.0), "width must be a positive integer; got 8.0"),
        (lambda: StageConfig("s1", "mbconv", 1, 8, 4), "stride must be 1 or 2; got 4"),
        (lambda: StageConfig("stem", "mbconv", 1, 8), "and none of stem, head"),
        (lambda: StageConfig("s_1", "mbconv", 1, 8), "letters and digits"),
        (lambda: coatnet_tf.make_config("x", (1, 1), (8, 8), "C", depth=3), "no field 'depth'"),
        (lambda: CoAtNetConfig("x", StemConfig(2, 8), ()), "stages must be a non-empty tuple"),
        (lambda: StemConfig(0, 8), "stem_depth must be a positive integer"),
        (lambda: StemConfig(2, 8, stem_stride=3), "stem_stride must be one of 1, 2, 4"),
        (lambda: coatnet_tf.make_config("x", (1, 1), (8, 8), "CT"), "one number for S0 and one for each letter"),
        (lambda: coatnet_tf.make_config("x", (1, 1), (8, 8), "X"), "layout letter must be one of C, T; got 'X'"),
    ],
)
def test_bad_configurations_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_parts_of_a_stage_stay_together():
    stages = (*STAGES, StageConfig("s2", "mbconv", 1, 32), *STAGES)
    with pytest.raises(ValueError, match="stages of one name must follow one another; got the order s1, s2, s1"):
        CoAtNetConfig("x", StemConfig(2, 8), stages)


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        coatnet_tf.get_config("coatnet-0").name = "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"se_ratio": -3}, "se_ratio must be a positive number; got -3"),
        ({"se_ratio": True}, "se_ratio must be a positive number; got True"),
        ({"se_ratio": float("nan")}, "se_ratio must be a positive number; got nan"),
        ({"expansion": 0}, "expansion must be a positive number; got 0"),
        ({"conv_bias": "no"}, "conv_bias must be True or False; got 'no'"),
        ({"conv_bias": 1}, "conv_bias must be True or False; got 1"),
        ({"relative_attention": "False"}, "relative_attention must be True or False; got 'False'"),
        ({"relative_attention": None}, "relative_attention must be True or False; got None"),
        ({"conv_norm_epsilon": -1}, "conv_norm_epsilon must be a positive number or None; got -1"),
        ({"kernel_size": 3.0}, "kernel_size must be a positive integer; got 3.0"),
        ({"head_size": "32"}, "head_size must be a positive integer; got '32'"),
        ({"relative_mlp_units": 0}, "relative_mlp_units must be a positive integer or None; got 0"),
        ({"layer_scale": 0}, "layer_scale must be a positive number or None; got 0"),
        ({"activation": "swish"}, "activation must be one of gelu_tanh, gelu, silu, relu; got 'swish'"),
        ({"mbconv": None}, "mbconv must be a MBConvConfig; got None"),
        ({"mbconv": {"learning_rate": 1}}, "MBConvConfig has no field 'learning_rate'"),
        ({"stem_width": (8, "8")}, "stem_width must be a positive integer or a tuple, each a positive integer"),
        ({"stem_width": (8, 8, 8)}, "stem_width must be a positive integer, or one for each of the 2 convolutions"),
        ({"dropout": "0.1"}, "dropout must be at least 0 and below 1; got '0.1'"),
        ({"stages": [1]}, "stages must be a tuple, each a StageConfig"),
        ({"preprocessing": "caffe"}, "preprocessing must be one of tf, torch; got 'caffe'"),
    ],
)
def test_every_option_is_checked_types_too(options, message):
    with pytest.raises(ValueError, match=message):
        coatnet_tf.get_config("coatnet-0", **options)


def test_options_are_found_by_name_at_any_depth():
    config = coatnet_tf.get_config(
        "coatnet-0", head_size=64, ffn_bias=False, mbconv={"pool": "avg"}, activation="relu", stem_stride=1
    )
    assert (config.transformer.attention.head_size, config.transformer.ffn.ffn_bias) == (64, False)
    assert (config.mbconv.pool, config.mbconv.activation, config.transformer.pool) == ("avg", "relu", "max")
    assert config.stem.stem_stride == 1
    assert coatnet_tf.FAMILY["coatnet-0"].mbconv.pool == "max"
    assert coatnet_tf.CoAtNetConfig(**dataclasses.asdict(config)) == config


def test_changes_that_only_fit_together_are_made_together():
    """Widths of 48 take no heads of 32, and heads of 16 no width of 24: neither change could come first."""
    config = coatnet_tf.make_config("x", (1, 1, 1), (8, 8, 48), "CT", head_size=16)
    stages = (config.stages[0], dataclasses.replace(config.stages[1], width=40))
    assert coatnet_tf.get_config(config, stages=stages, head_size=20).stages[1].width == 40


@pytest.mark.parametrize("layer", [coatnet_tf.layers.MBConv, coatnet_tf.layers.TransformerBlock])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 0}, "filters must be a positive integer; got 0"),
        ({"filters": 8.0}, "filters must be a positive integer; got 8.0"),
        ({"filters": 32, "strides": True}, "strides must be 1 or 2; got True"),
        ({"filters": 32, "drop_path_rate": None}, "drop_path_rate must be at least 0 and below 1; got None"),
        ({"filters": 32, "kernel_initializer": "lecun"}, "kernel_initializer must be None or a Keras initializer"),
        ({"filters": 32, "config": {"pool": "avg"}}, "config must be a .*Config; got"),
        ({"filters": 32, "pool": "mean"}, "pool must be one of max, max3, avg; got 'mean'"),
        ({"filters": 32, "pol": "max"}, "Unrecognized keyword arguments passed to"),
    ],
)
def test_every_argument_of_a_block_is_checked(layer, arguments, message):
    with pytest.raises(ValueError, match=message):
        layer(**arguments)


def test_an_mbconv_of_half_an_expansion_more():
    block = coatnet_tf.layers.MBConv(8, expansion=1.5)
    block.build((None, 4, 4, 8))
    assert block.depthwise_conv.kernel.shape[-2] == 12


@pytest.mark.parametrize("turned", [False, True])
def test_a_field_that_is_named_counts_in_any_order(turned):
    def made(**changes):
        items = list(changes.items())
        return coatnet_tf.get_config("coatnet-0", **dict(reversed(items) if turned else items))

    assert made(kernel_size=5, mbconv=layers.MBConvConfig(pool="avg")).mbconv.kernel_size == 5
    assert made(kernel_size=5, mbconv={"kernel_size": 3, "pool": "avg"}).mbconv.pool == "avg"
    assert made(kernel_size=5, mbconv={"kernel_size": 3}).mbconv.kernel_size == 5
    found = made(
        head_size=64, attention={"relative_attention": False}, transformer=layers.TransformerConfig(pool="avg")
    )
    assert found.transformer.attention.head_size == 64 and not found.transformer.attention.relative_attention
    assert found.transformer.pool == "avg"


def test_integers_of_numpy_are_taken_everywhere(tiny):
    model = coatnet_tf.CoAtNet(tiny, input_shape=np.array([32, 48, 3]), classes=np.int64(5))
    assert coatnet_tf.reset_classifier(model, np.int64(6)).output_shape == (None, 6)
    images = np.zeros((1, 4, 4, 8), "float32")
    for block in (layers.TransformerBlock(np.int64(16), head_size=8), layers.MBConv(np.int64(16), np.int64(2))):
        assert block(images).shape[-1] == 16
        type(block).from_config(json.loads(json.dumps(block.get_config())))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: coatnet_tf.get_config(None),
            "config must be the name of a configuration or a CoAtNetConfig; got None",
        ),
        (lambda: coatnet_tf.CoAtNet({"name": "mine"}), "config must be the name of a configuration or a CoAtNetConfig"),
        (lambda: coatnet_tf.profile("coatnet-0", 224), "input_shape must be .height, width, channels., three positive"),
        (lambda: coatnet_tf.profile("coatnet-0", classes=0), "classes must be a positive integer or None; got 0"),
        (
            lambda: coatnet_tf.CoAtNetBackbone("coatnet-0", include_preprocessing="no"),
            "must be True or False; got 'no'",
        ),
    ],
)
def test_what_is_no_configuration_gets_a_sentence(act, message):
    with pytest.raises(ValueError, match=message):
        act()
