"""Models that `tools.publish` put on Hugging Face's Hub: their folder, written and read."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from coatnet_tf.config import CoAtNetConfig
from coatnet_tf.network import ImageShape
from coatnet_tf.pretrained.catalog import download_from_hub
from coatnet_tf.pretrained.conversions import Same
from coatnet_tf.pretrained.correspondence import Entry, load_tensors
from coatnet_tf.pretrained.differences import find_differences
from coatnet_tf.pretrained.tensor_files import read_tensors, write_tensors
from coatnet_tf.weights import Loaded
from coatnet_tf.weights.keras_file import enumerate_names

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_ADDRESS = "hf://"
_LIBRARY = "coatnet_tf"
_CLASSIFIER = "predictions/"


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """A model as its `config.json` describes it.

    Args:
        name: Where it is from, for messages.
        config: Its configuration.
        input_shape: `(height, width, channels)`.
        class_names: Names of its classes.
        classifier_activation: Name of the activation of its scores.
        view: What it sees of an image: `crop` and `interpolation`, as `experiments.data.views.View` has them.
        folder: Folder of its files; `None` to download them.
    """

    name: str
    config: CoAtNetConfig
    input_shape: ImageShape
    class_names: tuple[str, ...]
    classifier_activation: str
    view: Mapping[str, str]
    folder: Path | None = None

    def read(self) -> PublishedFile:
        """The weights, downloaded if need be; raises what `download_from_hub` and `read_tensors` raise."""
        path = _find(self.name, WEIGHTS, self.folder)
        return PublishedFile(self, read_tensors(path))


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """The weights of a published model, read from their file.

    Args:
        model: The model.
        tensors: Its tensors by the paths of variables.
    """

    model: PublishedModel
    tensors: Mapping[str, np.ndarray]

    @property
    def classes(self) -> int:
        """Number of classes they distinguish."""
        return len(self.model.class_names)

    def load(self, model: keras.Model, reset_head: bool = False) -> Loaded:
        """Loads all of them into a model, or refuses and changes nothing; as `PretrainedFile.load`."""
        name = self.model.name
        if differences := find_differences(model, self.model.config):
            raise ValueError(
                f"{name} has another configuration than {model.name!r}: {enumerate_names(differences, '; ')}. Build it "
                f"with coatnet_tf.from_pretrained({name!r})."
            )
        classifier = [weight for weight in model.weights if weight.path.startswith(_CLASSIFIER)]
        head = () if classifier else ("head_", _CLASSIFIER)
        return load_tensors(model, _entries(model), self.tensors, name, classifier if reset_head else (), head)


def is_published_name(name: str) -> bool:
    """Whether it is the address of a published model."""
    return name.startswith(_ADDRESS)


def repository_of(name: str) -> str:
    """The repository of an address `hf://USER/NAME`; a ValueError if it is none."""
    repository = name.removeprefix(_ADDRESS)
    if not is_published_name(name) or [bool(part) for part in repository.split("/")] != [True, True]:
        raise ValueError(f"The address of a model on the Hub is {_ADDRESS}USER/NAME; got {name!r}.")
    return repository


def find_published(name: str, folder: str | os.PathLike[str] | None = None) -> PublishedModel:
    """Reads what a published model is.

    Args:
        name: `hf://USER/NAME`.
        folder: Folder to read in place of the Hub, as `write` leaves it.

    Raises:
        ValueError: If the name is none, or what is there was not written by `write`.
        FileNotFoundError: If `folder` does not have it.
        OSError, ImportError: As `download_from_hub` raises them.
    """
    repository_of(name)
    path = None if folder is None else Path(folder)
    try:
        written = json.loads(Path(_find(name, CONFIG, path)).read_text())
        if written["library_name"] != _LIBRARY:
            raise KeyError("library_name")
        return PublishedModel(
            name,
            CoAtNetConfig(**written["config"]),
            tuple(written["input_shape"]),
            tuple(written["class_names"]),
            written["classifier_activation"],
            written["view"],
            path,
        )
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{name} is no model of {_LIBRARY}: its {CONFIG} is not as tools.publish writes it ({error})."
        ) from error


def write(
    folder: Path,
    model: keras.Model,
    config: CoAtNetConfig,
    class_names: Sequence[str],
    view: Mapping[str, str],
    facts: Mapping[str, Any],
) -> None:
    """Writes `config.json` and `model.safetensors`.

    Args:
        folder: Where to; it exists.
        model: A model that `CoAtNet` built from `config`, with its top.
        config: Its configuration.
        class_names: Names of its classes.
        view: As of `PublishedModel`.
        facts: What else `config.json` says, for readers.

    Raises:
        ImportError: If safetensors is not installed.
    """
    described = {
        "library_name": _LIBRARY,
        **facts,
        "input_shape": model.input_shape[1:],
        "class_names": list(class_names),
        "classifier_activation": keras.activations.serialize(model.layers[-1].activation),
        "view": dict(view),
        "config": dataclasses.asdict(config),
    }
    (folder / CONFIG).write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    tensors = {w.path: np.ascontiguousarray(keras.ops.convert_to_numpy(w)) for w in model.weights}
    write_tensors(tensors, folder / WEIGHTS)


def _entries(model: keras.Model) -> Iterator[Entry]:
    for weight in model.weights:
        yield Entry(weight.path, (weight,), Same())


def _find(name: str, file: str, folder: Path | None) -> str:
    if folder is None:
        return download_from_hub(name, repository_of(name), file)
    if not (folder / file).is_file():
        raise FileNotFoundError(f"{folder} holds no {file}; give a folder that tools.publish wrote.")
    return os.fspath(folder / file)
