"""From a dataset's name to its splits, prepared and checked for the run."""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from sklearn.utils import class_weight

from experiments import logs
from experiments.data import digits, fashion_mnist, folder, folder_splits, image_archives, labels_file, values
from experiments.data.folder_files import LeftOut
from experiments.data.readers import ImageFiles, Reader, RecordFiles
from experiments.data.values import Values

# Builders of this project, by name; any other name is looked up in TFDS.
OWN_BUILDERS = {
    "digits": digits.Digits,
    "fashion_mnist_idx": fashion_mnist.FashionMnistIdx,
    "image_archives": image_archives.ImageArchives,
}


_OF_FILES = {"folder": folder, "csv": labels_file}  # by the prefix of a dataset's name


@dataclasses.dataclass(frozen=True)
class Source:
    """A prepared dataset for image classification.

    Args:
        name: Its name, for reports.
        train: The training split.
        eval: The held-out split.
        class_names: Names of the classes, in the order of the labels.
        channels: Channels that images are decoded to.
        multi_label: Whether an image can have several classes.
        left_out: Files of a folder that are not read.
        values: Numbers that images have in place of classes; `class_names` are those of their columns then.
    """

    name: str
    train: Reader
    eval: Reader
    class_names: tuple[str, ...]
    channels: int
    multi_label: bool = False
    left_out: tuple[LeftOut, ...] = ()
    values: Values | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def prepare(dataset: ml_collections.ConfigDict, in_turn: Callable[[Callable[[], None]], None] | None = None) -> Source:
    """Finds and prepares the dataset of a recipe.

    Args:
        dataset: `name` (of a TFDS dataset or one of `OWN_BUILDERS`, `folder:PATH` or `csv:FILE`), `train_split`,
            `eval_split`, `data_dir` (where TFDS keeps prepared datasets; its own default if empty),
            `manual_dir` (folder of files that TFDS does not download), `channels` (0 for the dataset's own: of a
            folder 3 for pictures, and for arrays those of the first) and `value_columns`.
        in_turn: Calls the function it is given when this process may prepare; see
            `Devices.chief_first`. At once by default.

    Returns:
        A `Source`.

    Raises:
        ValueError: If the dataset or a split is unknown, or it is none for image classification.
        FileNotFoundError: If files of the dataset are missing.
    """
    name = dataset.name.removeprefix("tfds:")
    if not name:
        raise ValueError(
            "config.dataset.name is empty; name a dataset with --data=tfds:NAME, --data=folder:PATH or "
            "--data=csv:FILE, as this recipe has none of its own."
        )
    files, columns = of_files(name), values.columns_of(dataset)
    if columns and (files is None or files[0] is not labels_file):
        raise ValueError(
            f"config.loss=squared_error learns numbers, the columns {', '.join(columns)} of a table, --data=csv:FILE; "
            f"{name} has classes."
        )
    if files is not None:
        options = {"value_columns": columns} if columns else {}
        found = files[0].read(files[1], dataset.train_split, dataset.eval_split, dataset.channels, **options)
        if broken := [name for name in found.class_names if set(name) & {"\n", "\r"}]:
            raise ValueError(f"{name}: the class {broken[0]!r} has a line break in its name; rename it.")
        for note in found.notes:
            folder.say(note)
        channels = dataset.channels or found.channels or 3
        of_numbers = values.of_training(columns, found.train.numbers) if columns else None
        further = (found.multi_label, found.left_out, of_numbers)
        return Source(name, found.train, found.held_out, found.class_names, channels, *further)
    find_builder(name, dataset.data_dir or None)  # an unknown name is refused before any waits for another
    (in_turn or (lambda prepare: prepare()))(lambda: _prepare(name, dataset))
    builder = find_builder(name, dataset.data_dir or None)  # anew: what another process prepared is seen now
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise ValueError(
            f"Dataset {name!r} is prepared as {builder.info.file_format.value}; this program reads tfrecord. Prepare "
            "it again in another config.dataset.data_dir."
        )
    class_names, channels, multi_label = _check_features(name, builder, dataset.channels)
    for split in (dataset.train_split, dataset.eval_split):
        _check_split(name, builder, split)
    train, held_out = (RecordFiles(builder, split) for split in (dataset.train_split, dataset.eval_split))
    return Source(name, train, held_out, class_names, dataset.channels or channels, multi_label)


def check_for_training(source: Source, dataset: ml_collections.ConfigDict) -> None:
    """Refuses images that can be evaluated, but not trained on as the recipe says.

    Args:
        source: What `prepare` returned.
        dataset: What it was given.

    Raises:
        ValueError: If all images are held out, there is one class only, a class has no training images, or
            `dataset.balance` is not for them.
    """
    if dataset.balance != "none" and source.multi_label:
        raise ValueError(
            f"Images of {source.name} can have several classes, and config.dataset.balance={dataset.balance} supposes "
            "one each; leave it out."
        )
    if dataset.balance == "sampling" and not isinstance(source.train, ImageFiles):
        raise ValueError(
            f"config.dataset.balance=sampling draws files of a folder, and {source.name} is none; take weights."
        )
    files = of_files(source.name)
    if files is not None:
        if dataset.eval_split == folder.ALL:
            raise ValueError(f"config.dataset.eval_split={folder.ALL} holds out the training images too; name a split.")
        files[0].check_classes(source.name, source.class_names, {"to train on": source.train})


