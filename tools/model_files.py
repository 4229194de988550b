"""The model that a program works on: the `.keras` file of a run, or any other, what it takes and what it tells."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from absl import logging
from etils import epath

import coatnet_tf
from coatnet_tf.graph import as_functional
from coatnet_tf.imagenet import preprocessing_layer
from coatnet_tf.layers import ConstantPadding2D, FoldedSelfAttention, MBConv, PointwiseDense, TransformerBlock
from experiments import sizes, workdir
from experiments.data import views
from experiments.data.values import gives_values

PREPROCESSING = ("", "tf", "torch", "none")  # values of --preprocessing
ABOUT_PREPROCESSING = (
    "For a model built with include_preprocessing=False: tf ([-1, 1]), torch (ImageNet's mean and deviation), or none, "
    "if layers of its own do it; its network's by default."
)
_ABOUT_CLASSES = (
    "{} gives numbers, and this program is about classes. experiments.evaluate, tools.predict and "
    "tools.export_saved_model take it."
)
_OF_COATNET = (MBConv, TransformerBlock, FoldedSelfAttention, PointwiseDense)
_RESCALES = (keras.layers.Rescaling, keras.layers.Normalization, ConstantPadding2D)  # the last is folded


def find(folder: Path | None, weights: Path | None, labels: Path | None) -> tuple[Path, list[str] | None]:
    """Finds a model's file and its labels.

    Args:
        folder: Folder of a finished run. Either this or `weights` is given.
        weights: A `.keras` file with a whole model.
        labels: File with one class name per line; a run brings its own.

    Returns:
        Path of the `.keras` file, and the names of the classes, or of a model that gives numbers those of their
        columns; `None` if there are no labels.

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
        labels = labels or folder / workdir.outputs_file(epath.Path(folder))
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
    return path, read_labels(labels)


