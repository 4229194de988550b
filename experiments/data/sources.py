"""From a dataset's name to a prepared TFDS builder whose fitness for the run has been checked."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

import ml_collections
import tensorflow_datasets as tfds

from experiments.data import digits, fashion_mnist

# Builders of this project, by name; any other name is looked up in TFDS.
OWN_BUILDERS = {
    "digits": digits.Digits,
    "fashion_mnist_idx": fashion_mnist.FashionMnistIdx,
}


@dataclasses.dataclass(frozen=True)
class Source:
    """A prepared dataset for image classification.

    Args:
        builder: The prepared builder; its examples have an `image` and a `label`.
        train_split: Split to train on, a name or slice such as `"train[:90%]"`.
        eval_split: Held-out split to evaluate on.
        class_names: Names of the classes, in the order of the labels.
    """

    builder: tfds.core.DatasetBuilder
    train_split: str
    eval_split: str
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def channels(self) -> int:
        return self.builder.info.features["image"].shape[-1]

    @property
    def num_train(self) -> int:
        return self.builder.info.splits[self.train_split].num_examples

    @property
    def num_eval(self) -> int:
        return self.builder.info.splits[self.eval_split].num_examples


def prepare(dataset: ml_collections.ConfigDict) -> Source:
    """Finds and prepares the dataset of a recipe.

    Args:
        dataset: `name`, `train_split`, `eval_split`, `data_dir` (where TFDS keeps prepared datasets; its
            own default if empty) and `manual_dir` (folder of files that TFDS does not download).

    Returns:
        A `Source`.

    Raises:
        ValueError: If the dataset or a split is unknown, or it is none for image classification.
        FileNotFoundError: If files of the dataset are missing.
    """
    builder = _find_builder(dataset.name, dataset.data_dir or None)
    manual_dir = dataset.manual_dir or None
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
    except AssertionError as error:  # how TFDS says that manual_dir lacks something
        raise FileNotFoundError(
            f"Dataset {dataset.name!r} could not be prepared; its files go to --config.dataset.manual_dir: {error}"
        ) from error
    _check_features(dataset.name, builder)
    for split in (dataset.train_split, dataset.eval_split):
        _check_split(dataset.name, builder, split)
    names = tuple(builder.info.features["label"].names)
    return Source(builder, dataset.train_split, dataset.eval_split, names)


def _find_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    if name in OWN_BUILDERS:
        return OWN_BUILDERS[name](data_dir=data_dir)
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders()
        near = difflib.get_close_matches(name, known, n=5)
        raise ValueError(
            f"There is no dataset {name!r}; the known ones are {', '.join(OWN_BUILDERS)} and the {len(known)} names "
            f"that tfds.list_builders() gives{', such as ' + ', '.join(near) if near else ''}."
        ) from None


def _check_features(name: str, builder: tfds.core.DatasetBuilder) -> None:
    features: Any = builder.info.features
    fields = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = fields.get("image"), fields.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise ValueError(
            f"Dataset {name!r} is none for image classification: its examples need an `image` (tfds.features.Image) "
            f"and a `label` (tfds.features.ClassLabel); they have {features}."
        )
    if image.shape[-1] is None:
        raise ValueError(f"Dataset {name!r} does not state the number of channels of its images.")


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
