"""The model as it is served: at its size, folded, in its dtype, quantised, and giving probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from absl import logging
from keras import ops

from coatnet_tf.graph import as_functional, inlined
from coatnet_tf.weights import Loaded, resize_table
from coatnet_tf.weights.resizing import is_other_table
from experiments import sizes
from experiments.data.values import gives_values
from tools import model_files


def at_size(model: keras.Model, path: Path, size: sizes.Size) -> keras.Model:
    """The model for images of another height and width; what was resized is reported.

    Args:
        model: A functional model, which may have a network inside it.
        path: The file it is from, for messages.
        size: Height and width.

    Raises:
        ValueError: If the model cannot have that size.
    """
    model = as_functional(inlined(model))
    image = keras.Input((*size, model.input_shape[3]), name=model.inputs[0].name, dtype=model.inputs[0].dtype)
    tensors = keras.tree.map_structure(lambda _: image, model.input)
    resized = keras.models.clone_model(model, input_tensors=tensors)
    tables = []
    for weight, new in zip(model.weights, resized.weights, strict=True):
        value = ops.convert_to_numpy(weight)
        if is_other_table(weight.path, new.shape, weight.shape):
            value = resize_table(value, new.shape[1:])
            tables.append(f"{weight.path} from {weight.shape} to {new.shape}")
        elif weight.shape != new.shape:
            raise ValueError(
                f"{path} cannot be exported at {sizes.describe(size)}: {weight.path} is {weight.shape}, and would have "
                f"to be {new.shape}; leave --image_size out."
            )
        new.assign(value)
    report = str(Loaded(tuple(tables)))
    logging.warning("%s at %s: %s", path, sizes.describe(size), report)
    return resized


def in_bfloat16(model: keras.Model, policy: str) -> keras.Model:
    """The same model with another dtype policy, in nested models too, but for the classifier, or what gives numbers.

    Args:
        model: A functional model.
        policy: `"mixed_bfloat16"` keeps the weights and norms of small numbers in float32; `"bfloat16"` does not.

    Raises:
        ValueError: If it is quantised.
    """
    if any(layer.quantization_mode for layer in model._flatten_layers()):
        raise ValueError(f"{model.name} is quantised, which bfloat16 would undo; export it as it is.")
    layers = model.layers
    while isinstance(layers[-1], keras.Model):
        layers = layers[-1].layers
    classifier = layers[-2:] if gives_values(model) else layers[-1:]  # with what puts numbers into their units

    def cast(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if not any(layer is kept for kept in classifier):
            config["dtype"] = policy
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=cast, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def with_probabilities(model: keras.Model, path: Path) -> tuple[keras.Model, str]:
    """The model, giving a probability for each class.

    Logits get the softmax, or the sigmoid if there is one alone, and that is reported. One score for two classes
    becomes the probabilities of both.

    Args:
        model: Gives `[batch, classes]`; one that gives numbers stays as it is.
        path: The file it is from.

    Returns:
        The model, and what was added to it; empty if nothing was.
    """
    activation = model_files.final_activation(model)
    scores: Any = model.outputs[0]
    added = []
    if activation is keras.activations.linear:
        name = "sigmoid" if scores.shape[-1] == 1 else "softmax"
        logging.warning("%s gives logits; their %s is exported, so that probabilities are served.", path, name)
        scores = keras.layers.Activation(name, dtype="float32", name=f"added_{name}")(scores)
        added.append(f"{name} of the model's logits")
    if model_files.is_binary(model):
        scores = ops.concatenate([1.0 - scores, scores], axis=-1)
        added.append("of both classes, from the score of the second")
    return (keras.Model(model.inputs, scores, name=model.name) if added else model), ", ".join(added)
