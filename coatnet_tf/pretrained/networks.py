"""From the name of somebody's trained network to a model that has its weights, and back to a file of theirs."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from typing import ClassVar

import keras
import numpy as np

from coatnet_tf.network import ImageShape
from coatnet_tf.pretrained import catalog
from coatnet_tf.pretrained.configs import RELATIVES
from coatnet_tf.pretrained.correspondence import Naming, load_named, make_tensors
from coatnet_tf.pretrained.differences import find_differences
from coatnet_tf.pretrained.kecam import KECAM
from coatnet_tf.pretrained.tensor_files import read_tensors, write_tensors
from coatnet_tf.pretrained.timm import TIMM
from coatnet_tf.weights import Loaded, load_weights
from coatnet_tf.weights.keras_file import enumerate_names

_TIMM = "timm/"
_KECAM = "keras_cv_attention_models/"


@dataclasses.dataclass(frozen=True)
class PretrainedNetwork:
    """A network that somebody else built, and where its weights come from.

    Args:
        name: As it was given.
        config: Name of its configuration.
        image_size: Height and width that it is for.
        path: Local file of weights; `None` to download them.
    """

    name: str
    config: str
    image_size: int
    path: str | None = None
    classifier_activation: ClassVar[str] = "softmax"

    @property
    def input_shape(self) -> ImageShape:
        """Of its images, which are RGB."""
        return self.image_size, self.image_size, 3

    def read(self) -> PretrainedFile:
        """The weights, downloaded if need be; raises what `catalog.download` and `read_tensors` raise."""
        path = self.path or catalog.download(catalog.CATALOG[self.name])
        return PretrainedFile(self, path, read_tensors(path))


@dataclasses.dataclass(frozen=True)
class PretrainedFile:
    """The weights of a network, read from their file.

    Args:
        network: The network.
        path: Path of the file.
        tensors: Its tensors by name.
    """

    network: PretrainedNetwork
    path: str
    tensors: Mapping[str, np.ndarray]

    @property
    def classes(self) -> int:
        """Number of classes they distinguish; a ValueError if there is no classifier among them."""
        name = "head.fc.bias" if self.network.name.startswith(_TIMM) else "predictions/bias"
        if name not in self.tensors:
            raise ValueError(
                f"{self.path!r} does not look like weights of {self.network.name}: it has no {name}. Its first tensors "
                f"are {', '.join(list(self.tensors)[:3])}."
            )
        return int(self.tensors[name].size)

    def load(self, model: keras.Model, reset_head: bool = False) -> Loaded:
        """Loads all of them into a model, or refuses and changes nothing.

        Args:
            model: A model that `CoAtNet` built.
            reset_head: Whether to leave the classifier as it is, for other classes.

        Returns:
            A `Loaded`, which names what was resized and reset.

        Raises:
            ValueError: If the model has another configuration, or the weights do not fit by name and shape.
        """
        name = self.network.name
        differences = find_differences(model, RELATIVES[self.network.config])
        if differences:
            raise ValueError(
                f"{name} belongs to the configuration {self.network.config!r}, and {model.name!r} differs from it: "
                f"{enumerate_names(differences, '; ')}. Build it with coatnet_tf.from_pretrained({name!r})."
            )
        naming: Naming = TIMM if name.startswith(_TIMM) else KECAM
        return load_named(model, naming, self.tensors, repr(self.path), reset_head)


def is_pretrained_name(weights: str | os.PathLike[str]) -> bool:
    """Whether it is the name of trained weights, rather than a path of a file."""
    return str(weights).startswith((_TIMM, _KECAM))


def find_pretrained(name: str, path: str | os.PathLike[str] | None = None) -> PretrainedNetwork:
    """Looks the name of trained weights up.

    Args:
        name: Such as `"timm/coatnet_0_rw_224.sw_in1k"`; with `path` the tag behind the dot may be left out, and names
            of networks that nobody published weights for are known too, such as `"timm/coatnet_0_224"`.
        path: File to use in place of the download.

    Returns:
        A `PretrainedNetwork`.

    Raises:
        ValueError: If there is no such name; the message lists those that begin so.
        FileNotFoundError: If `path` does not exist.
    """
    if path is not None and not os.path.isfile(path):
        raise FileNotFoundError(f"There is no weights file {os.fspath(path)!r}.")
    if name in catalog.CATALOG:
        entry = catalog.CATALOG[name]
        return PretrainedNetwork(name, entry.config, entry.image_size, None if path is None else os.fspath(path))
    tagged = [known for known in catalog.CATALOG if known.startswith(f"{name}.")]
    if path is None:
        known = tagged or list(catalog.CATALOG)
        raise ValueError(
            f"There are no trained weights {name!r} to download; "
            f"{'those of this network' if tagged else 'the known ones'} are {', '.join(known)}."
        )
    network = _parse(name)
    if network is None:
        raise ValueError(
            f"There is no network {name!r} for the weights in {os.fspath(path)!r}; the known ones are "
            f"{_timm_networks()} and {_KECAM}coatnet0_224_imagenet."
        )
    return dataclasses.replace(network, path=os.fspath(path))


def _parse(name: str) -> PretrainedNetwork | None:
    """A network of timm by its name, with or without a tag behind a dot."""
    config, _, size = name.removeprefix(_TIMM).partition(".")[0].rpartition("_")
    if not name.startswith(_TIMM) or config not in RELATIVES or not size.isdecimal():
        return None
    return PretrainedNetwork(name, config, int(size))


def _timm_networks() -> str:
    names = ", ".join(f"{_TIMM}{known}_SIZE" for known in RELATIVES if not known.startswith("kecam"))
    return f"{names} (SIZE is the image's that it was trained for, such as 224)"


def load_initial_weights(
    model: keras.Model, weights: str | os.PathLike[str], resize: bool = False, reset_head: bool = False
) -> Loaded:
    """Loads weights that are given by name or by path into a model, all of them, or refuses and changes nothing.

    Args:
        model: A model that `CoAtNet` built.
        weights: A name that `list_weights` lists, or a `.weights.h5` or `.keras` file.
        resize: Whether the weights of a file are fitted to another input shape, as `load_weights` does it; those of a
            name always are.
        reset_head: Whether to leave the classifier as it is, for other classes.

    Returns:
        A `Loaded`, which names what was resized and reset.

    Raises:
        ValueError: If the name is unknown, or the weights do not fit.
        FileNotFoundError: If the file does not exist.
        OSError, ImportError: As `PretrainedNetwork.read` raises them.
    """
    if is_pretrained_name(weights):
        return find_pretrained(os.fspath(weights)).read().load(model, reset_head)
    if not os.path.splitext(weights)[1] and not os.path.exists(weights):  # such as "imagenet"
        nearest = difflib.get_close_matches(os.fspath(weights), catalog.CATALOG, cutoff=0)
        raise ValueError(
            f"There are no weights {os.fspath(weights)!r} for {model.name}: give a .weights.h5 or .keras file, or a "
            "name of coatnet_tf.list_weights(), each for its own configuration, which coatnet_tf.from_pretrained(name) "
            f"builds; the nearest are {', '.join(nearest)}."
        )
    return load_weights(model, weights, resize=resize, reset_head=reset_head)


def save_timm(model: keras.Model, network: str, path: str | os.PathLike[str]) -> None:
    """Writes the weights of a model as a state dict that timm's own model loads, all of them.

    `timm.create_model("coatnet_0_rw_224", num_classes=..., checkpoint_path=PATH)` is that model.

    Args:
        model: A model with its classifier, as `CoAtNet` or `from_pretrained` builds it; trained further or not.
        network: Which network of timm it is, such as `"timm/coatnet_0_rw_224"`. A tag behind a dot is left aside.
        path: `.safetensors` file to write.

    Raises:
        ValueError: If there is no such network, or the model is another; the message names the first differences.
        ImportError: If safetensors is not installed.
    """
    expected = _parse(network)
    if expected is None:
        raise ValueError(f"There is no network {network!r}; those of timm are {_timm_networks()}.")
    differences = find_differences(model, RELATIVES[expected.config])
    if not any(layer.name == "predictions" for layer in model.layers):
        differences.append("it lacks the layer predictions")
    shape = expected.input_shape
    if not differences and model.input_shape[1:] != shape:
        differences.append(f"it takes images {model.input_shape[1:]} and must take {shape}, as the name says")
    if differences:
        raise ValueError(f"{model.name!r} is not {network}: {enumerate_names(differences, '; ')}.{_why(differences)}")
    write_tensors(make_tensors(model, TIMM), path)


def _why(differences: list[str]) -> str:
    if any("'same' and must be 'centred'" in line or "is 'max' and must be" in line for line in differences):
        return (
            " The paper's own CoAtNets have no equal in timm, whose strided convolutions pad as PyTorch does and whose "
            "shortcuts take the mean."
        )
    return ""
