"""Which folders in a folder are for what: splits, such as `Train` and `val`, or one a class."""

from __future__ import annotations

import dataclasses
import re

from experiments.data import folder_files

# Names of splits by what they are for; those that come first are preferred.
_NAMES = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "validate", "dev", "eval", "evaluation", "heldout", "holdout"),
    "test": ("test", "testing", "tst"),
}
_FILLERS = ("", "set", "data", "dataset", "images", "image", "imgs", "img", "split", "folder")  # as in training_set


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the folders in a folder are.

    Args:
        path: The folder.
        folders: Names of the folders in it.
        splits: Of these the splits, by what they are for (`train`, `validation`, `test`); none if they are classes.
        taken_for_classes: Those that are classes although they have names of splits.
        left_out: What else lies in the folder.
    """

    path: str
    folders: tuple[str, ...]
    splits: dict[str, str]
    taken_for_classes: tuple[str, ...]
    left_out: tuple[folder_files.LeftOut, ...]

    def find(self, split: str) -> str | None:
        """The folder of a split: that of its name, or of another name for the same purpose; `None` without one."""
        return split if split in self.folders else self.splits.get(purpose_of(split) or "")

    def classes_in(self, name: str) -> list[str]:
        """Names of the folders in one of the folders."""
        return folder_files.folders_in(f"{self.path}/{name}")[0]


def purpose_of(name: str) -> str | None:
    """What a folder is for by its name: `Training_Set` is `"train"`, `val2017` is `"validation"`."""
    words = _words(name)
    return _purpose_of_word("".join(words)) if len(words) == 1 or words[1:] == ["out"] else None


def names_training_images(split: str) -> bool:
    """Whether a split is called as the training images are, and is no slice of another dataset's."""
    return "[" not in split and purpose_of(split) == "train"


def find_layout(path: str, train_split: str) -> Layout:
    """Looks which folders are splits, and refuses what can be read in two ways.

    Args:
        path: The folder; also on object storage.
        train_split: Name of the folder to train on; what is there by the usual names if it is `train`.

    Returns:
        The layout.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is not clear whether a folder is a split or a class, or which of several is the split.
    """
    names, left_out = folder_files.folders_in(path)
    by_name = _splits_by_name(names)
    layout = Layout(path, tuple(names), {}, (), tuple(left_out))
    if train_split != "train" and train_split in names:
        return dataclasses.replace(layout, splits={**by_name, "train": train_split})
    splits = _true_splits(layout, by_name)
    several = [name for name in names if purpose_of(name) == "train" and name.lower() not in _NAMES["train"]]
    if splits and len(several) > 1 and splits["train"] in several:
        raise ValueError(
            f"{path} has {' and '.join(several)}, and it is not clear which to train on; put their "
            "images together, or have experiments.train take one, with --config.dataset.train_split."
        )
    taken = () if splits else tuple(by_name.values())
    return dataclasses.replace(layout, splits=splits, taken_for_classes=taken)


def _splits_by_name(names: list[str]) -> dict[str, str]:
    """The best name for each purpose."""
    splits = {}
    for purpose, known in _NAMES.items():
        found = [name for name in names if purpose_of(name) == purpose]
        if found:
            # The word itself, in the order of preference, before those with further words.
            rank = {word: index for index, word in enumerate(known)}
            splits[purpose] = min(found, key=lambda name: (rank.get(name.lower(), len(rank)), name))
    return splits


def _true_splits(layout: Layout, by_name: dict[str, str]) -> dict[str, str]:
    """Those that are splits by what lies in them and beside them too; none if all folders are classes."""
    train = by_name.get("train")
    others = [name for name in layout.folders if purpose_of(name) is None]
    beside = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
    if train is None:
        for name in by_name.values():
            if set(layout.classes_in(name)) & set(others):
                raise ValueError(
                    f"{layout.path} has a folder {name!r} with classes of the same names as those beside it "
                    f"({beside}): put the latter into a folder named train."
                )
        return _splits_of_several_words(layout)
    classes = set(layout.classes_in(train))
    held_out = [name for purpose, name in by_name.items() if purpose != "train"]
    if not others or any(classes & set(layout.classes_in(name)) for name in held_out):
        return by_name
    if not classes:
        return {}
    raise ValueError(
        f"{layout.path} has a folder {train!r} with folders in it beside {beside}, and it is not clear whether it is a "
        f"class or the images to train on. If it is a class, rename it ({train}s, say); if the folders in it are the "
        f"classes, give --data=folder:{layout.path}/{train}."
    )


def _splits_of_several_words(layout: Layout) -> dict[str, str]:
    """Such as `seg_train` and `seg_test`, if the same classes lie in them."""
    splits: dict[str, str] = {}
    for name in layout.folders:
        words = _words(name)
        purposes = {_purpose_of_word(word) for word in (*words[:1], *words[-1:])} - {None}
        for purpose in purposes:
            splits.setdefault(str(purpose), name)
    if "train" not in splits or len(splits) < 2:
        return {}
    classes = set(layout.classes_in(splits["train"]))
    return splits if all(classes & set(layout.classes_in(name)) for name in splits.values()) else {}


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[\W\d_]+", name.lower()) if word not in _FILLERS]


def _purpose_of_word(word: str) -> str | None:
    for purpose, known in _NAMES.items():
        if word in known or word.removesuffix("set") in known:
            return purpose
    return None
