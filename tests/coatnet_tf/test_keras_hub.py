"""CoAtNet in KerasHub: presets there and back, its classifier and converter, KerasHub's detector and segmenter."""

import os

os.environ.setdefault("KAGGLE_CONFIG_DIR", os.devnull)

import keras
import keras_hub
import numpy as np
import pytest

import coatnet_tf
from coatnet_tf.keras_hub import (
    CoAtNetImageClassifier,
    CoAtNetImageConverter,
    CoAtNetKerasHubBackbone,
)

CONFIG = coatnet_tf.make_config("tiny", (1, 1, 1, 1, 1), (8, 8, 16, 16, 32), head_size=8, conv_norm="layer_norm")


@pytest.fixture(scope="module")
def backbone():
    return CoAtNetKerasHubBackbone(CONFIG, input_shape=(64, 96, 3))


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")


def outputs_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


def outputs(model, images):
    return outputs_of(model(images))


class TestPresets:
    def test_of_kerashub_and_back(self, backbone, pictures, tmp_path):
        backbone.save_to_preset(tmp_path)
        for read in (
            keras_hub.models.Backbone.from_preset(str(tmp_path)),
            CoAtNetKerasHubBackbone.from_preset(tmp_path),
            coatnet_tf.CoAtNetBackbone.from_preset(tmp_path),
        ):
            assert read.config == backbone.config
            np.testing.assert_allclose(outputs(read, pictures), outputs(backbone, pictures), atol=1e-6)
        assert type(read) is coatnet_tf.CoAtNetBackbone

    def test_kerashub_reads_ours(self, pictures, tmp_path):
        ours = coatnet_tf.CoAtNetBackbone(CONFIG, input_shape=(64, 96, 3))
        ours.save_to_preset(tmp_path)
        theirs = keras_hub.models.Backbone.from_preset(str(tmp_path))
        assert type(theirs) is CoAtNetKerasHubBackbone
        np.testing.assert_allclose(outputs(theirs, pictures), outputs(ours, pictures), atol=1e-6)
        fresh = keras_hub.models.Backbone.from_preset(str(tmp_path), load_weights=False)
        assert np.abs(outputs(fresh, pictures) - outputs(ours, pictures)).max() > 1e-3

    def test_of_the_hub(self, backbone, pictures, tmp_path, monkeypatch):
        """`hf://` and `kaggle://` are fetched by KerasHub, file by file, from the libraries of those hubs."""
        from keras_hub.src.utils import preset_utils

        backbone.save_to_preset(tmp_path)
        asked = []

        def fetch(repo_id, filename):
            asked.append(repo_id)
            if not (tmp_path / filename).exists():
                raise preset_utils.EntryNotFoundError(filename)
            return str(tmp_path / filename)

        monkeypatch.setattr(preset_utils.huggingface_hub, "hf_hub_download", fetch)
        monkeypatch.setattr(preset_utils.kagglehub, "model_download", fetch)
        for name in ("hf://somebody/tiny", "kaggle://somebody/coatnet/keras/tiny"):
            read = CoAtNetKerasHubBackbone.from_preset(name)
            np.testing.assert_allclose(outputs(read, pictures), outputs(backbone, pictures), atol=1e-6)
        assert set(asked) == {"somebody/tiny", "somebody/coatnet/keras/tiny"}

    def test_the_backbone_without_kerashub_says_who_reads_addresses(self):
        with pytest.raises(ValueError, match="keras_hub.CoAtNetKerasHubBackbone.from_preset reads it"):
            coatnet_tf.CoAtNetBackbone.from_preset("hf://somebody/tiny")


class TestClassifier:
    def test_of_a_trained_model(self, pictures, tmp_path):
        trained = coatnet_tf.CoAtNet(CONFIG, input_shape=(64, 96, 3), classes=5)
        trained.save(tmp_path / "model.keras")
        trained = keras.models.load_model(tmp_path / "model.keras")
        classifier = CoAtNetImageClassifier.of(trained, CONFIG)
        expected = outputs(trained, pictures)
        np.testing.assert_allclose(outputs(classifier, pictures), expected, atol=1e-6)

        classifier.save_to_preset(str(tmp_path / "preset"))
        read = keras_hub.models.ImageClassifier.from_preset(str(tmp_path / "preset"))
        assert type(read) is CoAtNetImageClassifier
        np.testing.assert_allclose(read.predict(pictures, verbose=0), expected, atol=1e-6)
        larger = keras.ops.image.resize(pictures, (128, 192), interpolation="nearest")
        assert read.predict(larger, verbose=0).shape == (2, 5)  # through its preprocessor
        others = keras_hub.models.ImageClassifier.from_preset(str(tmp_path / "preset"), num_classes=3)
        np.testing.assert_allclose(
            outputs(others.backbone, pictures), outputs(classifier.backbone, pictures), atol=1e-6
        )

    def test_what_is_frozen_stays_so(self):
        model = coatnet_tf.CoAtNet(CONFIG, input_shape=(64, 64, 3), classes=5)
        coatnet_tf.freeze(model, until="s2")
        classifier = CoAtNetImageClassifier.of(model, CONFIG)
        assert len(classifier.trainable_weights) == len(model.trainable_weights) < len(model.weights)
        model.quantize("int8")
        with pytest.raises(ValueError, match="is quantised or has LoRA; give the model that it was before"):
            CoAtNetImageClassifier.of(model, CONFIG)

    def test_of_another_model_is_refused(self):
        other = coatnet_tf.CoAtNet(CONFIG, input_shape=(64, 64, 3), classes=5, se_ratio=0.5)
        with pytest.raises(ValueError, match="is not tiny: s1_block01: se_ratio is 0.5 and must be 0.25"):
            CoAtNetImageClassifier.of(other, CONFIG)
        with pytest.raises(ValueError, match="it lacks the layer predictions"):
            CoAtNetImageClassifier.of(coatnet_tf.CoAtNet(CONFIG, input_shape=(64, 64, 3), include_top=False), CONFIG)

    def test_on_a_preset_of_a_backbone(self, backbone, pictures, tmp_path):
        backbone.save_to_preset(tmp_path)
        CoAtNetImageConverter.of(backbone).save_to_preset(str(tmp_path))
        classifier = keras_hub.models.ImageClassifier.from_preset(str(tmp_path), num_classes=4)
        classifier.compile(run_eagerly=True)  # one step takes less time than tracing it
        history = classifier.fit(pictures, np.array([0, 3]), epochs=1, verbose=0).history
        assert np.isfinite(history["loss"]).all()

    def test_kerashubs_own_head(self, backbone, pictures):
        classifier = keras_hub.models.ImageClassifier(backbone, num_classes=4)
        assert outputs(classifier, pictures).shape == (2, 4)


