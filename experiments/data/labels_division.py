"""Which rows of a file of labels are trained on, and which are held out.

Rows of a split are trained on or held out as the folders of splits are (`train`, `val`, `test`, by any usual name).
Without the column, or without rows for validation, one image in five is held out: by groups if there are any (all
images of a patient, a camera, an author are on one side; scikit-learn's StratifiedGroupKFold), otherwise by its path,
as in a folder; a recipe's fold (`folds.Fold`) takes the place of that, of the rows that are not for tests.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from sklearn import model_selection

from coatnet_tf.weights.keras_file import enumerate_names
from experiments.data import folder, folds, labels_table
from experiments.data.folder_splits import names_training_images, purpose_of
from experiments.data.folds import Fold
from experiments.data.labels_table import Row


def divide(
    table: str, rows: Sequence[Row], has_splits: bool, train_split: str, eval_split: str
) -> tuple[list[Row], list[Row], list[Row], str]:
    """Divides the rows of a table.

    Args:
        table: Its path, for messages.
        rows: All that are images.
        has_splits: Whether it has a column of splits.
        train_split: As of `labels_file.read`.
        eval_split: Likewise.

    Returns:
        Training rows, held-out ones and others, and how they were divided, in words.

    Raises:
        ValueError: If it has no such split, parts a group, or is too small for a fold.
    """
    if fold := folds.parse(eval_split):
        return _divide_by_fold(table, rows, fold)
    if not has_splits:
        for field, split in (("train_split", train_split), ("eval_split", eval_split)):
            if not ("[" in split or purpose_of(split) or split == folder.ALL):
                raise ValueError(f"{table} has no column `split`, for the {split!r} of config.dataset.{field}.")
        if eval_split == folder.ALL:
            return list(rows), list(rows), [], ""
        return (*_hold_out(table, rows), [], _how(rows))
    names = {row.split for row in rows}

    def of_split(split: str, purpose: str) -> list[Row]:
        """Of the name, or else of its purpose, or else of the usual one."""
        for wanted in (split if split in names else "", purpose_of(split) or "", purpose):
            found = [row for row in rows if wanted and wanted in (row.split, purpose_of(row.split))]
            if found:
                return found
        return []

    for field, split in (("train_split", train_split), ("eval_split", eval_split)):
        if split not in names and not ("[" in split or purpose_of(split) or split == folder.ALL):
            raise ValueError(
                f"{table} has no split {split!r}, as config.dataset.{field} says; it has {', '.join(sorted(names))}."
            )
    train = of_split(train_split, "train")
    if eval_split == folder.ALL:
        return train or list(rows), list(rows), [], ""
    if not train:
        raise ValueError(
            f"{table} has no split to train on; its column split has {', '.join(sorted(names))}. Call one train, or "
            "evaluate all of its images with --split=all."
        )
    held_out, how = of_split(eval_split, "validation"), ", as the column split says"
    if not held_out or (held_out == train and train_split != eval_split and not names_training_images(eval_split)):
        (train, held_out), how = _hold_out(table, train), _how(train)
    else:
        _refuse_parted(table, train, held_out)
    used = {row.path for row in (*train, *held_out)}
    return train, held_out, [row for row in rows if row.path not in used], how


def _divide_by_fold(table: str, rows: Sequence[Row], fold: Fold) -> tuple[list[Row], list[Row], list[Row], str]:
    """As `divide`: the fold is held out of the training images. A group, or a file with links, is on one side."""
    if any(purpose_of(row.split) == "validation" for row in rows):
        raise ValueError(
            f"{table} has rows of a validation split; leave --folds out to hold these out, or give their split another "
            "name: train to divide them into folds too."
        )
    to_divide = [row for row in rows if not row.split or purpose_of(row.split) == "train"]
    has_groups = any(row.group for row in rows)
    what = "groups" if has_groups else "images"
    groups = [row.group or f"\n{folds.place_of(row.path)}" for row in to_divide]  # no group has a line break
    groups_of: dict[str, set[str]] = {}
    for row, group in zip(to_divide, groups, strict=True):
        for label in row.labels or ("training",):
            groups_of.setdefault(label, set()).add(group)
    few = sorted(label for label, of_label in groups_of.items() if len(of_label) < fold.count)
    if few or not groups_of:
        raise ValueError(
            f"{table} has fewer than {fold.count} {what} of {enumerate_names(few or ['training'])}, one for "
            f"each fold; add {what}, or take fewer folds."
        )
    held_out = set(fold.places([labels_table.SEPARATOR.join(row.labels) for row in to_divide], groups).tolist())
    parts = [[row for place, row in enumerate(to_divide) if (place in held_out) == side] for side in (False, True)]
    others = [row for row in rows if row.split and purpose_of(row.split) != "train"]
    return parts[0], parts[1], others, f", {fold}{_how(to_divide) if has_groups else ''}"


def _how(rows: Sequence[Row]) -> str:
    groups = {row.group for row in rows} - {""}
    return f", with none of {len(groups):,} groups in both" if groups else ", by their paths"


def _refuse_parted(table: str, train: Sequence[Row], held_out: Sequence[Row]) -> None:
    parted = sorted({row.group for row in train} & {row.group for row in held_out} - {""})
    if parted and train != held_out:
        raise ValueError(
            f"{table}: its column split parts the groups {enumerate_names(parted)}, so that the held-out images "
            "would not be new ones; put each group on one side."
        )


def _hold_out(table: str, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Parts training images: by groups, if there are any, or by their paths."""
    if not any(row.group for row in rows):
        chosen = [folder.is_held_out(labels_table.folder_of(table), _from_table(table, row.path)) for row in rows]
    else:
        chosen = _held_out_groups(table, rows)
    parts = [[row for row, is_chosen in zip(rows, chosen, strict=True) if is_chosen == side] for side in (False, True)]
    return parts[0], parts[1]


def _from_table(table: str, path: str) -> str:
    """The path by way of the folder of the table: the same behind that, whichever way the table is named."""
    root = labels_table.folder_of(table)
    return path if "://" in path else f"{root}/{os.path.relpath(path, root)}"


def _held_out_groups(table: str, rows: Sequence[Row]) -> list[bool]:
    """Whether each row is of a group that is held out; a row without a group is one of its own."""
    groups = [row.group or f"\n{row.path}" for row in rows]  # no group has a line break
    labels = [labels_table.SEPARATOR.join(row.labels) for row in rows]
    folds = min(folder.HELD_OUT_SHARE, len(set(groups)), max(Counter(labels).values()))
    if len(set(groups)) < 2:
        raise ValueError(
            f"{table}: all images are of the group {groups[0]!r}, so that none can be held out; two groups or more are "
            "needed, ten or so are better."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a class has fewer images than there are parts
        if folds < 2:  # no two images have the same labels
            splitter = model_selection.GroupShuffleSplit(1, test_size=1 / folder.HELD_OUT_SHARE, random_state=0)
        else:
            splitter = model_selection.StratifiedGroupKFold(folds, shuffle=True, random_state=0)
        parts = [part for _, part in splitter.split(np.zeros(len(rows)), labels, groups)]
    wanted = len(rows) / folder.HELD_OUT_SHARE
    chosen = set(min(parts, key=lambda part: abs(len(part) - wanted)).tolist())  # groups can be of unequal size
    return [place in chosen for place in range(len(rows))]
