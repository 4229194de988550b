"""Whether a model is a certain network: its layers against those that the configuration builds."""

from __future__ import annotations

from collections.abc import Iterator

import keras

from coatnet_tf.config import CoAtNetConfig
from coatnet_tf.imagenet import preprocessing_layer
from coatnet_tf.weights.arguments import relevant_arguments

_HEAD = ("head_", "predictions")


def find_differences(model: keras.Model, config: CoAtNetConfig) -> list[str]:
    """How the layers of a model differ from those of a configuration.

    Args:
        model: A model of the same kind, with or without the top.
        config: The configuration.

    Returns:
        A line each, empty if it is the network but for what only training has, and for the number of classes.
    """
    layers = [
        preprocessing_layer(config.preprocessing, model.input_shape[-1]),
        *config.feature_layers(model.input_shape[1:]),
    ]
    if any(layer.name == "predictions" for layer in model.layers):
        layers += config.head_layers(1, None)
    expected = {layer.name: layer for layer in layers}
    found = {
        layer.name: layer
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer | keras.layers.Dropout)
        and (layer.name in expected or not layer.name.startswith(_HEAD))  # a pool without the top
    }
    lines: dict[str, str] = {}  # once for all blocks
    for name, layer in found.items():
        if name in expected:
            for line in _differing_arguments(layer, expected[name]):
                lines.setdefault(line, f"{name}: {line}")
    lines |= {name: f"it has a layer {name}" for name in found if name not in expected}
    lines |= {name: f"it lacks the layer {name}" for name in expected if name not in found and name != "preprocessing"}
    return list(lines.values())


def _differing_arguments(layer: keras.layers.Layer, expected: keras.layers.Layer) -> Iterator[str]:
    kinds = [type(each) for each in (layer, expected)]
    if kinds[0] is not kinds[1]:
        names = [kind.__name__ for kind in kinds]
        if names[0] == names[1]:
            names = [f"{kind.__module__}.{kind.__name__}" for kind in kinds]
        yield f"it is a {names[0]} and must be a {names[1]}"
        return
    mine, theirs = (relevant_arguments(each.get_config()) for each in (layer, expected))
    if layer.name == "predictions":
        mine |= {argument: theirs[argument] for argument in ("units", "activation")}
    for argument, value in theirs.items():
        if mine.get(argument) != value:
            yield f"{argument} is {mine.get(argument)!r} and must be {value!r}"
