"""The model that a program works on: the `.keras` file of a run, or any other, and the names of its classes."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import keras

import coatnet_tf  # noqa: F401  (registers the layers of model.keras)
from experiments import workdir


def find(folder: Path | None, weights: Path | None, labels: Path | None) -> tuple[Path, list[str] | None]:
    """Finds a model's file and its labels.

    Args:
        folder: Folder of a finished run. Either this or `weights` is given.
        weights: A `.keras` file with a whole model.
        labels: File with one class name a line; a run brings its own.

    Returns:
        Path of the `.keras` file, and the names of the classes; `None` if there are no labels.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If both or neither of `folder` and `weights` are given, or `weights` is no `.keras` file.
    """
    if folder is not None and weights is None:
        path = folder / workdir.MODEL
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} holds no {workdir.MODEL}, which training writes at its end; let the run finish "
                "first (the command that began it resumes it)."
            )
        labels = labels or folder / workdir.CLASSES
    elif weights is not None and folder is None:
        path = weights
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is no .keras file; give a whole model, as keras.Model.save writes it.")
    else:
        raise ValueError("Give either --workdir, the folder of a finished run, or --weights, a .keras file.")
    if labels is None:
        return path, None
    if not labels.is_file():
        raise FileNotFoundError(f"There is no file {labels}.")
    return path, labels.read_text().splitlines()


def load(path: Path) -> keras.Model:
    """Loads a model, not compiled.

    Raises:
        ValueError: If Keras cannot.
    """
    try:
        return keras.models.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no model that Keras can load: {error}") from error


def name_classes(model: keras.Model, path: Path, labels: Sequence[str] | None) -> list[str]:
    """Names of the classes of a model `[batch, classes]`: the labels, or numbers if there are none.

    Raises:
        ValueError: If there are not as many labels as classes.
    """
    classes = model.output_shape[-1]
    names = [str(index) for index in range(classes)] if labels is None else list(labels)
    if len(names) != classes:
        raise ValueError(f"{path} has {classes} classes and there are {len(names)} labels; give one for each.")
    return names
