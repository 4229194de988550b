"""A file of labels (`csv:FILE`), in place of class-named folders: what is trained on, held out and left out.

`labels_table` reads its rows, `labels_division` divides them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from coatnet_tf.weights.keras_file import enumerate_names
from experiments.data import folder, folder_files, labels_division, labels_table
from experiments.data.folder_files import LeftOut
from experiments.data.folder_splits import purpose_of
from experiments.data.readers import ImageFiles, MultiLabelFiles, ValueFiles

NOT_NAMED = "in the folders of the images and not named in the file of labels"
OTHER_SPLIT = "of splits that are neither trained on nor held out"
_FEW_CLASSES = 20  # numbers of so few images may be names
_FINEST = 1e-5  # deviation of a column over its mean; float32 has steps of up to 1.2e-7 of a number


def read(
    path: str, train_split: str, eval_split: str, channels: int = 0, value_columns: Sequence[str] = ()
) -> folder.Folder:
    """Lists the images of both splits.

    Args:
        path: The table; also on object storage.
        train_split: The split to train on; `train` where a recipe for another dataset says otherwise.
        eval_split: The split to hold out; otherwise that for validation, or else a part of the training images. `"all"`
            holds out all images, to evaluate on them.
        channels: `dataset.channels` of the recipe.
        value_columns: Columns of numbers to read in place of labels.

    Returns:
        A `Folder`, of which the names of the classes are those of the columns of numbers if there are any; `left_out`
        has the rows whose files are no images or of other splits, and the files beside the images that no row names.

    Raises:
        FileNotFoundError: If there is no such file, or no image where a row says.
        ValueError: If it is no such table, or two rows, or split and group, contradict one another.
    """
    rows, has_splits = labels_table.read_rows(path, tuple(value_columns) or ("label",), bool(value_columns))
    repeated = len(rows)
    rows = labels_table.each_once(path, rows)
    repeated -= len(rows)
    labels_table.refuse_missing(path, rows)
    left_out = _not_named(path, rows)
    reasons = {row: "" if "://" in row.path else folder_files.reason_to_leave_out(row.path) for row in rows}
    left_out += [LeftOut(row.path, reason) for row, reason in reasons.items() if reason]
    rows = [row for row in rows if not reasons[row]]
    multi_label = any(len(row.labels) > 1 for row in rows)
    for row in rows:
        if not (row.labels or multi_label or value_columns):
            raise ValueError(f"{path}, line {row.line}: {row.path} has no label; give it one, or leave the row out.")
    train, held_out, of_others, how = labels_division.divide(path, rows, has_splits, train_split, eval_split)
    left_out += [LeftOut(row.path, OTHER_SPLIT) for row in of_others]
    for what, part in (("training", train), ("held-out", held_out)):
        if not part:
            left = f" Left out: {folder_files.count_by_reason(left_out)}." if left_out else ""
            raise FileNotFoundError(f"{path} names no {what} images; ten or more of each class are expected.{left}")
    of_training = {row.split for row in train}  # before some of them were held out
    class_names = value_columns or sorted({label for row in rows if row.split in of_training for label in row.labels})
    unknown = sorted({label for row in held_out for label in row.labels} - set(class_names))
    if unknown:
        raise ValueError(
            f"{path}: images are held out with labels that no training image has: {enumerate_names(unknown)}."
        )
    own_channels = _channels_of_arrays(path, [row.path for row in (*train, *held_out)], channels)
    to_train, to_hold_out = (_files(part, class_names, multi_label) for part in (train, held_out))
    note = f"{path}: {len({row.path for row in (*train, *held_out)}):,} images, {to_train.count:,} to train on and "
    what = f"the numbers {', '.join(value_columns)}" if value_columns else "one label an image"
    note += f"{to_hold_out.count:,} held out{how}; {'several labels an image' if multi_label else what}"
    note += f"; {repeated:,} rows repeat others" if repeated else ""
    if alike := labels_table.look_alike(class_names):
        pairs = "; ".join(" and ".join(map(repr, group)) for group in alike[:3])
        note += f"; labels that look alike are classes of their own: {pairs}"
    left = f"left out: {folder_files.count_by_reason(left_out)}" if left_out else "nothing is left out"
    return folder.Folder(
        tuple(class_names), to_train, to_hold_out, tuple(left_out), (f"{note}; {left}.",), own_channels, multi_label
    )


def check_classes(path: str, class_names: tuple[str, ...], splits: Mapping[str, ImageFiles]) -> None:
    """Refuses what nothing can be learned of; see `folder.check_classes`. Numbers have to vary."""
    train = next(iter(splits.values()))
    images = train.count
    if isinstance(train, ValueFiles):
        for name, of_column in zip(class_names, train.numbers.T, strict=True):
            if of_column.min() == of_column.max():
                raise ValueError(f"{path}: the column {name} is {of_column[0]:g} for all {images} training images.")
            if of_column.std() < _FINEST * abs(of_column.mean()):
                raise ValueError(
                    f"{path}: the column {name} varies by {of_column.std():.3g} around {of_column.mean():.9g}, which a "
                    f"model's float32 numbers hardly tell apart; take {of_column.mean():.9g} off it, say."
                )
        return
    if len(class_names) > max(images / 2, _FEW_CLASSES) and all(map(labels_table.is_number, class_names)):
        raise ValueError(
            f"{path}: {len(class_names)} different numbers label {images} images, and the column label holds classes. "
            "For quantities give --config.loss=squared_error --config.dataset.value_columns=label."
        )
    if len(class_names) < 2:
        raise ValueError(f"{path} has one label, {class_names[0]!r}; two or more are needed.")
    for what, split in splits.items():
        lacking = [name for name, count in zip(class_names, split.counts(len(class_names)), strict=True) if not count]
        if lacking:
            raise ValueError(
                f"{path}: none of the images of {enumerate_names(lacking)} is {what}. Add images, ten or more a "
                "class, or divide them otherwise in a column `split` of train and validation."
            )


def check_split(path: str, train_split: str, split: str) -> None:
    """Refuses a split to evaluate that a table does not have; `read` would hold out others in its place."""
    rows, has_splits = labels_table.read_rows(path, ())
    known = sorted({row.split for row in rows if row.split})
    if split == folder.ALL or split in known or (purpose_of(split) or split) in map(purpose_of, known):
        return
    there = f"the splits in it are {', '.join(known)}" if has_splits else "it has no column `split`"
    raise ValueError(f"{path} has no split {split!r}; {there}, and --split={folder.ALL} takes all images.")


def has_test_images(path: str) -> bool:
    """Whether a table has rows of a split for tests."""
    return any(purpose_of(row.split) == "test" for row in labels_table.read_rows(path, ())[0] if row.split)


def _not_named(table: str, rows: Sequence[labels_table.Row]) -> list[LeftOut]:
    """Files in the folders of the images that no row names."""
    named = {os.path.abspath(path) for path in (table, *(row.path for row in rows))}
    folders = sorted({os.path.dirname(row.path) or "." for row in rows if "://" not in row.path})
    beside = (f"{place}/{name}" for place in folders for name in sorted(os.listdir(place)))
    return [
        LeftOut(path, NOT_NAMED)
        for path in beside
        if os.path.abspath(path) not in named and not os.path.isdir(path) and not os.path.basename(path).startswith(".")
    ]


def _files(rows: Sequence[labels_table.Row], class_names: Sequence[str], multi_label: bool) -> ImageFiles:
    paths = tuple(row.path for row in rows)
    if rows[0].numbers:
        return ValueFiles(paths, tuple(row.numbers for row in rows))
    number = {name: place for place, name in enumerate(class_names)}
    labels = [tuple(number[label] for label in row.labels) for row in rows]
    if multi_label:
        return MultiLabelFiles(paths, tuple(labels), len(class_names))
    return ImageFiles(paths, tuple(label for (label,) in labels))


def _channels_of_arrays(table: str, paths: Sequence[str], channels: int) -> int:
    """Channels of the images if they are NumPy arrays; 0 if they are pictures."""
    arrays = [path for path in paths if folder_files.is_array(path)]
    if arrays and len(arrays) < len(paths) and not channels:
        raise ValueError(f"{table} names pictures and NumPy arrays; set config.dataset.channels to what both have.")
    return folder_files.channels_of_array(min(arrays)) if arrays else 0
