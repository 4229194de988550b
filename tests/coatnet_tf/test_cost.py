"""Counts against the published tables, and against built models."""

import math
import subprocess
import sys

import numpy as np
import pytest

import coatnet_tf

# Model, size, stride-2 place, parameters (M), MACs (B), MACs with re-indexing (B).
PUBLISHED = [
    ("coatnet-0", 224, "expand_conv", 25.04, 4.14, 4.21),
    ("coatnet-0", 224, "depthwise_conv", 25.04, 4.55, 4.62),
    ("coatnet-0", 384, "expand_conv", 25.14, 13.05, 14.09),
    ("coatnet-1", 224, "expand_conv", 42.23, 8.24, 8.44),
    ("coatnet-1", 224, "depthwise_conv", 42.23, 8.64, 8.84),
    ("coatnet-1", 384, "expand_conv", 42.49, 26.60, 29.46),
    ("coatnet-2", 224, "expand_conv", 74.68, 15.50, 15.77),
    ("coatnet-2", 224, "depthwise_conv", 74.68, 16.43, 16.69),
    ("coatnet-2", 384, "expand_conv", 75.04, 48.75, 52.56),
    ("coatnet-2", 512, "expand_conv", 75.46, 93.35, 109.21),
    ("coatnet-3", 224, "expand_conv", 166.97, 34.37, 34.77),
    ("coatnet-3", 384, "expand_conv", 167.50, 105.79, 111.51),
    ("coatnet-3", 384, "depthwise_conv", 167.50, 111.91, 117.63),
    ("coatnet-3", 512, "expand_conv", 168.13, 198.11, 221.89),
    ("coatnet-3", 512, "depthwise_conv", 168.13, 208.98, 232.76),
    ("coatnet-4", 384, "expand_conv", 276.45, 186.50, 197.89),
    ("coatnet-4", 512, "expand_conv", 277.68, 351.46, 398.80),
    ("coatnet-5", 512, "expand_conv", 688.92, 803.98, 843.40),
    ("coatnet-6", 512, "expand_conv", 1472.80, 1495.49, 1530.94),
    ("coatnet-7", 512, "expand_conv", 2444.19, 2538.53, 2585.76),
]
# Parameters (M) at 224, and as the paper rounds them.
AT_224 = [
    ("coatnet-0", 25.04, 25),
    ("coatnet-1", 42.23, 42),
    ("coatnet-2", 74.68, 75),
    ("coatnet-3", 166.97, 168),
    ("coatnet-4", 275.43, 275),
    ("coatnet-5", 687.05, 688),
    ("coatnet-6", 1471.13, 1470),
    ("coatnet-7", 2441.97, 2440),
]


@pytest.mark.parametrize(("name", "size", "downsampling", "params", "macs", "with_index"), PUBLISHED)
def test_published_points(name, size, downsampling, params, macs, with_index):
    report = coatnet_tf.profile(name, (size, size, 3), downsampling=downsampling)
    half_a_digit = 0.00501  # the table is rounded to two decimals
    assert report.params / 1e6 == pytest.approx(params, abs=half_a_digit, rel=0)
    assert report.macs / 1e9 == pytest.approx(macs, abs=half_a_digit, rel=0)
    assert (report.macs + report.index_macs) / 1e9 == pytest.approx(with_index, abs=half_a_digit, rel=0)


@pytest.mark.parametrize(("name", "params", "paper"), AT_224)
def test_parameters_at_224(name, params, paper):
    report = coatnet_tf.profile(name)
    assert report.params / 1e6 == pytest.approx(params, abs=max(0.00501, 1e-4 * params), rel=0)
    assert report.params / 1e6 == pytest.approx(paper, rel=0.007)


@pytest.mark.parametrize("number", range(4))
def test_built_models_count_the_same(number):
    model = getattr(coatnet_tf, f"CoAtNet{number}")()
    report = coatnet_tf.profile(model)
    assert report.params == sum(math.prod(v.shape) for v in model.trainable_weights)
    assert report.non_trainable_params == sum(math.prod(v.shape) for v in model.non_trainable_weights)
    of_config = coatnet_tf.profile(f"coatnet-{number}")
    assert (report.params, report.macs, report.stages) == (of_config.params, of_config.macs, of_config.stages)


