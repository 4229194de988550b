"""Weights in Keras' own files, `.weights.h5` and `.keras`, matched by layer name and shape.

`Model.load_weights` matches layers by position and class, loads what it can and then raises; here
names and shapes are compared first, so that a model is either loaded whole or left as it was.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import h5py
import keras
import ml_dtypes
import numpy as np

from coatnet_tf.weights.arguments import differing_from_file
from coatnet_tf.weights.resizing import (
    adapt_channels,
    describe_adapted,
    is_of_other_channels,
    is_other_table,
    resize_table,
)

# State of random number generators is no weight; models with and without dropout differ in it.
_SEED_GENERATOR = "seed_generator"
_CLASSIFIER = "predictions#"
_OF_NETWORK = re.compile(r"(stem|patch|encoder|final|resnet)_.*|.*block\d+|head_(norm|hidden|token)|predictions")
_HEAD = ("head_norm#", "head_hidden#", _CLASSIFIER)
_NAMED_AT_MOST = 5


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What `load_weights` did beside copying.

    Args:
        resized: Bias tables that were resized, with both shapes.
        reset: Weights of the head that kept their new initial values.
        left_aside: Weights of the file's head, or beside its CoAtNet, which the model does not have.
        adapted: The first kernel, if it was trained on RGB images and the model takes another number of channels.
    """

    resized: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()
    left_aside: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [
            f"{what}: {enumerate_names(which)}"
            for what, which in (
                ("bias tables resized", self.resized),
                ("trained on RGB images", self.adapted),
                ("begun anew", self.reset),
                ("left aside", self.left_aside),
            )
            if which
        ]
        return "; ".join(parts) or "all as they were"


def load_weights(
    model: keras.Model, path: str | os.PathLike[str], resize: bool = False, reset_head: bool = False
) -> Loaded:
    """Loads every weight of a model from a file that Keras wrote, or refuses and changes nothing.

    Args:
        model: A built model.
        path: `.weights.h5` (from `Model.save_weights`) or `.keras` (from `Model.save`) of the same
            architecture. Layers are matched by name, those of a model inside the model too. If the file holds a model
            with a CoAtNet in it, and `model` is such a CoAtNet, that is taken.
        resize: Whether to fit weights to another input shape than the file's: relative position bias tables are
            resized (`resize_table`), the first kernel of RGB images adapted to other channels (`adapt_channels`).
        reset_head: Whether to leave the classifier (the layer `predictions`) as it is, for other classes. Where the
            model or the file has no head, the whole head of the other is left as it is, and layers that somebody put
            on the network in the file are left aside.

    Returns:
        A `Loaded`, which names what was resized, adapted, reset and left aside; it prints as one line.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no weights file, or a weight is missing, left over or of another shape; the
            message names the weights and their shapes. If a `.keras` file says that the model which was saved computes
            something else with these weights. If two layers of the model have one name.

    Example:
    >>> import os, tempfile
    >>> import coatnet_tf
    >>> config = coatnet_tf.make_config("tiny", (1, 1, 1), (8, 16, 32), "CT")
    >>> trained = coatnet_tf.CoAtNet(config, input_shape=(32, 32, 3), classes=10)
    >>> path = os.path.join(tempfile.mkdtemp(), "trained.weights.h5")
    >>> trained.save_weights(path)
    >>> larger = coatnet_tf.CoAtNet(config, input_shape=(48, 48, 3), classes=10)
    >>> print(coatnet_tf.load_weights(larger, path, resize=True))
    bias tables resized: s2_block01/s2_block01_attention/relative_bias/table from (1, 7, 7) to (1, 11, 11)
    """
    path = os.fspath(path)
    with _open(path) as file:
        stored = dict(_stored_weights(file))
        stored, beside = _of_network(path, stored, next(iter(_model_weights(model, stored)), ""))
        wanted = _model_weights(model, stored)
        reset, left_aside = _head_to_leave(wanted, stored) if reset_head else ((), ())
        beside |= {name: data for name, data in stored.items() if reset_head and _is_put_on(name, wanted)}
        resized, adapted = _fitted(wanted, stored) if resize else ({}, {})
        to_load = {name: weight for name, weight in wanted.items() if name not in reset}
        used = {name: data for name, data in stored.items() if name not in left_aside and name not in beside}
        ways = (("resize=True (another input shape)", resize), ("reset_head=True (other classes)", reset_head))
        found = {**used, **resized, **adapted, **({} if reset_head else beside)}
        _refuse_misfits(path, to_load, found, [way for way, taken in ways if not taken])
        _refuse_other_function(model, path)
        for layer, names in _by_layer(to_load).items():
            fitted = {**resized, **adapted}
            values = {name: fitted[name] if name in fitted else _read(found[name]) for name in names}
            layer.load_own_variables({to_load[name].key: value for name, value in values.items()})
    return Loaded(
        tuple(f"{wanted[name].path} from {stored[name].shape} to {table.shape}" for name, table in resized.items()),
        tuple(wanted[name].path for name in reset),
        (*(name for name in left_aside if not reset), *(name for name in beside if name not in to_load)),
        tuple(describe_adapted(wanted[name].path, kernel.shape[2]) for name, kernel in adapted.items()),
    )


