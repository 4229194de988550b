"""The family table and what configurations refuse."""

import dataclasses

import pytest

import coatnet_tf
from coatnet_tf import CoAtNetConfig, StageConfig, StemConfig

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
