"""Fixtures that all tests share."""

import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if os.environ.get("KERAS_BACKEND") == "jax":  # eight devices of the CPU; what one test has compiled, others use again
    os.environ.update(XLA_FLAGS="--xla_force_host_platform_device_count=8", JAX_PLATFORMS="cpu")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(tempfile.gettempdir(), f"coatnet_tf_compiled_{os.getuid()}")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import keras
import numpy as np
import pytest

import coatnet_tf

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    # Two logical devices, so that distribution can be tested on any machine.
    two_devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two_devices)


@pytest.fixture(scope="session")
def run():
    """Prepares and trains, as `python -m experiments.train` does."""
    from experiments import loop

    def train(config, folder, devices):
        source = loop.prepare(config, folder, devices)
        loop.train(config, folder, devices, source, *loop.build(config, folder, devices, source))

    return train


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _log_of_a_program(caplog):
    """Our lines from INFO on, as the programs show them, whatever a library did to the level in the test before."""
    caplog.set_level("INFO", logger="absl")


@pytest.fixture
def tiny():
    """A C-C-T-T network with both kinds of blocks, down-sampling and widening; total stride 16."""
    return coatnet_tf.make_config("tiny", (2, 1, 2, 2, 1), (8, 8, 16, 32, 48), strides=(1, 2, 2, 2, 2), head_size=16)


@pytest.fixture
def images():
    """Two images of 32 x 48, in [0, 255]."""
    return np.random.default_rng(0).uniform(0, 255, (2, 32, 48, 3)).astype("float32")