@pytest.mark.parametrize("field", [{"conv_norm": "layer_norm"}, {"relative_attention": False}, {"head_size": 8}])
def test_variants_count_what_they_build(tiny, field):
    config = coatnet_tf.get_config(tiny, **field)
    model = coatnet_tf.CoAtNet(config, input_shape=(32, 48, 3), include_top=False, pooling="avg")
    report = coatnet_tf.profile(model)
    assert report.params == sum(math.prod(v.shape) for v in model.trainable_weights)
    assert list(report.stages) == ["stem", "s1", "s2", "s3", "s4", "head"]
    assert coatnet_tf.profile(config, (32, 48, 3), include_top=False).params == report.params


def test_stages_add_up_and_print():
    report = coatnet_tf.profile("coatnet-6", (512, 512, 3))
    assert list(report.stages) == ["stem", "s1", "s2", "s3", "s4", "head"]
    for field in ("params", "macs", "index_macs", "total_activations"):
        assert sum(getattr(stage, field) for stage in report.stages.values()) == getattr(report, field)
    assert report.largest_activation == max(stage.largest_activation for stage in report.stages.values())
    assert f"{report.params:,}" in str(report)


def test_activations_of_a_block_counted_by_hand():
    config = coatnet_tf.make_config("x", (1, 1), (4, 4), "C", (1, 1))
    block = coatnet_tf.profile(config, (2, 2, 3), include_top=False).stages["s1"]
    # 2 x 2 positions: pre-norm 4; conv, norm, GELU, depthwise, norm, GELU, gated 16 each; shrunk and added 4 each;
    # squeeze-and-excitation without positions: mean 16, hidden 1 and SiLU 1, gate 16 and sigmoid 16.
    assert block.total_activations == 4 * (4 + 7 * 16 + 2 * 4) + (16 + 1 + 1 + 16 + 16)
    assert block.largest_activation == 4 * 16


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_coatnet_7_at_512_is_counted_without_its_weights():
    """In under 15 s and 1.5 GB, everything imported (TensorFlow alone takes about 0.5 GB)."""
    code = (
        "import time, coatnet_tf; start = time.monotonic(); "
        "coatnet_tf.profile('coatnet-7', (512, 512, 3)); print(time.monotonic() - start); "
        "print([int(l.split()[1]) / 1e6 for l in open('/proc/self/status') if l.startswith('VmHWM')][0])"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    seconds, gigabytes = np.array(printed.split(), float)
    assert seconds < 15
    assert gigabytes < 1.5


def test_what_profile_refuses(tiny):
    import keras

    model = coatnet_tf.CoAtNet(tiny, input_shape=(32, 32, 3))
    with pytest.raises(ValueError, match="was built for \\(32, 32, 3\\), not \\(64, 64, 3\\)"):
        coatnet_tf.profile(model, (64, 64, 3))
    with pytest.raises(ValueError, match="A built model cannot be changed; leave out head_size"):
        coatnet_tf.profile(model, head_size=8)
    with pytest.raises(ValueError, match="choose a multiple of 32"):
        coatnet_tf.profile("coatnet-0", (100, 100, 3))
    with pytest.raises(ValueError, match="leave out classes"):
        coatnet_tf.profile(model, classes=10)
    foreign = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2DTranspose(4, 3)])
    with pytest.raises(TypeError, match="does not know what layer"):
        coatnet_tf.profile(foreign)
    for other in (keras.Sequential([keras.layers.Dense(2)]), keras.Model()):
        with pytest.raises(TypeError, match="counts functional models, and sequential ones that are built; got <"):
            coatnet_tf.profile(other)


def test_a_sequential_model_counts_as_its_layers(tiny, tmp_path):
    import keras

    model = coatnet_tf.CoAtNet(tiny, input_shape=(32, 32, 3))
    keras.Sequential([keras.Input((32, 32, 3)), *model.layers[1:]]).save(tmp_path / "same.keras")
    same = keras.models.load_model(tmp_path / "same.keras")
    assert coatnet_tf.profile(same).macs == coatnet_tf.profile(model).macs
