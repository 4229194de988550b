"""A file of labels: a table with a row for each image, in place of class-named folders.

    path,label,split,group          the columns `split` and `group` can be missing, and others be there
    photos/1.jpg,cat,train,anna     a path is relative to the folder of the file
    photos/2.jpg,cat|dog,,bert      several labels with | between them; none at all is no label, if others have several

Where a recipe says that numbers are to be learned (`--config.loss=squared_error`), the columns that it names
(`--config.dataset.value_columns=age,weight`, by default `value`) take the place of `label`.

The table has commas, semicolons or tabs between its cells, as its first line says, and is in UTF-8; cells with such a
character or a line break in them are in double quotes, as spreadsheets write them.

Rows of a split are trained on or held out as the folders of splits are (`train`, `val`, `test`, by any usual name).
Without the column, or without rows for validation, one image in five is held out: by groups if there are any (all
images of a patient, a camera, an author are on one side; scikit-learn's StratifiedGroupKFold), otherwise by its path,
as in a folder; a recipe's fold (`folds.Fold`) takes the place of that, of the rows that are not for tests.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from sklearn import model_selection

from experiments.data import folder, folder_files, folds
from experiments.data.folder_files import LeftOut
from experiments.data.folder_splits import purpose_of
from experiments.data.folds import Fold
from experiments.data.readers import ImageFiles, MultiLabelFiles, ValueFiles

SEPARATOR = "|"  # of several labels of one image
NOT_NAMED = "in the folders of the images and not named in the file of labels"
OTHER_SPLIT = "of splits that are neither trained on nor held out"
_DELIMITERS = (",", ";", "\t")
_OPTIONAL = ("split", "group")
_ABOUT_NUMBERS = " Columns of numbers are learned with --config.loss=squared_error --config.dataset.value_columns=NAME."
_NAMED_AT_MOST = 5
_FEW_CLASSES = 20  # numbers of so few images may be names


@dataclasses.dataclass(frozen=True)
class _Row:
    """A row of the table.

    Args:
        line: Its last line, from 1.
        path: Of the image, with the folder of the table.
        labels: Of the image, sorted; none in a table of numbers.
        split: As the table has it; empty without the column.
        group: Likewise.
        numbers: Of the columns that are to be learned.
    """

    line: int
    path: str
    labels: tuple[str, ...]
    split: str
    group: str
    numbers: tuple[float, ...] = ()


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
    rows, has_splits = _rows(path, tuple(value_columns) or ("label",), bool(value_columns))
    repeated = len(rows)
    rows = _each_once(path, rows)
    repeated -= len(rows)
    _refuse_missing(path, rows)
    left_out = _not_named(path, rows)
    reasons = {row: "" if "://" in row.path else folder_files.reason_to_leave_out(row.path) for row in rows}
    left_out += [LeftOut(row.path, reason) for row, reason in reasons.items() if reason]
    rows = [row for row in rows if not reasons[row]]
    multi_label = any(len(row.labels) > 1 for row in rows)
    for row in rows:
        if not (row.labels or multi_label or value_columns):
            raise ValueError(f"{path}, line {row.line}: {row.path} has no label; give it one, or leave the row out.")
    train, held_out, of_others, how = _divide(path, rows, has_splits, train_split, eval_split)
    left_out += [LeftOut(row.path, OTHER_SPLIT) for row in of_others]
    for what, part in (("training", train), ("held-out", held_out)):
        if not part:
            left = f" Left out: {folder_files.count_by_reason(left_out)}." if left_out else ""
            raise FileNotFoundError(f"{path} names no {what} images; ten or more of each class are expected.{left}")
    of_training = {row.split for row in train}  # before some of them were held out
    class_names = value_columns or sorted({label for row in rows if row.split in of_training for label in row.labels})
    unknown = sorted({label for row in held_out for label in row.labels} - set(class_names))
    if unknown:
        raise ValueError(f"{path}: images are held out with labels that no training image has: {_enumerate(unknown)}.")
    own_channels = _channels_of_arrays(path, [row.path for row in (*train, *held_out)], channels)
    to_train, to_hold_out = (_files(part, class_names, multi_label) for part in (train, held_out))
    note = f"{path}: {len({row.path for row in (*train, *held_out)}):,} images, {to_train.count:,} to train on and "
    what = f"the numbers {', '.join(value_columns)}" if value_columns else "one label an image"
    note += f"{to_hold_out.count:,} held out{how}; {'several labels an image' if multi_label else what}"
    note += f"; {repeated:,} rows repeat others" if repeated else ""
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
        return
    if len(class_names) > max(images / 2, _FEW_CLASSES) and all(map(_is_number, class_names)):
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
                f"{path}: none of the images of {_enumerate(lacking)} is {what}. Add images, ten or more a class, or "
                "divide them yourself in a column `split` of train and validation."
            )


def check_split(path: str, train_split: str, split: str) -> None:
    """Refuses a split to evaluate that a table does not have; `read` would hold out others in its place."""
    rows, has_splits = _rows(path, ())
    known = sorted({row.split for row in rows if row.split})
    if split == folder.ALL or split in known or (purpose_of(split) or split) in map(purpose_of, known):
        return
    there = f"the splits in it are {', '.join(known)}" if has_splits else "it has no column `split`"
    raise ValueError(f"{path} has no split {split!r}; {there}, and --split={folder.ALL} takes all images.")


def has_test_images(path: str) -> bool:
    """Whether a table has rows of a split for tests."""
    return any(purpose_of(row.split) == "test" for row in _rows(path, ())[0] if row.split)


def _rows(path: str, wanted: tuple[str, ...], of_numbers: bool = False) -> tuple[list[_Row], bool]:
    """The rows of a table with these columns beside the path, and whether it has a column of splits."""
    needed = ("path", *wanted)
    if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
        raise FileNotFoundError(
            f"There is no file {path!r}; --data=csv:FILE takes a table with columns {_and(needed)}."
        )
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 (byte {error.start}); save it as CSV in UTF-8.") from error
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise ValueError(f"{path} is empty; a first line with the columns {_and(needed)} is expected.")
    delimiter = max(_DELIMITERS, key=first.count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[_Row] = []
    places: dict[str, int] = {}
    try:
        for cells in table:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not places:
                places = _places(path, cells, needed)
                width = len(cells)
                continue
            if len(cells) != width:
                raise ValueError(
                    f"{path}, line {table.line_num}: {len(cells)} cells, where the first line has {width} columns; "
                    "cells with the separator in them are to be in double quotes."
                )
            of_columns = {name: cells[place] for name, place in places.items()}
            rows.append(_row(path, table.line_num, of_columns, wanted, of_numbers))
    except csv.Error as error:
        raise ValueError(f"{path}, line {table.line_num}, cannot be read as a table: {error}.") from error
    if not rows:
        raise ValueError(f"{path} has no row below its first line.")
    if "split" in places and (lacking := [row.line for row in rows if not row.split]):
        if len(lacking) < len(rows):
            raise ValueError(f"{path}, line {lacking[0]}: the column split is empty; say train, validation or test.")
        del places["split"]
    return rows, "split" in places


def _places(path: str, header: Sequence[str], needed: Sequence[str]) -> dict[str, int]:
    """The columns that are read, by name."""
    names = [name.lower() for name in header]
    for name in needed:
        if name.lower() not in names:
            raise ValueError(
                f"{path} has no column {name!r}; its first line has {', '.join(map(repr, header))}, and {_and(needed)} "
                f"are needed.{_ABOUT_NUMBERS if name == 'label' else ''}"
            )
    for name in (*needed, *_OPTIONAL):
        if names.count(name.lower()) > 1:
            raise ValueError(f"{path} has {names.count(name.lower())} columns {name!r}; one is needed.")
    return {name: names.index(name.lower()) for name in (*needed, *_OPTIONAL) if name.lower() in names}


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _row(table: str, line: int, cells: Mapping[str, str], wanted: Sequence[str], of_numbers: bool) -> _Row:
    if not cells["path"]:
        raise ValueError(f"{table}, line {line}: the column path is empty.")
    root, path = _folder_of(table), cells["path"]
    if "://" not in path:
        path = os.path.normpath(path if "://" in root else os.path.join(root, path))
        if "\\" in path and not os.path.exists(path):  # as Windows writes it
            path = os.path.normpath(path.replace("\\", "/"))
        path = path if "://" not in root or path.startswith("/") else f"{root}/{path}"
    row = _Row(line, path, (), cells.get("split", ""), cells.get("group", ""))
    if of_numbers:
        return dataclasses.replace(row, numbers=tuple(_number(table, line, name, cells[name]) for name in wanted))
    labels = {" ".join(label.split()) for name in wanted for label in cells[name].split(SEPARATOR)} - {""}
    return dataclasses.replace(row, labels=tuple(sorted(labels)))


def _number(table: str, line: int, column: str, cell: str) -> float:
    if _is_number(cell) and "," not in cell and math.isfinite(float(cell)):
        return float(cell)
    advice = "write a decimal point and no other mark, as 1234.5" if _is_number(cell) else "or leave the row out"
    said = f"has {cell!r}, which is no number" if cell else "is empty"
    raise ValueError(f"{table}, line {line}: the column {column} {said}; give a finite number, {advice}.")


def _each_once(table: str, rows: Iterable[_Row]) -> list[_Row]:
    """The rows without those that repeat others; refuses two that say different things of one file."""
    found: dict[str, _Row] = {}
    for row in rows:
        other = found.setdefault(row.path, row)
        for what in ("labels", "numbers", "split", "group"):
            mine, theirs = getattr(row, what), getattr(other, what)
            if mine != theirs:
                mine, theirs = (" and ".join(map(str, x)) if isinstance(x, tuple) else x for x in (mine, theirs))
                several = f"; several labels of an image go into one row, as cat{SEPARATOR}dog"
                raise ValueError(
                    f"{table}, lines {other.line} and {row.line}: {row.path} has the {what} {theirs or 'none'!r} and "
                    f"{mine or 'none'!r}{several if what == 'labels' else ''}."
                )
    return list(found.values())


def _refuse_missing(table: str, rows: Sequence[_Row]) -> None:
    local = [row for row in rows if "://" not in row.path]
    missing = [row for row in local if not os.path.lexists(row.path) or os.path.isdir(row.path)]
    if missing:
        raise FileNotFoundError(
            f"{table} names {len(missing):,} of {len(rows):,} files that are not there, or are folders, as "
            f"{_enumerate([f'{row.path} (line {row.line})' for row in missing])}; paths are relative to the folder of "
            "the table."
        )


def _not_named(table: str, rows: Sequence[_Row]) -> list[LeftOut]:
    """Files in the folders of the images that no row names."""
    named = {os.path.abspath(path) for path in (table, *(row.path for row in rows))}
    folders = sorted({os.path.dirname(row.path) or "." for row in rows if "://" not in row.path})
    beside = (f"{place}/{name}" for place in folders for name in sorted(os.listdir(place)))
    return [
        LeftOut(path, NOT_NAMED)
        for path in beside
        if os.path.abspath(path) not in named and not os.path.isdir(path) and not os.path.basename(path).startswith(".")
    ]


def _divide(
    table: str, rows: Sequence[_Row], has_splits: bool, train_split: str, eval_split: str
) -> tuple[list[_Row], list[_Row], list[_Row], str]:
    """Training rows, held-out ones and others, and how they were divided."""
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

    def of_split(split: str, purpose: str) -> list[_Row]:
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
    if not train:
        raise ValueError(
            f"{table} has no split to train on; its column split has {', '.join(sorted(names))}. Call it train."
        )
    if eval_split == folder.ALL:
        return train, list(rows), [], ""
    held_out, how = of_split(eval_split, "validation"), ", as the column split says"
    if not held_out or (held_out == train and train_split != eval_split):
        (train, held_out), how = _hold_out(table, train), _how(train)
    else:
        _refuse_parted(table, train, held_out)
    used = {row.path for row in (*train, *held_out)}
    return train, held_out, [row for row in rows if row.path not in used], how


def _divide_by_fold(table: str, rows: Sequence[_Row], fold: Fold) -> tuple[list[_Row], list[_Row], list[_Row], str]:
    """As `_divide`: the fold is held out of the training images. A group, or a file with links, is on one side."""
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
            f"{table} has fewer than {fold.count} {what} of {_enumerate(few or ['training'])}, one for each fold; add "
            f"{what}, or take fewer folds."
        )
    held_out = set(fold.places([SEPARATOR.join(row.labels) for row in to_divide], groups).tolist())
    parts = [[row for place, row in enumerate(to_divide) if (place in held_out) == side] for side in (False, True)]
    others = [row for row in rows if row.split and purpose_of(row.split) != "train"]
    return parts[0], parts[1], others, f", {fold}{_how(to_divide) if has_groups else ''}"


def _how(rows: Sequence[_Row]) -> str:
    groups = {row.group for row in rows} - {""}
    return f", with none of {len(groups):,} groups in both" if groups else ", by their paths"


def _refuse_parted(table: str, train: Sequence[_Row], held_out: Sequence[_Row]) -> None:
    parted = sorted({row.group for row in train} & {row.group for row in held_out} - {""})
    if parted and train != held_out:
        raise ValueError(
            f"{table}: its column split parts the groups {_enumerate(parted)}, so that the held-out images would not "
            "be new ones; put each group on one side."
        )


def _hold_out(table: str, rows: Sequence[_Row]) -> tuple[list[_Row], list[_Row]]:
    """Parts training images: by groups, if there are any, or by their paths."""
    if not any(row.group for row in rows):
        chosen = [folder.is_held_out(_folder_of(table), _from_table(table, row.path)) for row in rows]
    else:
        chosen = _held_out_groups(table, rows)
    parts = [[row for row, is_chosen in zip(rows, chosen, strict=True) if is_chosen == side] for side in (False, True)]
    return parts[0], parts[1]


def _folder_of(table: str) -> str:
    return table.rpartition("/")[0] or "."


def _from_table(table: str, path: str) -> str:
    """The path by way of the folder of the table: the same behind that, whichever way the table is named."""
    root = _folder_of(table)
    return path if "://" in path else f"{root}/{os.path.relpath(path, root)}"


def _held_out_groups(table: str, rows: Sequence[_Row]) -> list[bool]:
    """Whether each row is of a group that is held out; a row without a group is one of its own."""
    groups = [row.group or f"\n{row.path}" for row in rows]  # no group has a line break
    labels = [SEPARATOR.join(row.labels) for row in rows]
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


def _files(rows: Sequence[_Row], class_names: Sequence[str], multi_label: bool) -> ImageFiles:
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


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _enumerate(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return ", ".join(names[:_NAMED_AT_MOST]) + more
