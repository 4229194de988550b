"""The rows of a file of labels, a table with a row for each image, and one sentence for what is wrong with it.

    path,label,split,group          the columns `split` and `group` can be missing, and others be there
    photos/1.jpg,cat,train,anna     a path is relative to the folder of the file
    photos/2.jpg,cat|dog,,bert      several labels with | between them; none at all is no label, if others have several

Where a recipe says that numbers are to be learned (`--config.loss=squared_error`), the columns that it names
(`--config.dataset.value_columns=age,weight`, by default `value`) take the place of `label`.

The table has commas, semicolons or tabs between its cells, as its first line says, and is in UTF-8; cells with such a
character or a line break in them are in double quotes, as spreadsheets write them.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import string
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import tensorflow as tf

from coatnet_tf.weights.keras_file import enumerate_names

SEPARATOR = "|"  # of several labels of one image
_DELIMITERS = (",", ";", "\t")
_OPTIONAL = ("split", "group")
_ABOUT_NUMBERS = " Columns of numbers are learned with --config.loss=squared_error --config.dataset.value_columns=NAME."


@dataclasses.dataclass(frozen=True)
class Row:
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


def read_rows(path: str, wanted: tuple[str, ...], of_numbers: bool = False) -> tuple[list[Row], bool]:
    """Reads a table.

    Args:
        path: The file; also on object storage.
        wanted: Columns beside the path.
        of_numbers: Whether these have numbers in place of labels.

    Returns:
        Its rows, and whether it has a column of splits with something in it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such table; the message has the line.
    """
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
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    rows: list[Row] = []
    places: dict[str, int] = {}
    try:
        for cells in table:
            written, cells = cells, [_plain(cell) for cell in cells]
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
            place = _find(folder_of(path), written[places["path"]]) if of_columns["path"] else ""
            rows.append(_row(path, table.line_num, of_columns | {"path": place}, wanted, of_numbers))
    except csv.Error as error:
        raise ValueError(f"{path}, line {table.line_num}, cannot be read as a table: {error}.") from error
    if not rows:
        raise ValueError(f"{path} has no row below its first line.")
    if "split" in places and (lacking := [row.line for row in rows if not row.split]):
        if len(lacking) < len(rows):
            raise ValueError(f"{path}, line {lacking[0]}: the column split is empty; say train, validation or test.")
        del places["split"]
    return rows, "split" in places


def _plain(cell: str) -> str:
    """A cell without what nobody sees: accents in one way, and no spaces and marks of width 0 around it."""
    invisible = {character for character in cell if unicodedata.category(character) == "Cf"}
    return unicodedata.normalize("NFC", cell.strip("".join(invisible) + string.whitespace).strip())


def look_alike(labels: Iterable[str]) -> list[tuple[str, ...]]:
    """Labels that differ in case, in how accents or numbers are written alone, as they may be meant to be one."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        word = unicodedata.normalize("NFC", " ".join(label.casefold().split()))
        same = repr(float(label.replace(",", "."))) if is_number(label) else word
        groups.setdefault(same, []).append(label)
    return [tuple(group) for group in groups.values() if len(group) > 1]


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


def _row(table: str, line: int, cells: Mapping[str, str], wanted: Sequence[str], of_numbers: bool) -> Row:
    if not cells["path"]:
        raise ValueError(f"{table}, line {line}: the column path is empty.")
    row = Row(line, cells["path"], (), cells.get("split", ""), cells.get("group", ""))
    if of_numbers:
        return dataclasses.replace(row, numbers=tuple(_number(table, line, name, cells[name]) for name in wanted))
    labels = {" ".join(label.split()) for name in wanted for label in cells[name].split(SEPARATOR)} - {""}
    return dataclasses.replace(row, labels=tuple(sorted(labels)))


def _find(root: str, cell: str) -> str:
    """The path that a cell says: as it is written if there is such a file, else as `_plain` and Windows have it."""
    if "://" in cell:
        return _plain(cell)
    written = [cell, _plain(cell), cell.replace("\\", "/"), _plain(cell).replace("\\", "/")]
    paths = [os.path.normpath(path if "://" in root else os.path.join(root, path)) for path in written]
    path = next(filter(os.path.exists, paths), paths[3] if "\\" in cell else paths[1])
    return path if "://" not in root or path.startswith("/") else f"{root}/{path}"


def _number(table: str, line: int, column: str, cell: str) -> float:
    if is_number(cell) and "," not in cell and math.isfinite(float(cell)):
        return float(cell)
    advice = "write a decimal point and no other mark, as 1234.5" if is_number(cell) else "or leave the row out"
    said = f"has {cell!r}, which is no number" if cell else "is empty"
    raise ValueError(f"{table}, line {line}: the column {column} {said}; give a finite number, {advice}.")


def each_once(table: str, rows: Iterable[Row]) -> list[Row]:
    """The rows without those that repeat others; refuses two that say different things of one file."""
    found: dict[str, Row] = {}
    for row in rows:
        other = found.setdefault(row.path if "://" in row.path else os.path.abspath(row.path), row)
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


def refuse_missing(table: str, rows: Sequence[Row]) -> None:
    """Refuses a table that names files which are not there."""
    if web := [row for row in rows if row.path.startswith(("http://", "https://"))]:
        raise ValueError(
            f"{table} names {len(web):,} addresses of the web, as {web[0].path} (line {web[0].line}), which are not "
            "fetched: download the images, and name the files."
        )
    local = [row for row in rows if "://" not in row.path]
    missing = [row for row in local if not os.path.lexists(row.path) or os.path.isdir(row.path)]
    if missing:
        named = enumerate_names([f"{row.path} (line {row.line})" for row in missing])
        raise FileNotFoundError(
            f"{table} names {len(missing):,} of {len(rows):,} files that are not there, or are folders, as {named}; "
            "paths are relative to the folder of the table."
        )


def folder_of(table: str) -> str:
    """That of the table; `.` of one beside."""
    return table.rpartition("/")[0] or "."


def is_number(text: str) -> bool:
    """Whether a cell is a number, with a decimal point or comma."""
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True
