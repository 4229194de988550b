"""The same weights give the same logits on JAX as on TensorFlow, to 1e-4 of the largest. Run with KERAS_BACKEND=jax."""

import os
import subprocess
import sys

import numpy as np
import pytest

import coatnet_tf

WRITE_REFERENCE = """
import sys, keras, numpy as np, coatnet_tf
assert keras.backend.backend() == "tensorflow"
folder, name = sys.argv[1:]
keras.utils.set_random_seed(0)
model = coatnet_tf.CoAtNet(name, input_shape=(64, 96, 3), downsampling="depthwise_conv", classifier_activation=None)
for variable in model.weights:  # biases, norms and moving statistics as after training
    if not variable.path.endswith("kernel"):
        variable.assign(variable + 0.1 * np.abs(np.random.default_rng(0).normal(size=variable.shape)))
images = np.random.default_rng(1).uniform(0, 255, (2, 64, 96, 3)).astype("float32")
model.save_weights(folder + "/model.weights.h5")
np.savez(folder + "/reference.npz", images=images, output=model.predict(images, verbose=0))
"""


@pytest.fixture(scope="module")
def reference_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, "-c", WRITE_REFERENCE, str(folder), "coatnet-0"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("reindexing", ["gather", "einsum"])
def test_coatnet_0_gives_the_outputs_of_tensorflow(reference_folder, reindexing):
    reference = np.load(reference_folder / "reference.npz")
    config = coatnet_tf.get_config("coatnet-0", bias_reindexing=reindexing)
    model = coatnet_tf.CoAtNet(
        config,
        input_shape=(64, 96, 3),
        downsampling="depthwise_conv",
        classifier_activation=None,
        weights=reference_folder / "model.weights.h5",
    )
    output = model.predict(reference["images"], verbose=0)
    largest = np.abs(reference["output"]).max()
    assert reference["output"].std() > 0.1 * largest  # not all classes alike
    np.testing.assert_allclose(output, reference["output"], rtol=0, atol=1e-4 * largest)