def _fitted(wanted: dict[str, _Weight], stored: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Stored weights for the model's input shape: bias tables that are resized, and kernels that are adapted."""
    resized, adapted = {}, {}
    for name, weight in wanted.items():
        if name in stored and is_other_table(weight.path, weight.shape, stored[name].shape):
            resized[name] = resize_table(_read(stored[name]), (weight.shape[1], weight.shape[2]))
        elif name in stored and is_of_other_channels(weight.path, weight.shape, stored[name].shape):
            adapted[name] = adapt_channels(_read(stored[name]), weight.shape[2])
    return resized, adapted


def stored_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights in a file, from its index alone.

    Args:
        path: `.weights.h5` or `.keras`, as for `load_weights`.

    Returns:
        Shapes by `path/of/layer#index`; `stem_conv01#0` is the first kernel of a CoAtNet.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no weights file.
    """
    with _open(os.fspath(path)) as file:
        return {name: tuple(data.shape) for name, data in _stored_weights(file)}


def places_of(name: str, stored: Iterable[str]) -> list[str]:
    """The models of a file in which there is a weight, by what their weights' names begin with.

    Args:
        name: Of the weight in its own model, such as `stem_conv01#0`.
        stored: Names of all weights in the file.

    Returns:
        The beginnings: `""` for the model of the file, `"backbone/"` for one inside it.
    """
    return [other.removesuffix(name) for other in stored if other == name or other.endswith(f"/{name}")]


def _of_network(path: str, stored: dict[str, Any], first: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights of the model in a file that has the weight `first`, as that names them; and all others."""
    places = places_of(first, stored)
    if not places or "" in places:
        return stored, {}
    if len(places) > 1:
        raise ValueError(
            f"{path!r} holds several models with {first.partition('#')[0]} in them: "
            f"{enumerate_names([place.removesuffix('/') for place in places])}. Load it with keras.models.load_model, "
            "and save the one that is meant."
        )
    (place,) = places
    inside = {name.removeprefix(place): data for name, data in stored.items() if name.startswith(place)}
    return inside, {name: data for name, data in stored.items() if not name.startswith(place)}


def _is_put_on(name: str, wanted: Iterable[str]) -> bool:
    """Whether a weight of a file is of a layer that somebody put on a network: neither the model's nor a network's."""
    layer = re.split("[/#]", name)[0]
    return not _OF_NETWORK.fullmatch(layer) and all(re.split("[/#]", other)[0] != layer for other in wanted)


def _open(path: str) -> h5py.File:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no weights file {path!r}; give the path of a .weights.h5 or .keras file.")
    try:
        if path.endswith(".keras"):
            with zipfile.ZipFile(path) as archive:
                file = h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r")
        else:
            file = h5py.File(path, "r")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path!r} is not a .weights.h5 or .keras file that Keras wrote, or is damaged: {error}"
        ) from error
    if "model_weights" in file or "layer_names" in file.attrs:
        file.close()
        raise ValueError(
            f"{path!r} is in Keras' old HDF5 format, which is not read here; if it holds a whole model, "
            f"keras.models.load_model({path!r}).save('model.keras') writes a file that is."
        )
    return file