def of_files(name: str) -> tuple[Any, str] | None:
    """What reads a dataset of image files, the module `folder` or `labels_file`, and its path; `None` for others."""
    prefix, colon, path = name.partition(":")
    return (_OF_FILES[prefix], path) if colon and prefix in _OF_FILES else None


def class_weights(source: Source) -> np.ndarray:
    """Weights of the classes that make all count the same: images / (classes x images of the class).

    Args:
        source: The dataset, each image of one class; without files of its own it is read once for its labels.

    Returns:
        float64 `[classes]`, of mean 1 over the training images; 0 for a class without any.
    """
    if isinstance(source.train, ImageFiles):
        labels = np.array(source.train.labels)
    else:
        read = source.train.read(0, source.train.count).map(lambda example: example["label"])
        labels = np.fromiter(read.as_numpy_iterator(), "int64")
    found = np.unique(labels)
    weights = np.zeros(source.num_classes)
    weights[found] = class_weight.compute_class_weight("balanced", classes=found, y=labels)
    return weights


def check_place(output: str, name: str) -> None:
    """Refuses to write among the images of a folder, which would be taken for a class of their own.

    Args:
        output: What is to be written.
        name: Of the dataset.

    Raises:
        ValueError: If `output` is inside of what is read of `folder:PATH`.
    """
    root = name.removeprefix("folder:")
    if root == name or "://" in root + output:
        return
    inside = os.path.relpath(os.path.realpath(output), os.path.realpath(root)).split(os.sep)
    if inside[0] == os.pardir or not os.path.isdir(root):
        return
    splits = folder_splits.find_layout(root, "train").splits
    if len(splits) < 2 or inside[0] in splits.values():
        raise ValueError(
            f"{output} is inside of {root}, whose folders are classes of images; choose a place beside it, as what is "
            "written there would be taken for images."
        )


def find_builder(name: str, data_dir: str | None = None) -> tfds.core.DatasetBuilder:
    """What knows and prepares a dataset, of `OWN_BUILDERS` or TFDS; refuses an unknown name with the nearest ones."""
    if name in OWN_BUILDERS:
        return OWN_BUILDERS[name](data_dir=data_dir)
    if os.path.exists(name):
        kind = "folder" if os.path.isdir(name) else "csv"
        raise ValueError(f"{name!r} is a place and no dataset's name; of images there, say {kind}:{name}.")
    try:
        return tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError):  # of what is no name at all
        known = tfds.list_builders()
        near = difflib.get_close_matches(name, known, n=5)
        raise ValueError(
            f"There is no dataset {name!r}; the known ones are {', '.join(OWN_BUILDERS)}, folder:PATH, csv:FILE and "
            f"the {len(known)} names that tfds.list_builders() gives{', such as ' + ', '.join(near) if near else ''}."
        ) from None


def _prepare(name: str, dataset: ml_collections.ConfigDict) -> None:
    config = tfds.download.DownloadConfig(manual_dir=dataset.manual_dir or None)
    builder = find_builder(name, dataset.data_dir or None)
    if not builder.is_prepared():
        logging.info("Preparing dataset %s in %s.", name, builder.data_dir)
    tfds.display_progress_bar(sys.stderr.isatty())  # which removes its bars at the end, but not from a log
    try:
        with logs.without_prints():
            builder.download_and_prepare(download_config=config)
    except FileExistsError:
        if not builder.is_prepared():  # else another run has prepared it meanwhile
            raise
    except AssertionError as error:  # how TFDS says that manual_dir lacks something
        raise FileNotFoundError(
            f"Dataset {name!r} could not be prepared; its files go to --config.dataset.manual_dir: {error}"
        ) from error


def _check_features(name: str, builder: tfds.core.DatasetBuilder, wanted: int) -> tuple[tuple[str, ...], int, bool]:
    """Names of the classes, channels, and whether an image can have several classes."""
    features: Any = builder.info.features
    fields = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = fields.get("image"), fields.get("label")
    multi_label = isinstance(label, tfds.features.Sequence)
    of_class = label.feature if isinstance(label, tfds.features.Sequence) else label
    if not isinstance(image, tfds.features.Image) or not isinstance(of_class, tfds.features.ClassLabel):
        raise ValueError(
            f"Dataset {name!r} is none for image classification: its examples need an `image` (tfds.features.Image) "
            f"and a `label` (tfds.features.ClassLabel, or a Sequence of it); they have {features}."
        )
    channels = image.shape[-1] or 3
    if channels not in (1, 3, 4) or image.np_dtype != np.uint8:
        raise ValueError(
            f"Images of dataset {name!r} have {channels} channels of {np.dtype(image.np_dtype)}; grey, RGB or RGBA "
            "images of uint8 are expected."
        )
    if wanted not in (0, 1, 3) and image.shape[-1] not in (None, wanted):
        raise ValueError(
            f"Images of dataset {name!r} have {channels} channels, not the {wanted} of config.dataset.channels; leave "
            "it out, or give 1 or 3."
        )
    return tuple(of_class.names), min(channels, 3), multi_label


def _check_split(name: str, builder: tfds.core.DatasetBuilder, split: str) -> None:
    try:
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"Dataset {name!r} has no split {split!r}; it has {', '.join(builder.info.splits)}, and slices of them "
            'such as "train[:90%]".'
        ) from error
    if not count:
        raise ValueError(f"Split {split!r} of dataset {name!r} holds no examples.")
