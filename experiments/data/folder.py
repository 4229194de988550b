"""A folder of class-named folders of images, or of splits of such folders.

    PATH/train/cat/1.jpg, PATH/validation/cat/2.jpg, ...   the splits as they lie there, also as Train and val
    PATH/cat/1.jpg, PATH/dog/old/2.jpg, ...                every fifth image or so is held out, by its name

The folder of a class is read with all folders in it, as `keras.utils.image_dataset_from_directory` does.
`tfds.ImageFolder` reads the first layout; it can neither split one folder nor begin in the middle of an epoch.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping

from absl import logging

from experiments.data import folds
from experiments.data.folder_files import (
    BESIDE_PICTURES,
    EXTENSIONS,
    NOT_READ,
    LeftOut,
    channels_of_array,
    count_by_reason,
    find_images,
    folders_in,
    is_array,
)
from experiments.data.folder_splits import Layout, find_layout, names_training_images, purpose_of
from experiments.data.labels_table import look_alike
from experiments.data.readers import ImageFiles

HELD_OUT_SHARE = 5  # one image in so many
ALL = "all"  # as the split to evaluate: every image of the class folders
_SUFFIXES = {"HEIC": ".heic", "AVIF": ".avif", "JPEG XL": ".jxl", "JPEG 2000": ".jp2"}


@dataclasses.dataclass(frozen=True)
class Folder:
    """What a folder holds.

    Args:
        class_names: Names of the classes, sorted.
        train: The images to train on.
        held_out: The images held out.
        left_out: Files and folders that are not read.
        notes: Sentences for the user: which folder was taken for what, and what became of all files.
        channels: Of the images if they are arrays, as the first one has them; 0 if they are pictures.
        multi_label: Whether an image can have several classes, as in a file of labels.
    """

    class_names: tuple[str, ...]
    train: ImageFiles
    held_out: ImageFiles
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    channels: int = 0
    multi_label: bool = False


def read(path: str, train_split: str, eval_split: str, channels: int = 0) -> Folder:
    """Lists the images of both splits.

    With only class folders in `path`, an image is held out if the SHA-256 of its path from there on, `class/file`, is
    divisible by five, so that it stays in its split when others come or go; a link is where its file is.

    Args:
        path: The folder; also on object storage.
        train_split: Name of the folder to train on; `train` where a recipe for another dataset says otherwise.
        eval_split: Name of the folder to hold out; otherwise that of a validation split, or else of a test split.
            `"all"` holds out every image of the class folders, to evaluate on them; the name of a `folds.Fold` the
            images of that.
        channels: `dataset.channels` of the recipe. With 0, arrays beside pictures are left out: those may be masks or
            features of the pictures.

    Returns:
        A `Folder`.

    Raises:
        FileNotFoundError: If there is no such folder, or no image in it.
        ValueError: If the splits have different classes, one has no images, a name is of no folder there, or it is not
            clear what a folder is.
    """
    path = path.rstrip("/") or "/"
    layout = find_layout(path, train_split)
    fold = folds.parse(eval_split)
    if fold and layout.splits:
        raise ValueError(
            f"{path} is divided into splits; for folds give a folder with one folder a class, such as "
            f"{path}/{layout.splits['train']}."
        )
    for field, split in (("train_split", train_split), ("eval_split", eval_split)):
        of_other_datasets = "[" in split or purpose_of(split) or split == ALL or folds.parse(split)
        if split not in layout.folders and not of_other_datasets:
            raise ValueError(
                f"{path} has no folder {split!r}, as config.dataset.{field} says; it has {', '.join(layout.folders)}."
            )
    left_out: list[LeftOut] = []
    notes = [
        f"{path}/{name} is taken for a class, not for a split, as it lies beside other classes."
        for name in layout.taken_for_classes
    ]
    if layout.splits:
        left_out += layout.left_out
        train_name, held_out_name = layout.splits["train"], _held_out_folder(layout, eval_split)
        train, held_out = (_of_split(f"{path}/{name}", left_out) for name in (train_name, held_out_name))
        unknown = sorted(set(held_out) - set(train))
        if unknown:
            pairs = [names for names in look_alike({*train, *held_out}) if set(names) & set(unknown)]
            hint = f"; {' and '.join(map(ascii, sorted(pairs[0])))} look alike, and are not the same" if pairs else ""
            names = ", ".join(unknown)
            raise ValueError(f"{path}/{held_out_name} has classes that {train_name} has not: {names}{hint}.")
        not_read = [name for name in layout.folders if name not in (train_name, held_out_name)]
        left_out += [LeftOut(f"{path}/{name}", "folders that are neither trained on nor held out") for name in not_read]
        note = f"{path}: {train_name!r} is trained on and {held_out_name!r} held out"
        notes.append(f"{note}; not read: {', '.join(map(repr, not_read))}." if not_read else f"{note}.")
        class_names = sorted(train)
    else:
        files = _of_split(path, left_out)
        class_names = sorted(files)
        chosen = fold.held_out(path, files) if fold else _held_out_by_name(path, files)
        train = {name: [file for file in files[name] if file not in chosen] for name in files}
        held_out = {name: [file for file in files[name] if eval_split == ALL or file in chosen] for name in files}
    files_of_all = {file for of_class in (train, held_out) for files in of_class.values() for file in files}
    arrays = {file for file in files_of_all if is_array(file)}
    if arrays and not channels and len(arrays) < len(files_of_all):
        train, held_out = (
            {name: [file for file in files if file not in arrays] for name, files in of_class.items()}
            for of_class in (train, held_out)
        )
        left_out += [LeftOut(file, BESIDE_PICTURES) for file in sorted(arrays)]
        notes.append(f"{path}: NumPy arrays beside pictures are read if config.dataset.channels is set.")
        arrays = set()
    for split, of_class in (("training", train), ("held-out", held_out)):
        if not any(of_class.values()):
            raise FileNotFoundError(
                f"{path} holds no {split} images; images ({', '.join(EXTENSIONS)}) are expected in one folder a class, "
                "at least five or so of each" + (f". Left out: {count_by_reason(left_out)}." if left_out else ".")
            )
    train_files, held_out_files = _join(class_names, train), _join(class_names, held_out)
    notes += _summary(path, train_files, held_out_files, left_out)
    for alike in look_alike(class_names):
        notes.append(f"{path}: {' and '.join(map(ascii, alike))} look alike, and are classes of their own.")
    own_channels = channels_of_array(min(arrays)) if arrays else 0
    return Folder(tuple(class_names), train_files, held_out_files, tuple(left_out), tuple(notes), own_channels)


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
            f"{path} holds one class, {class_names[0]!r}; put the images of each class in a folder of its own, or, if "
            f"the folders in it are the classes, give {path}/{class_names[0]}."
        )
    for what, split in splits.items():
        counts = Counter(split.labels)
        lacking = [name for label, name in enumerate(class_names) if not counts[label]]
        if lacking:
            raise ValueError(
                f"{path}: none of the images of {', '.join(lacking)} is {what}. Add images, ten or more a class; where "
                "one in five is held out by its name, folders named train and validation divide them otherwise."
            )


def check_split(path: str, train_split: str, split: str) -> None:
    """Refuses a split to evaluate that a folder does not have; `read` would take the usual names in its place."""
    layout = find_layout(path, train_split)
    if layout.splits:
        name = layout.find(split)
        if name is None:
            raise ValueError(f"{path} has no folder {split!r}; the splits in it are {', '.join(layout.folders)}.")
        if not layout.classes_in(name):
            raise ValueError(
                f"{path}/{name} has no class folders, so that there is nothing to compare predictions with; "
                "tools.predict classifies such images."
            )
    elif split != ALL:
        raise ValueError(
            f"{path} has no folder of training images, so that {split!r} is no split of it; give --split={ALL} for all "
            "images of the class-named folders in it."
        )


@functools.cache
def say(sentence: str) -> None:
    """Logs a sentence, once in a process: the same folder is read for training, for evaluation and for export."""
    logging.info("%s", sentence)


def _held_out_folder(layout: Layout, eval_split: str) -> str:
    train = layout.splits["train"]
    if not layout.classes_in(train):
        raise ValueError(
            f"{layout.path}/{train} has no class folders; put the images of each class in a folder of its own (or, if "
            f"{', '.join(layout.folders)} are the classes, rename {train}: {train}s, say)."
        )
    wanted = (layout.find(eval_split), layout.splits.get("validation"), layout.splits.get("test"))
    asked = eval_split == train or names_training_images(eval_split)
    found = [name for name in wanted if name is not None and (name != train or asked)]
    for name in found:
        if layout.classes_in(name):
            return name
    flat = f"; {found[0]!r} has no class folders" if found else ""
    raise ValueError(
        f"{layout.path} has a folder {train!r} but none to hold out; add one named 'validation', with the same class "
        f"folders, or give {layout.path}/{train} as the folder, of which images are held out by their names{flat}."
    )


def _of_split(path: str, left_out: list[LeftOut]) -> dict[str, list[str]]:
    """Paths of the images of each class; adds to `left_out`."""
    names, others = folders_in(path)
    left_out += others
    files = {}
    for name in names:
        found = find_images(f"{path}/{name}")
        left_out += found.left_out
        if found.images or not name.lower().endswith(EXTENSIONS):
            files[name] = [f"{path}/{name}/{image}" for image in found.images]
        else:
            left_out.append(LeftOut(f"{path}/{name}", "folders named like images, with none in them"))
    return files


def _join(class_names: Iterable[str], files: dict[str, list[str]]) -> ImageFiles:
    labelled = [(path, label) for label, name in enumerate(class_names) for path in files.get(name, ())]
    return ImageFiles(tuple(path for path, _ in labelled), tuple(label for _, label in labelled))


def _held_out_by_name(root: str, files: Mapping[str, Iterable[str]]) -> set[str]:
    return {file for of_class in files.values() for file in of_class if is_held_out(root, file)}


def is_held_out(root: str, path: str) -> bool:
    """Whether one image in five is this one, by its path from the root on; a link is where its file is.

    So no picture is on both sides.
    """
    if os.path.islink(path):
        root, path = os.path.realpath(root), os.path.realpath(path)
    digest = hashlib.sha256(path.removeprefix(f"{root}/").encode()).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_SHARE == 0


def _summary(path: str, train: ImageFiles, held_out: ImageFiles, left_out: list[LeftOut]) -> list[str]:
    """What became of all files."""
    paths = {*train.paths, *held_out.paths}
    links = sum(map(os.path.islink, paths))
    text = f"{path}: {len(paths):,} images"
    text += f" ({links:,} of them links)" if links else ""
    text += f", {train.count:,} to train on and {held_out.count:,} held out"
    notes = [f"{text}; left out: {count_by_reason(left_out)}." if left_out else f"{text}; nothing is left out."]
    formats = {entry.reason.removesuffix(NOT_READ) for entry in left_out if entry.reason.endswith(NOT_READ)}
    for name in sorted(formats):
        command = f"find {shlex.quote(path)} -iname '*{_SUFFIXES[name]}' -exec mogrify -format png {{}} +"
        notes.append(f"{name} images are not read; ImageMagick's `{command}` puts a PNG beside each.")
    return notes
