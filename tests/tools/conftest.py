"""A model to export."""

import keras
import pytest

import coatnet_tf


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A model of seven classes for images of 32 x 32, with weights that tell them apart."""
    keras.utils.set_random_seed(0)
    config = coatnet_tf.make_config(
        "tiny",
        (2, 1, 1, 1, 1),
        (8, 8, 16, 32, 32),
        strides=(1, 2, 2, 2, 2),
        head_size=16,
        kernel_initializer="lecun_normal",
    )
    path = tmp_path_factory.mktemp("model") / "model.keras"
    coatnet_tf.CoAtNet(config, input_shape=(32, 32, 3), classes=7).save(path)
    return path
