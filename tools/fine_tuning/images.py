"""Which images are fine-tuned on, which are held out, and which are left for a test."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence

from etils import epath

from experiments import workdir
from experiments.data import folder, folder_splits, labels_file
from experiments.data.folds import Fold


@dataclasses.dataclass(frozen=True)
class Images:
    """Which images are for what.

    Args:
        data: The dataset to train and choose on, `folder:PATH`.
        train_count: Number of its training images.
        test: The dataset whose split `test` is used for nothing but the last evaluation; empty if there is none.
        channels: Of the images if they are arrays; 0 for pictures, which can be read as grey or RGB.
        multi_label: Whether an image can have several classes.
        of_numbers: Whether it has numbers in their place.
    """

    data: str
    train_count: int
    test: str = ""
    channels: int = 0
    multi_label: bool = False
    of_numbers: bool = False


def find_images(path: str, channels: int = 0, fold: Fold | None = None, value_columns: Sequence[str] = ()) -> Images:
    """Looks at images and refuses what cannot be fine-tuned on.

    Args:
        path: The folder, or `csv:FILE`, a file of labels.
        channels: `dataset.channels` of the recipe.
        fold: That is held out, in the place of validation images or those chosen by name.
        value_columns: Columns of a file of labels with numbers to learn.

    Returns:
        An `Images`.

    Raises:
        FileNotFoundError: If there is no such folder, or no image in it.
        ValueError: If there is one class only, or a class has nothing to train on or nothing held out; or if a fold is
            to be held out and there are validation images.
    """
    if path.startswith("csv:"):
        return _find_labels(path, channels, fold, value_columns)
    if value_columns:
        raise ValueError(
            f"--config.loss=squared_error learns numbers of a table, --images=csv:FILE; {path} has classes."
        )
    root, test = path.rstrip("/"), ""
    if os.path.isfile(root):
        raise ValueError(f"{root} is a file; a table of labels is given as --images=csv:{root}.")
    layout = folder_splits.find_layout(root, "train")
    if layout.splits:
        usable = {purpose: name for purpose, name in layout.splits.items() if layout.classes_in(name)}
        if "test" in usable:
            test = f"folder:{root}"
            folder.read(root, "train", "test", channels)  # refuses other classes than those of train
        if fold and "validation" in usable:
            raise ValueError(
                f"{root} has validation images of its own; leave --folds out to hold these out, or divide the training "
                f"images into folds: --images={root}/{layout.splits['train']}."
            )
        if fold:
            root += f"/{layout.splits['train']}"
        elif "validation" not in usable:
            folder.say(f"{root}/{layout.splits['train']} is divided, as there are no validation images beside it.")
            root += f"/{layout.splits['train']}"
    found = folder.read(root, "train", str(fold or "validation"), channels)
    folder.check_classes(root, found.class_names, {"to train on": found.train, "held out": found.held_out})
    return Images(f"folder:{root}", found.train.count, test, found.channels)


def _find_labels(data: str, channels: int, fold: Fold | None, columns: Sequence[str]) -> Images:
    """The images of a file of labels."""
    path = data.removeprefix("csv:")
    found = labels_file.read(path, "train", str(fold or "validation"), channels, columns)
    labels_file.check_classes(path, found.class_names, {"to train on": found.train, "held out": found.held_out})
    test = data if labels_file.has_test_images(path) else ""
    if test:
        labels_file.read(path, "train", "test", channels, columns)  # refuses other classes than those of train
    return Images(data, found.train.count, test, found.channels, found.multi_label, bool(columns))


def refuse_other_images(run: epath.Path, images: Images) -> None:
    """Refuses to go on with a run when images have come or gone, which change its recipe too."""
    if not (run / workdir.DATA).is_file() or workdir.read_recipe(run).dataset.name != images.data:
        return
    before = json.loads((run / workdir.DATA).read_text())["train"]
    if before != images.train_count:
        raise ValueError(
            f"{images.data} has {images.train_count} training images, and the run in {run} began with {before}: put "
            "them back to resume it, or begin anew in another --output."
        )
