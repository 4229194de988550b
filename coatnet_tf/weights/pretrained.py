"""From the name of trained weights to a model that has them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import keras
import numpy as np

from coatnet_tf.config import CoAtNetConfig
from coatnet_tf.pretrained.configs import RELATIVES
from coatnet_tf.weights import catalog
from coatnet_tf.weights.kecam import load_kecam
from coatnet_tf.weights.keras_file import Loaded, load_weights
from coatnet_tf.weights.tensor_files import read_tensors
from coatnet_tf.weights.timm import load_timm

_TIMM = "timm/"
_KECAM = "keras_cv_attention_models/"
# Fields that change neither what weights there are nor what they compute outside training.
_FREE_FIELDS = ("name", "drop_path_rate", "dropout", "kernel_initializer", "bias_reindexing")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the weights of a name come from.

    Args:
        name: As it was given.
        config: Name of the configuration.
        image_size: Height and width that the weights were trained for.
        path: Local file; `None` to download.
    """

    name: str
    config: str
    image_size: int
    path: str | None

    def read(self) -> PretrainedWeights:
        """The weights, downloaded if need be; raises what `catalog.download` and `read_tensors` raise."""
        file = self.path or catalog.download(catalog.CATALOG[self.name])
        return PretrainedWeights(self, file, read_tensors(file))


def is_pretrained_name(weights: str | os.PathLike[str]) -> bool:
    """Whether it is the name of trained weights, rather than a path of a file."""
    return str(weights).startswith((_TIMM, _KECAM))


def find_source(name: str, path: str | os.PathLike[str] | None = None) -> Source:
    """Looks the name of trained weights up.

    Args:
        name: Such as `"timm/coatnet_0_rw_224.sw_in1k"`; with `path` the tag behind the dot may be left out, and names
            of networks that nobody published weights for are known too, such as `"timm/coatnet_0_224"`.
        path: File to use in place of the download.

    Returns:
        A `Source`.

    Raises:
        ValueError: If there is no such name; the message lists those that begin so.
        FileNotFoundError: If `path` does not exist.
    """
    if path is not None and not os.path.isfile(path):
        raise FileNotFoundError(f"There is no weights file {os.fspath(path)!r}.")
    if name in catalog.CATALOG:
        entry = catalog.CATALOG[name]
        return Source(name, entry.config, entry.image_size, None if path is None else os.fspath(path))
    tagged = [known for known in catalog.CATALOG if known.startswith(f"{name}.")]
    if path is None:
        known = tagged or list(catalog.CATALOG)
        raise ValueError(
            f"There are no trained weights {name!r} to download; "
            f"{'those of this network' if tagged else 'the known ones'} are {', '.join(known)}."
        )
    architecture = name.removeprefix(_TIMM).partition(".")[0]
    config, _, size = architecture.rpartition("_")
    if not name.startswith(_TIMM) or config not in RELATIVES or not size.isdecimal():
        networks = ", ".join(f"{_TIMM}{known}_SIZE" for known in RELATIVES if not known.startswith("kecam"))
        raise ValueError(
            f"There is no network {name!r} for the weights in {os.fspath(path)!r}; the known ones are {networks} (SIZE "
            f"is the image's that it was trained for, such as 224) and {_KECAM}coatnet0_224_imagenet."
        )
    return Source(name, config, int(size), os.fspath(path))


@dataclasses.dataclass(frozen=True)
class PretrainedWeights:
    """Weights of a `Source`, read from their file.

    Args:
        source: The source.
        file: Path of the file.
        tensors: Its tensors by name.
    """

    source: Source
    file: str
    tensors: Mapping[str, np.ndarray]

    @property
    def classes(self) -> int:
        """Number of classes they tell apart; a ValueError if there is no classifier among them."""
        name = "head.fc.bias" if self.source.name.startswith(_TIMM) else "predictions/bias"
        if name not in self.tensors:
            raise ValueError(
                f"{self.file!r} does not look like weights of {self.source.name}: it has no {name}. Its first tensors "
                f"are {', '.join(list(self.tensors)[:3])}."
            )
        return int(self.tensors[name].size)

    def load(self, model: keras.Model, config: CoAtNetConfig, reset_head: bool = False) -> Loaded:
        """Loads all of them into a model, or refuses and changes nothing.

        Args:
            model: A model that `CoAtNet` built from `config`.
            config: Its configuration.
            reset_head: Whether to leave the classifier as it is, for other classes.

        Returns:
            A `Loaded`, which names what was resized and reset.

        Raises:
            ValueError: If the weights belong to another configuration, or do not fit by name and shape.
        """
        name, expected = self.source.name, RELATIVES[self.source.config]
        # Statistics over all replicas are the same weights.
        norms = {field: getattr(config, field).removeprefix("sync_") for field in ("conv_norm", "transformer_norm")}
        config = dataclasses.replace(config, **norms)
        differing = [
            f"{field.name} is {getattr(config, field.name)!r} and must be {getattr(expected, field.name)!r}"
            for field in dataclasses.fields(CoAtNetConfig)
            if field.name not in _FREE_FIELDS and getattr(config, field.name) != getattr(expected, field.name)
        ]
        if differing:
            raise ValueError(
                f"{name} belongs to the configuration {self.source.config!r}, and {config.name!r} differs from it: "
                f"{'; '.join(differing)}. Build it with coatnet_tf.from_pretrained({name!r})."
            )
        load = load_timm if name.startswith(_TIMM) else load_kecam
        return load(model, self.tensors, repr(self.file), reset_head)


def load_initial_weights(
    model: keras.Model,
    config: CoAtNetConfig,
    weights: str | os.PathLike[str],
    resize: bool = False,
    reset_head: bool = False,
) -> Loaded:
    """Loads weights that are given by name or by path into a model, all of them, or refuses and changes nothing.

    Args:
        model: A model that `CoAtNet` built from `config`.
        config: Its configuration.
        weights: A name that `list_weights` lists, or a `.weights.h5` or `.keras` file.
        resize: Whether bias tables of another input size in a file are resized; those of a name always are.
        reset_head: Whether to leave the classifier as it is, for other classes.

    Returns:
        A `Loaded`, which names what was resized and reset.

    Raises:
        ValueError: If the name is unknown, or the weights do not fit.
        FileNotFoundError: If the file does not exist.
        OSError, ImportError: As `Source.read` raises them.
    """
    if is_pretrained_name(weights):
        return find_source(os.fspath(weights)).read().load(model, config, reset_head)
    return load_weights(model, weights, resize=resize, reset_head=reset_head)
