"""Whether two layers compute the same function of their weights, by their arguments."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import keras

# Arguments of layers that change neither what weights there are nor what they compute outside training; the last ones
# say how weights are kept, of which their shapes tell.
_FREE = (
    *("name", "dtype", "trainable", "parts", "drop_path_rate", "bias_reindexing", "momentum", "synchronized", "axis"),
    *("quantization_config", "lora_rank", "lora_alpha"),
)
_FREE_ENDINGS = ("_initializer", "_regularizer", "_constraint")


def relevant_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a layer that its function depends on, those of nested configurations beside them.

    Args:
        config: From its `get_config`, or of a `.keras` file.
    """
    arguments: dict[str, Any] = {}
    for key, value in config.items():
        if key in _FREE or key.endswith(_FREE_ENDINGS):
            continue
        if isinstance(value, Mapping) and "class_name" not in value:
            arguments |= relevant_arguments(value)
        elif isinstance(value, Mapping):  # the name of a registered function; or a tuple
            arguments[key] = value.get("config", value.get("items"))
        elif isinstance(value, str):
            arguments[key] = value.removeprefix("sync_")  # statistics over all replicas are the same weights
        else:
            arguments[key] = list(value) if isinstance(value, tuple) else value
    return arguments


def differing_from_file(model: keras.Model, path: str) -> list[str]:
    """How the layers of a model differ from those of the same names in a `.keras` file, once for all of them.

    Args:
        model: The model.
        path: The file, which is one.

    Returns:
        A line each; empty if the same weights make the same function. Of the classifier nothing is compared.
    """
    with zipfile.ZipFile(path) as archive:
        stored: dict[str, Any] = {}
        for name, layer in _layers_of(json.loads(archive.read("config.json"))):
            stored[name] = None if name in stored else layer  # of two with one name it is not known which is meant
    lines: dict[str, str] = {}
    for layer in model._flatten_layers(include_self=False):
        found = stored.get(layer.name)
        if found is None or layer.name == "predictions" or isinstance(layer, keras.Model | keras.layers.InputLayer):
            continue
        as_stored = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
        mine = relevant_arguments(as_stored["config"])
        theirs = relevant_arguments(found["config"])
        for argument, value in mine.items():
            if argument in theirs and theirs[argument] != value:
                line = f"{argument} is {value!r} in the model and {theirs[argument]!r} in the file"
                lines.setdefault(line, f"{layer.name}: {line}")
    return list(lines.values())


def _layers_of(config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names and configurations of the layers in that of a model, and of the models inside it."""
    if isinstance(config, Mapping):
        inner = config.get("config")
        if isinstance(inner, Mapping) and "layers" in inner:
            for layer in inner["layers"]:
                yield from _layers_of(layer)
        elif isinstance(inner, Mapping) and isinstance(inner.get("name"), str):
            yield inner["name"], config