@pytest.mark.parametrize("preprocessing", ["tf", "torch"])
def test_the_converter_does_what_the_backbone_leaves_out(preprocessing, pictures):
    config = coatnet_tf.get_config(CONFIG, preprocessing=preprocessing)
    whole = CoAtNetKerasHubBackbone(config, input_shape=(64, 96, 3))
    bare = CoAtNetKerasHubBackbone(config, input_shape=(64, 96, 3), include_preprocessing=False)
    bare.set_weights(whole.get_weights())
    np.testing.assert_array_equal(CoAtNetImageConverter.of(whole)(pictures), pictures)
    np.testing.assert_allclose(
        outputs(bare, CoAtNetImageConverter.of(bare)(pictures)), outputs(whole, pictures), atol=1e-5
    )


def test_a_detector(backbone, pictures):
    """RetinaNet on P3 to P5 and two levels above; boxes for every anchor."""
    retinanet = keras_hub.models.RetinaNetBackbone(
        image_encoder=backbone, min_level=3, max_level=6, use_p5=False, image_shape=(64, 96, 3)
    )
    levels = {level: tuple(keras.ops.shape(x)[1:3]) for level, x in retinanet(pictures).items()}
    assert levels == {"P3": (8, 12), "P4": (4, 6), "P5": (2, 3), "P6": (1, 2)}


def trained(task, images, labels):
    """How far a step of training moves the weights of the backbone, and the loss before and after four."""
    backbone = next(layer for layer in task._flatten_layers() if isinstance(layer, CoAtNetKerasHubBackbone))
    before = [weight.copy() for weight in backbone.get_weights()]
    task.fit(images, labels, batch_size=2, epochs=1, verbose=0)
    moved = max(np.abs(a - b).max() for a, b in zip(backbone.get_weights(), before, strict=True))
    losses = task.fit(images, labels, batch_size=2, epochs=4, verbose=0).history["loss"]
    return moved, losses


@pytest.mark.slow
def test_the_detector_trains_and_is_read_again(pictures, tmp_path):
    """`RetinaNetObjectDetector` on the backbone: a box per picture; the preset gives the same answers."""
    backbone = keras_hub.models.RetinaNetBackbone(
        image_encoder=CoAtNetKerasHubBackbone(CONFIG, input_shape=(64, 96, 3)),
        min_level=3,
        max_level=4,
        use_p5=False,
        image_shape=(64, 96, 3),
    )
    detector = keras_hub.models.RetinaNetObjectDetector(
        backbone, num_classes=2, bounding_box_format="xyxy", pre_logits_num_conv_layers=1
    )
    detector.compile(optimizer=keras.optimizers.Adam(1e-3))  # with KerasHub's losses
    boxes = np.array([[[8, 8, 40, 40]], [[30, 20, 80, 60]]], "float32")
    moved, losses = trained(detector, pictures, {"boxes": boxes, "labels": np.array([[0], [1]])})
    assert moved > 1e-4
    assert losses[-1] < losses[0]
    detector.save_to_preset(str(tmp_path))
    read = keras_hub.models.RetinaNetObjectDetector.from_preset(str(tmp_path))
    for name, expected in detector(pictures).items():
        np.testing.assert_allclose(outputs_of(read(pictures)[name]), outputs_of(expected), atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_segmenter_trains_and_is_read_again(pictures, tmp_path):
    """`DeepLabV3ImageSegmenter` on the backbone, with its P2 for what is fine."""
    backbone = keras_hub.models.DeepLabV3Backbone(
        image_encoder=CoAtNetKerasHubBackbone(CONFIG, input_shape=(64, 96, 3)),
        spatial_pyramid_pooling_key="P4",
        low_level_feature_key="P2",
        upsampling_size=4,
        dilation_rates=(1, 2),
        projection_filters=8,
        image_shape=(64, 96, 3),
    )
    segmenter = keras_hub.models.DeepLabV3ImageSegmenter(backbone, num_classes=2, activation="softmax")
    segmenter.compile(optimizer=keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy")
    bright = (pictures.mean(axis=-1, keepdims=True) > 128).astype("int32")
    moved, losses = trained(segmenter, pictures, bright)
    assert moved > 1e-4
    assert losses[-1] < losses[0]
    segmenter.save_to_preset(str(tmp_path))
    read = keras_hub.models.ImageSegmenter.from_preset(str(tmp_path))
    np.testing.assert_allclose(outputs(read, pictures), outputs(segmenter, pictures), atol=1e-5)
