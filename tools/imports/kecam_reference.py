"""Runs in an environment that has keras-cv-attention-models: a random network with its answers.

    python tools/imports/kecam_reference.py reference [--small]

writes `reference.h5` (the weights, as that package's files are) and `reference.npz` (images and logits). With
`--small` the network keeps its blocks' options and is narrow, shallow and for images of 64 x 64; its weights are
rounded to half precision, and are in `reference.npz` too: the golden case of the tests.
"""

import argparse
import json
import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tf_keras
from keras_cv_attention_models import coatnet

SMALL = {"num_blocks": [1, 2, 2, 1], "out_channels": [64, 32, 64, 32], "stem_width": 32, "head_dimension": 16}
SMALL_SIZE = 64


def randomise(model: tf_keras.Model, generator: np.random.Generator, rounded: bool) -> None:
    """Weights as after training: norms that scale and shift, statistics that are not those of the start."""
    for variable in model.weights:
        shape = tuple(variable.shape)
        if "gamma" in variable.name or "moving_variance" in variable.name:
            value = generator.uniform(0.5, 1.5, shape)
        elif "kernel" in variable.name:
            value = generator.normal(0, np.prod(shape[:-1]) ** -0.5, shape)
        else:
            value = generator.normal(0, 0.3, shape)
        variable.assign(value.astype("float16").astype("float32") if rounded else value)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()

    options = {"pretrained": None, "classifier_activation": None}
    size = 224
    if arguments.small:
        size = SMALL_SIZE
        shape = (size, size, 3)
        model = coatnet.CoAtNet(**SMALL, **options, input_shape=shape, num_classes=10, model_name="small")
    else:
        model = coatnet.CoAtNet0(**options)
    generator = np.random.default_rng(0)
    randomise(model, generator, arguments.small)
    images = generator.integers(0, 256, (2, size, size, 3)).astype("uint8")
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    logits = model((images / 255 - mean) / deviation, training=False).numpy()
    answers = {"images": images, "logits": logits}
    if arguments.small:
        layout = json.dumps({variable.name: list(variable.shape) for variable in model.weights})
        values = np.concatenate([variable.numpy().reshape(-1) for variable in model.weights]).astype("float16")
        np.savez_compressed(f"{arguments.output}.npz", layout=layout, values=values, **answers)
    else:
        np.savez(f"{arguments.output}.npz", **answers)
        model.save_weights(f"{arguments.output}.h5")


if __name__ == "__main__":
    main()
