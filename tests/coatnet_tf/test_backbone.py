"""The backbone: its pyramid, weights of a classifier in it, and what stands on it."""

import os

import keras
import numpy as np
import pytest

import coatnet_tf
from coatnet_tf import layers
from tests.coatnet_tf import golden_imports as golden

SMALL_HEADS = layers.TransformerConfig(attention=layers.AttentionConfig(head_size=16))


def config(**changes):
    return coatnet_tf.make_config(
        "tiny", (2, 1, 2, 1, 1), (8, 16, 24, 32, 48), head_size=16, kernel_initializer="lecun_normal", **changes
    )


def shapes(backbone):
    return {level: tuple(output.shape[1:]) for level, output in backbone.pyramid_outputs.items()}


def test_one_map_a_stride():
    backbone = coatnet_tf.CoAtNetBackbone(config(), input_shape=(64, 96, 3))
    assert shapes(backbone) == {
        "P1": (32, 48, 8),
        "P2": (16, 24, 16),
        "P3": (8, 12, 24),
        "P4": (4, 6, 32),
        "P5": (2, 3, 48),
    }
    assert backbone.output_shape == (None, 2, 3, 48)


def test_stages_of_one_stride_give_their_last():
    """S3 of CoAtNet-6 has two widths at one stride."""
    stages = tuple(
        coatnet_tf.StageConfig(stage.name, stage.block, 1, width, stage.stride)
        for stage, width in zip(coatnet_tf.FAMILY["coatnet-6"].stages, (8, 16, 16, 32, 64), strict=True)
    )
    mixed = coatnet_tf.CoAtNetConfig("mixed", coatnet_tf.StemConfig(1, 8), stages, transformer=SMALL_HEADS)
    backbone = coatnet_tf.CoAtNetBackbone(mixed, input_shape=(32, 32, 3))
    assert shapes(backbone)["P4"] == (2, 2, 32)


def test_maps_are_those_of_the_classifier(tmp_path):
    classifier = coatnet_tf.CoAtNet(config(), input_shape=(64, 64, 3), classes=7)
    path = tmp_path / "classifier.weights.h5"
    classifier.save_weights(path)
    backbone = coatnet_tf.CoAtNetBackbone(config(), input_shape=(64, 64, 3), weights=path)
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    inner = keras.Model(classifier.inputs, classifier.get_layer("s2_block02").output)
    found = keras.Model(backbone.inputs, backbone.pyramid_outputs)(images)["P3"]
    np.testing.assert_allclose(found, inner(images), atol=1e-5)


def test_tables_are_resized_and_reported(tmp_path):
    path = tmp_path / "classifier.keras"
    coatnet_tf.CoAtNet(config(), input_shape=(64, 64, 3), classes=7).save(path)
    with pytest.warns(UserWarning, match="bias tables resized: s3_block01"):
        coatnet_tf.CoAtNetBackbone(config(), input_shape=(96, 160, 3), weights=path)


def test_imported_weights(monkeypatch, tmp_path):
    import safetensors.numpy

    from coatnet_tf.pretrained import catalog, configs

    name = "timm/coatnet_0_rw_224.sw_in1k"
    monkeypatch.setitem(configs.RELATIVES, "coatnet_0_rw", golden.small_config("coatnet_0_rw"))
    tensors, images, _ = golden.read("coatnet_0_rw")
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    monkeypatch.setattr(catalog, "download", lambda entry: os.fspath(tmp_path / "model.safetensors"))
    backbone = coatnet_tf.CoAtNetBackbone(name, input_shape=(64, 64, 3), weights=name)
    features = golden.make_model("coatnet_0_rw", include_top=False)
    golden.load(features, "coatnet_0_rw", tensors)
    images = images.astype("float32")
    np.testing.assert_allclose(backbone(images), features(images), atol=1e-5)


def test_saved_and_loaded(tmp_path):
    backbone = coatnet_tf.CoAtNetBackbone(
        golden.small_config("coatnet_0_rw"), input_shape=(64, 64, 3), include_preprocessing=False, name="mine"
    )
    backbone.save(tmp_path / "backbone.keras")
    loaded = keras.models.load_model(tmp_path / "backbone.keras")
    assert type(loaded) is coatnet_tf.CoAtNetBackbone
    assert (loaded.config, loaded.name, shapes(loaded)) == (backbone.config, "mine", shapes(backbone))
    images = np.random.default_rng(0).normal(0, 1, (2, 64, 64, 3)).astype("float32")
    np.testing.assert_allclose(loaded(images), backbone(images), atol=1e-6)


def make_segmenter(backbone, classes):
    """A small U-Net: from the coarsest map up, each joined by the next finer one."""
    levels = sorted(backbone.pyramid_outputs)
    x = backbone.pyramid_outputs[levels[-1]]
    for level in reversed(levels[:-1]):
        x = keras.layers.UpSampling2D(interpolation="bilinear")(x)
        x = keras.layers.Concatenate()([x, backbone.pyramid_outputs[level]])
        x = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = keras.layers.UpSampling2D(interpolation="bilinear")(x)
    return keras.Model(backbone.inputs, keras.layers.Conv2D(classes, 1, activation="softmax")(x))


@pytest.mark.slow
def test_a_small_unet_learns_where_a_square_is():
    keras.utils.set_random_seed(0)
    backbone = coatnet_tf.CoAtNetBackbone(config(), input_shape=(32, 64, 3))
    segmenter = make_segmenter(backbone, classes=2)
    assert segmenter.output_shape == (None, 32, 64, 2)

    generator = np.random.default_rng(0)
    images = generator.uniform(0, 80, (16, 32, 64, 3)).astype("float32")
    masks = np.zeros((16, 32, 64), "int32")
    for image, mask in zip(images, masks, strict=True):
        row, column = generator.integers(0, 20), generator.integers(0, 52)
        image[row : row + 12, column : column + 12] += 150
        mask[row : row + 12, column : column + 12] = 1
    segmenter.compile(
        keras.optimizers.AdamW(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=True
    )  # twelve steps take less time than tracing one
    history = segmenter.fit(images, masks, batch_size=8, epochs=6, verbose=0).history
    always_background = 1 - masks.mean()
    assert history["accuracy"][-1] > (1 + always_background) / 2


def test_a_kerashub_segmenter_takes_it():
    os.environ.setdefault("KAGGLE_CONFIG_DIR", os.devnull)
    keras_hub = pytest.importorskip("keras_hub")
    backbone = coatnet_tf.CoAtNetBackbone(config(), input_shape=(64, 96, 3))
    deeplab = keras_hub.models.DeepLabV3Backbone(
        image_encoder=backbone,
        spatial_pyramid_pooling_key="P4",
        low_level_feature_key="P2",
        upsampling_size=(4, 4),
        dilation_rates=(1, 2),
        image_shape=(64, 96, 3),
    )
    segmenter = keras_hub.models.DeepLabV3ImageSegmenter(deeplab, num_classes=3)
    assert tuple(segmenter(np.zeros((1, 64, 96, 3), "float32")).shape) == (1, 64, 96, 3)