def read_labels(path: Path) -> list[str]:
    """The names in a file with one on each line, without the spaces and marks that editors leave.

    Raises:
        ValueError: If it is not in UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig").removesuffix("\n")
        return [name.strip() for name in text.split("\n")] if text else []
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 (byte {error.start}); save it as text in UTF-8.") from error


def load(path: Path) -> keras.Model:
    """Loads a model, not compiled.

    Raises:
        ValueError: If Keras cannot.
    """
    try:
        return keras.models.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
        if path.is_file():
            workdir.refuse_damaged_model(path)
        raise ValueError(f"{path} holds no model that Keras can load: {error}") from error


def view_of(model: keras.Model, path: Path, crop: str = "", interpolation: str = "") -> views.View:
    """What a model sees of an image, and says in the log how that is known.

    By the recipe of its run, if the file lies in the run's folder; or as the published weights of its network were
    evaluated, which its name tells; else the middle, as `views.CENTER` has it, bilinear.

    Args:
        model: Takes images of one size.
        path: Its file.
        crop: A `View.crop` that counts instead.
        interpolation: One that counts instead.

    Raises:
        ValueError: If `crop` or `interpolation` is none.
    """
    size = model.input_shape[1:3]
    if of_run := views.of_run(epath.Path(path).parent):
        view = dataclasses.replace(of_run, size=size)
    elif found := views.of_network(model.name, size):
        view, name = found
        if not (crop and interpolation):
            logging.info("%s has the name of a network of %s, and sees images as those weights do.", path, name)
    else:
        view = usual_view(path, size, crop)
    return changed_view(view, crop, interpolation)


def usual_view(path: Path, size: sizes.Size, crop: str) -> views.View:
    """The view of a model that does not say what it wants, as a warning says unless a crop was given."""
    view = views.View(size, views.CENTER)
    if not crop:
        logging.warning("%s does not say what it sees of an image: %s, unless you give --crop.", path, view.describe())
    return view


def changed_view(view: views.View, crop: str, interpolation: str) -> views.View:
    """A view with what flags say, if they do; a ValueError if they say what there is not."""
    if crop:
        try:
            views.check_crop(crop)
        except ValueError as error:
            raise ValueError(f"--crop {error}") from error
    return dataclasses.replace(view, crop=crop or view.crop, interpolation=interpolation or view.interpolation)


def with_preprocessing(model: keras.Model, path: Path, preprocessing: str = "") -> keras.Model:
    """The model for images in [0, 255], also of one that was built with `include_preprocessing=False`.

    Args:
        model: A functional model.
        path: Where it is from, for messages.
        preprocessing: One of `PREPROCESSING`; by default that of the network whose name the model has.

    Returns:
        The model itself if it preprocesses its images, or is no CoAtNet; otherwise a copy that does.

    Raises:
        ValueError: If `preprocessing` is needed and not known, or given and not needed.
    """
    if preprocessing not in PREPROCESSING:
        raise ValueError(f"--preprocessing must be one of {', '.join(PREPROCESSING[1:])}; got {preprocessing!r}.")
    layers = list(model._flatten_layers(include_self=False))
    if any(isinstance(layer, _RESCALES) and layer is not model.layers[-1] for layer in layers):  # which gives numbers
        if preprocessing not in ("", "none"):
            raise ValueError(f"{path} preprocesses its images itself; leave --preprocessing={preprocessing} out.")
        return model
    if preprocessing == "none" or not (preprocessing or any(isinstance(layer, _OF_COATNET) for layer in layers)):
        return model
    if not preprocessing and model.name not in (*coatnet_tf.FAMILY, *coatnet_tf.RELATIVES):
        raise ValueError(
            f"{path} was built with include_preprocessing=False, and its name, {model.name}, is of no known network, "
            "which would say what its images become. Give --preprocessing=tf for [-1, 1], torch for ImageNet's mean "
            "and deviation, or none if layers of its own do it."
        )
    known: Any = preprocessing or coatnet_tf.get_config(model.name).preprocessing
    rescaling = preprocessing_layer(known, model.input_shape[-1])
    model = as_functional(model)
    image = keras.Input(model.input_shape[1:], name=model.inputs[0].name)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        args = keras.tree.map_structure(lambda x: rescaling(x) if x is image else x, args)
        return layer(*args, **kwargs)

    tensors = keras.tree.map_structure(lambda _: image, model.input)
    preprocessed = keras.models.clone_model(model, input_tensors=tensors, call_function=call)
    preprocessed.set_weights(model.get_weights())
    return preprocessed


def last_layer(model: keras.Model) -> keras.layers.Layer:
    """The layer that gives a model's scores, in a model within it if there is one."""
    layer = [layer for layer in model.layers if not _only_casts(layer)][-1]
    return last_layer(layer) if isinstance(layer, keras.Model) else layer


def final_activation(model: keras.Model) -> Any:
    """The activation that a model's scores went through; `None` if its last layer has none, as a pool."""
    return getattr(last_layer(model), "activation", None)


def _only_casts(layer: keras.layers.Layer) -> bool:
    """Whether it is the layer that Keras' guide to mixed precision ends a model with, for scores in float32."""
    return isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.linear


def is_binary(model: keras.Model) -> bool:
    """Whether a model tells two classes by one score, which is that of the second."""
    return model.output_shape[-1] == 1 and final_activation(model) in (
        keras.activations.linear,
        keras.activations.sigmoid,
    )


def refuse_values(model: keras.Model, path: Path) -> None:
    """Refuses a model that gives numbers, for programs that are about classes."""
    if gives_values(model):
        raise ValueError(_ABOUT_CLASSES.format(path))


def refuse_run_on_values(run: Path) -> None:
    """The same by the folder of a run."""
    if (run / workdir.VALUES).is_file():
        raise ValueError(_ABOUT_CLASSES.format(run))


def name_classes(model: keras.Model, path: Path, labels: Sequence[str] | None) -> list[str]:
    """Names of the classes of a model: the labels, or their places if there are none; likewise of columns of numbers.

    Args:
        model: Gives scores `[batch, classes]`, or one of two classes (`is_binary`).
        path: Where it is from, for messages.
        labels: The names, in the order of the scores.

    Raises:
        ValueError: If there are not as many labels as classes.
    """
    classes = 2 if is_binary(model) else model.output_shape[-1]
    names = [str(index) for index in range(classes)] if labels is None else list(labels)
    if len(names) != classes:
        what = "columns of numbers" if gives_values(model) else "classes"
        raise ValueError(f"{path} has {classes} {what} and there are {len(names)} labels; give one for each.")
    return names
