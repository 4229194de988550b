"""The teacher of a run: a finished network whose answers another one is trained to give (distillation).

As in "Knowledge distillation: a good teacher is patient and consistent" (Beyer et al., 2022): both see the same crop
and the same mixture of images, and the loss is the divergence of the student's probabilities from the teacher's.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from typing import Any

import keras
import ml_collections
from etils import epath
from keras import ops

import coatnet_tf
from coatnet_tf.pretrained import CATALOG, find_pretrained, is_pretrained_name
from coatnet_tf.pretrained.catalog import download
from experiments import workdir
from experiments.data.sources import Source

_LAST, _FIRST = "predictions", "preprocessing"  # layers of a whole model of this package
_WEIGHTS = "model.weights.h5"  # in a .keras file


def settle(config: ml_collections.ConfigDict, folder: epath.Path) -> None:
    """Writes the hash of the teacher's weights into a recipe, so that a run goes on with the teacher it began with.

    Args:
        config: The recipe.
        folder: Of the run.

    Raises:
        FileNotFoundError: If there is no such teacher.
        ValueError: If it is no model, or the run in the folder began with other weights of that name.
    """
    config.teacher_sha256 = _digest(config.teacher) if config.teacher else ""
    file = folder / workdir.CONFIG
    if not workdir.has_checkpoints(folder) or not file.is_file():
        return
    begun = json.loads(file.read_text())
    if begun.get("teacher") == config.teacher and begun.get("teacher_sha256", "") != config.teacher_sha256:
        raise ValueError(
            f"The weights of --config.teacher={config.teacher} have changed since the run in {folder} began: put them "
            "back, or begin anew in another --workdir."
        )


def load(config: ml_collections.ConfigDict, source: Source) -> keras.Model:
    """The teacher as a function of images in [0, 255] to logits.

    Args:
        config: The recipe.
        source: The dataset.

    Returns:
        The model, which does its preprocessing itself, for images of its own size.

    Raises:
        FileNotFoundError: If there is no such teacher.
        ValueError: If it is no classifier of the same classes on the same kind of images.
    """
    name = config.teacher
    if is_pretrained_name(name):
        model = coatnet_tf.from_pretrained(name)
    else:
        with workdir.on_this_machine(_file_of(name)) as path:
            model = _read(name, path)
    last = model.layers[-1]
    if last.name != _LAST or not any(layer.name == _FIRST for layer in model.layers):
        raise ValueError(
            f"--config.teacher={name} is no classifier of this package for images in [0, 255]; give the folder of a "
            "finished run, its model.keras, or a name of coatnet_tf.list_weights()."
        )
    _check(name, model, keras.activations.serialize(last.activation), config, source)
    last.activation = keras.activations.linear
    return model


def describe(config: ml_collections.ConfigDict) -> str:
    """What a recipe's loss is of, for people."""
    labels = f"; the labels have {1 - config.teacher_weight:.0%} of the loss" if config.teacher_weight < 1 else ""
    return f"Taught by {config.teacher}, at temperature {config.teacher_temperature:g}{labels}."


def resized(images: Any, teacher: keras.Model) -> Any:
    """A batch at the size of the teacher, bilinear and antialiased."""
    size = tuple(teacher.input_shape[1:3])
    if tuple(images.shape[1:3]) == size:
        return images
    return ops.image.resize(images, size, interpolation="bilinear", antialias=True)


def _check(name: str, model: keras.Model, activation: Any, config: ml_collections.ConfigDict, source: Source) -> None:
    classes, channels = model.output_shape[-1], model.input_shape[-1]
    if classes != source.num_classes:
        raise ValueError(
            f"--config.teacher={name} distinguishes {classes} classes, and {source.name} has {source.num_classes}: a "
            "teacher must have the same."
        )
    names = _names_of(name)
    if names is not None and names != list(source.class_names):
        pairs = zip(names, source.class_names, strict=True)
        theirs, ours = next(pair for pair in pairs if pair[0] != pair[1])
        raise ValueError(
            f"--config.teacher={name} has other classes than {source.name}: {theirs!r} in the place of {ours!r}. A "
            "teacher must have the same, in the same order."
        )
    if channels != source.channels:
        raise ValueError(
            f"--config.teacher={name} takes images of {channels} channels, and those of the run have "
            f"{source.channels}; set --config.dataset.channels={channels}."
        )
    if activation != config.loss:
        raise ValueError(
            f"--config.teacher={name} was trained for {activation}, and config.loss is {config.loss}; they must be one."
        )


def _names_of(name: str) -> list[str] | None:
    """Names of the teacher's classes; `None` if they are not known."""
    file = None if is_pretrained_name(name) else _file_of(name).parent / workdir.CLASSES
    return file.read_text().splitlines() if file is not None and file.is_file() else None


def _file_of(name: str) -> epath.Path:
    path = workdir.model_in(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"--config.teacher={name} is neither the folder of a finished run, with its {workdir.MODEL}, nor a .keras "
            "file, nor a name that coatnet_tf.list_weights() lists."
        )
    return path


def _read(name: str, path: epath.Path) -> keras.Model:
    try:
        model = keras.models.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"--config.teacher={name} holds no model that Keras can load: {error}") from error
    return model


def _digest(name: str) -> str:
    """SHA-256 of the teacher's weights."""
    if is_pretrained_name(name):
        find_pretrained(name)  # refuses an unknown one
        content = epath.Path(download(CATALOG[name])).read_bytes()
    else:
        with workdir.on_this_machine(_file_of(name)) as path:
            try:
                with zipfile.ZipFile(path) as file:
                    content = file.read(_WEIGHTS)
            except (zipfile.BadZipFile, KeyError) as error:
                raise ValueError(
                    f"--config.teacher={name}: {path} is no .keras file, the whole model as keras.Model.save writes it."
                ) from error
    return hashlib.sha256(content).hexdigest()
