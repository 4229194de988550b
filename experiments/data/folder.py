"""A folder of class-named folders of images, or of splits of such folders.

    PATH/train/cat/1.jpg, PATH/validation/cat/2.jpg, ...   the splits as they lie there
    PATH/cat/1.jpg, PATH/dog/2.jpg, ...                    every fifth image or so is held out, by its name

`tfds.ImageFolder` reads the first layout; it can neither split one folder nor begin in the middle of an epoch.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

import tensorflow as tf
from absl import logging

from experiments.data.readers import ImageFiles

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
HELD_OUT_SPLITS = ("validation", "valid", "val", "test")
HELD_OUT_SHARE = 5  # one image in so many
ALL = "all"  # as the split to evaluate: every image of the class folders


def read(path: str, train_split: str, eval_split: str) -> tuple[tuple[str, ...], ImageFiles, ImageFiles]:
    """Lists the images of both splits.

    With only class folders in `path`, an image is held out if the SHA-256 of `class/file` is divisible by
    five, so that it stays in its split when others come or go.

    Args:
        path: The folder; also on object storage.
        train_split: Name of the folder to train on; `train` where a recipe for another dataset says otherwise.
        eval_split: Name of the folder to hold out; otherwise the first there is of `HELD_OUT_SPLITS`. `"all"`
            holds out every image of the class folders, to evaluate on them.

    Returns:
        Names of the classes, sorted, and the two splits.

    Raises:
        FileNotFoundError: If there is no such folder, or no image in it.
        ValueError: If the splits have different classes, one has no images, or a name is of no folder there.
    """
    names = _folders(path)
    for field, split in (("train_split", train_split), ("eval_split", eval_split)):
        of_other_datasets = "[" in split or split in ("train", *HELD_OUT_SPLITS, ALL)
        if split not in names and not of_other_datasets:
            raise ValueError(
                f"{path} has no folder {split!r}, as config.dataset.{field} says; it has {', '.join(names)}."
            )
    train_name = _train_folder(names, train_split)
    if train_name:
        held_out_name = next((n for n in (eval_split, *HELD_OUT_SPLITS) if n in names), None)
        if held_out_name is None:
            raise ValueError(
                f"{path} has a folder {train_name!r} but none to hold out; add one named {HELD_OUT_SPLITS[0]!r}, or "
                "move the class folders up so that images are held out by their names."
            )
        class_names = _folders(f"{path}/{train_name}")
        train, held_out = (
            {name: _files(f"{path}/{split}/{name}") for name in _folders(f"{path}/{split}")}
            for split in (train_name, held_out_name)
        )
        unknown = sorted(set(held_out) - set(train))
        if unknown:
            raise ValueError(f"{path}/{held_out_name} has classes that {train_name} has not: {', '.join(unknown)}.")
    else:
        class_names = names
        files = {name: _files(f"{path}/{name}") for name in names}
        train = {name: [f for f in files[name] if not _is_held_out(name, f)] for name in names}
        held_out = {name: [f for f in files[name] if eval_split == ALL or _is_held_out(name, f)] for name in names}
    for split, of_class in (("training", train), ("held-out", held_out)):
        if not any(of_class.values()):
            raise FileNotFoundError(
                f"{path} holds no {split} images; images ({', '.join(EXTENSIONS)}) are expected in one folder a class, "
                "at least five or so of each."
            )
    return tuple(class_names), _split(class_names, train), _split(class_names, held_out)


def check_classes(path: str, class_names: tuple[str, ...], splits: Mapping[str, ImageFiles]) -> None:
    """Refuses what no classifier can be trained on.

    Args:
        path: The folder, for messages.
        class_names: Names of the classes.
        splits: Those that need images of each class, by what they are for.

    Raises:
        ValueError: If there is one class only, or a class has no images in a split.
    """
    if len(class_names) < 2:
        raise ValueError(
            f"{path} holds one class, {class_names[0]!r}; put the images of each class in a folder of its own."
        )
    for what, split in splits.items():
        counts = Counter(split.labels)
        lacking = [name for label, name in enumerate(class_names) if not counts[label]]
        if lacking:
            raise ValueError(
                f"{path}: none of the images of {', '.join(lacking)} is {what}. One in five is held out by its name: "
                "add images, ten or more a class, or divide them yourself into folders named train and validation."
            )


def check_split(path: str, train_split: str, split: str) -> None:
    """Refuses a split to evaluate that a folder does not have; `read` would take the usual names in its place."""
    names = _folders(path)
    if _train_folder(names, train_split):
        if split not in names:
            raise ValueError(f"{path} has no folder {split!r}; the splits in it are {', '.join(names)}.")
    elif split != ALL:
        raise ValueError(
            f"{path} has no folder of training images, so that {split!r} is no split of it; give --split={ALL} for all "
            "images of the class-named folders in it."
        )


def _train_folder(names: list[str], train_split: str) -> str | None:
    """The folder to train on; `None` if there are class folders only."""
    return next((name for name in (train_split, "train") if name in names), None)


def _split(class_names: Iterable[str], files: dict[str, list[str]]) -> ImageFiles:
    labelled = [(path, label) for label, name in enumerate(class_names) for path in files.get(name, ())]
    return ImageFiles(tuple(path for path, _ in labelled), tuple(label for _, label in labelled))


def _folders(path: str) -> list[str]:
    if not tf.io.gfile.isdir(path):
        raise FileNotFoundError(f"There is no folder {path!r}; --data=folder:PATH takes one of class-named folders.")
    entries = [entry.rstrip("/") for entry in tf.io.gfile.listdir(path)]
    beside = sorted(e for e in entries if e.lower().endswith(EXTENSIONS) and not e.startswith("."))
    if beside and not tf.io.gfile.isdir(f"{path}/{beside[0]}"):
        logging.warning("%s: images beside the folders, such as %r, are left out.", path, beside[0])
    return sorted(e for e in entries if not e.startswith(".") and tf.io.gfile.isdir(f"{path}/{e}"))


def _files(path: str) -> list[str]:
    entries = sorted(entry for entry in tf.io.gfile.listdir(path) if not entry.startswith("."))
    images = [entry for entry in entries if entry.lower().endswith(EXTENSIONS)]
    if len(images) < len(entries):
        other = next(entry for entry in entries if entry not in images)
        logging.warning(
            "%s: %d of %d entries are no images by name, such as %r, and are left out.",
            path,
            len(entries) - len(images),
            len(entries),
            other,
        )
    return [f"{path}/{entry}" for entry in images]


def _is_held_out(class_name: str, path: str) -> bool:
    digest = hashlib.sha256(f"{class_name}/{path.rpartition('/')[2]}".encode()).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_SHARE == 0