def _stored_weights(group: h5py.Group, layer: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    """`(name, dataset)` of all weights of a file; a name is `path/of/layer/names#key`.

    Keras nests groups as layers nest, keeps a layer's variables as `vars/0`, `vars/1`, ... and its name
    as an attribute of `vars`; groups without `vars` are mere containers.
    """
    for key, child in group.items():
        if not isinstance(child, h5py.Group) or key in (_SEED_GENERATOR, "optimizer"):
            continue
        if key == "vars":
            for index, dataset in child.items():
                yield f"{layer}#{index}", dataset
        else:
            name = child["vars"].attrs.get("name", "") if "vars" in child else ""
            yield from _stored_weights(child, "/".join(part for part in (layer, str(name)) if part))


def _read(dataset: h5py.Dataset) -> np.ndarray:
    """An array of it. What Keras marks as bfloat16, which HDF5 lacks, becomes float32, which holds it exactly."""
    if dataset.attrs.get("dtype") == "bfloat16":
        return np.asarray(dataset[()]).view(ml_dtypes.bfloat16).astype("float32")
    return dataset[()]


@dataclasses.dataclass(frozen=True)
class _Weight:
    """A weight of a model.

    Args:
        layer: The layer whose own it is.
        key: What `save_own_variables` of the layer calls it.
        path: How messages call it, as `Variable.path` of a model that is no part of another.
        shape: Its shape.
    """

    layer: keras.layers.Layer
    key: str
    path: str
    shape: tuple[int, ...]


def _model_weights(model: keras.Model, stored: Collection[str]) -> dict[str, _Weight]:
    """All weights of a model, named as `_stored_weights` names them.

    A layer that is part of several others is stored with the first of them: its name is the one that is `stored`.
    """
    names: dict[keras.layers.Layer, list[str]] = {model: [""]}
    for name, layer in _layers_within(model):
        names.setdefault(layer, []).append(name)
    weights: dict[str, _Weight] = {}
    for layer, known in names.items():
        own: dict[str, Any] = {}
        layer.save_own_variables(own)
        for key, value in own.items():
            name = next((name for name in known if f"{name}#{key}" in stored), known[0])
            if f"{name}#{key}" in weights:
                raise ValueError(
                    f"Two layers of {model.name} are called {name!r}, and weights are found by the names of layers; "
                    "give each a name of its own."
                )
            path = f"{name}/{getattr(value, 'name', key)}".removeprefix("/")
            weights[f"{name}#{key}"] = _Weight(layer, key, path, tuple(value.shape))
    return weights


def _layers_within(parent: keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """`(path/of/names, layer)` of the layers of a layer or model and of theirs, by every way that leads to them."""
    for layer in parent._flatten_layers(include_self=False, recursive=False):
        yield prefix + layer.name, layer
        yield from _layers_within(layer, f"{prefix}{layer.name}/")


def _by_layer(weights: dict[str, _Weight]) -> dict[keras.layers.Layer, list[str]]:
    """The names of the weights of each layer."""
    names: dict[keras.layers.Layer, list[str]] = {}
    for name, weight in weights.items():
        names.setdefault(weight.layer, []).append(name)
    return names


def _head_to_leave(wanted: Iterable[str], stored: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of weights of the head: those of the model that begin anew, and those of the file that are left aside.

    That is the classifier; or the whole head where the model or the file has none, or a classifier alone.
    """
    of_model, of_file = (tuple(name for name in names if name.startswith(_HEAD)) for names in (wanted, stored))
    if any(name in of_file for name in of_model if not name.startswith(_CLASSIFIER)):
        of_model, of_file = (tuple(n for n in names if n.startswith(_CLASSIFIER)) for names in (of_model, of_file))
    return of_model, of_file


def _refuse_misfits(path: str, wanted: dict[str, _Weight], stored: dict[str, Any], ways: Sequence[str]) -> None:
    """Refuses weights that do not fit, and names what else the caller can ask for: `ways`."""
    missing = [f"{weight.path} {weight.shape}" for name, weight in wanted.items() if name not in stored]
    left_over = [f"{name} {data.shape}" for name, data in stored.items() if name not in wanted]
    other_shape = [
        f"{weight.path} is {weight.shape} in the model and {stored[name].shape} in the file"
        for name, weight in wanted.items()
        if name in stored and weight.shape != stored[name].shape
    ]
    problems = [
        f"{what}: {enumerate_names(which)}"
        for what, which in (
            ("of another shape", other_shape),
            ("missing in the file", missing),
            ("in the file only", left_over),
        )
        if which
    ]
    if problems:
        raise ValueError(
            f"The weights in {path!r} do not fit the model: {'; '.join(problems)}. Nothing was loaded; build the "
            "model with the configuration, classes and input shape that the file was saved with"
            f"{', or load them with ' + ' or '.join(ways) if ways else ''}."
        )


def _refuse_other_function(model: keras.Model, path: str) -> None:
    """Refuses weights that fit a model which makes something else of them; of a `.weights.h5` file it is not known."""
    if path.endswith(".keras") and (differences := differing_from_file(model, path)):
        raise ValueError(
            f"The weights in {path!r} are of a model with other options: {enumerate_names(differences, '; ')}. Nothing "
            "was loaded; build the model with those of the file."
        )


def enumerate_names(which: Sequence[str], separator: str = ", ") -> str:
    """The first of some names, and how many more there are."""
    named = separator.join(which[:_NAMED_AT_MOST])
    return named if len(which) <= _NAMED_AT_MOST else f"{named} and {len(which) - _NAMED_AT_MOST} more"
