"""Weights in Keras' own files, `.weights.h5` and `.keras`, matched by layer name and shape.

`Model.load_weights` matches layers by position and class, loads what it can and then raises; here
names and shapes are compared first, so that a model is either loaded whole or left as it was.
"""

from __future__ import annotations

import collections
import io
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import h5py
import keras

# State of random number generators is no weight; models with and without dropout differ in it.
_SEED_GENERATOR = "seed_generator"
_NAMED_AT_MOST = 5


def load_weights(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Loads every weight of a model from a file that Keras wrote, or refuses and changes nothing.

    Args:
        model: A built model.
        path: `.weights.h5` (from `Model.save_weights`) or `.keras` (from `Model.save`) of the same
            architecture. Layers are matched by name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no weights file, or a weight is missing, left over or of another shape; the
            message names the weights and their shapes.

    Example:
    >>> import os, tempfile
    >>> import coatnet_tf
    >>> config = coatnet_tf.make_config("tiny", (1, 1, 1), (8, 16, 32), "CT")
    >>> trained = coatnet_tf.CoAtNet(config, input_shape=(32, 32, 3), classes=10)
    >>> path = os.path.join(tempfile.mkdtemp(), "trained.weights.h5")
    >>> trained.save_weights(path)
    >>> coatnet_tf.load_weights(coatnet_tf.CoAtNet(config, input_shape=(32, 32, 3), classes=10), path)
    """
    path = os.fspath(path)
    with _open(path) as file:
        stored = dict(_stored_weights(file))
        wanted = dict(_model_weights(model))
        _refuse_misfits(path, wanted, stored)
        for name, variable in wanted.items():
            variable.assign(stored[name][()])


def _open(path: str) -> h5py.File:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no weights file {path!r}; give the path of a .weights.h5 or .keras file.")
    try:
        if path.endswith(".keras"):
            with zipfile.ZipFile(path) as archive:
                return h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r")
        return h5py.File(path, "r")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path!r} is not a .weights.h5 or .keras file that Keras wrote, or is damaged: {error}"
        ) from error


def _stored_weights(group: Any, layer: str = "") -> Iterator[tuple[str, Any]]:
    """`(name, dataset)` of all weights of a file; a name is `path/of/layer/names#index`.

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


def _model_weights(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """`(name, variable)` of all weights of a model, named as `_stored_weights` names them."""
    seen: collections.Counter[str] = collections.Counter()
    for variable in model.weights:
        layer = variable.path.rpartition("/")[0]
        yield f"{layer}#{seen[layer]}", variable
        seen[layer] += 1


def _refuse_misfits(path: str, wanted: dict[str, Any], stored: dict[str, Any]) -> None:
    missing = [f"{v.path} {tuple(v.shape)}" for name, v in wanted.items() if name not in stored]
    left_over = [f"{name} {tuple(data.shape)}" for name, data in stored.items() if name not in wanted]
    other_shape = [
        f"{v.path} is {tuple(v.shape)} in the model and {tuple(stored[name].shape)} in the file"
        for name, v in wanted.items()
        if name in stored and tuple(v.shape) != tuple(stored[name].shape)
    ]
    problems = [
        f"{what}: {_enumerate(which)}"
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
            "model with the configuration, classes and input shape that the file was saved with."
        )


def _enumerate(which: list[str]) -> str:
    named = ", ".join(which[:_NAMED_AT_MOST])
    return named if len(which) <= _NAMED_AT_MOST else f"{named} and {len(which) - _NAMED_AT_MOST} more"
