"""Paths on the command line: one kind of flag for all programs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from absl import flags

flags.disclaim_key_flags()  # what is defined here belongs to the program, whose --help lists it

_PREFIXES = ("folder:", "csv:")  # of a dataset
_WRITTEN = (".csv", ".png")  # what programs write where they are told to, again and again


def expand(path: str) -> str:
    """A path, or something that can be one, as a program takes it.

    `~` becomes the home directory, which the shell leaves to programs behind a `=`; slashes at the end go, as they make
    no difference. A dataset's name keeps its `folder:` or `csv:`; names and addresses such as `gs://bucket` stay as
    they are.

    Raises:
        ValueError: If it is empty, or the home directory of nobody.

    >>> expand("runs/mine/"), expand("folder:/data/my flowers/"), expand("tfds:digits"), expand("/")
    ('runs/mine', 'folder:/data/my flowers', 'tfds:digits', '/')
    """
    prefix = next(filter(path.startswith, _PREFIXES), "")
    path = path.removeprefix(prefix)
    if not path.strip(" "):
        raise ValueError("a path is expected, and there is none; leave the flag out for its default.")
    expanded = os.path.expanduser(path)
    if expanded.startswith("~") and not os.path.exists(expanded.partition("/")[0]):
        raise ValueError(f"there is no user {expanded.partition('/')[0][1:]!r} whose home directory it could be.")
    return prefix + (expanded.rstrip("/") or "/")


class _PathParser(flags.ArgumentParser[str]):
    """Parses by `expand`."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        return expand(argument)


def refuse_overwriting(outputs: Mapping[str, Path | None], inputs: Iterable[Path | None]) -> None:
    """Refuses to write over what is read, or over another output.

    Args:
        outputs: Files to write by the names of their flags; `None` for none.
        inputs: Files to read; `None` for none. Of a folder no file but tables and pictures is to be written over.

    Raises:
        ValueError: If two are the same file.
    """
    taken: dict[str, str] = {}
    for read in filter(None, inputs):
        files = [file for file in read.iterdir() if file.suffix not in _WRITTEN] if read.is_dir() else [read]
        taken |= {os.path.realpath(file): f"{file} is read" for file in files}
    for flag, path in outputs.items():
        if path is None:
            continue
        if why := taken.get(os.path.realpath(path)):
            raise ValueError(f"--{flag}={path} would be written over: {why}; give another file.")
        taken[os.path.realpath(path)] = f"--{flag} writes it too"


def define(name: str, default: str | None, help_string: str) -> None:
    """Defines a flag that takes a path, or a dataset; its value is a string, or `None` without a default."""
    flags.DEFINE(_PathParser(), name, default, help_string, serializer=flags.ArgumentSerializer())


def define_several(name: str, help_string: str) -> None:
    """Defines a flag that takes a path and can be given several times; its value is a list, or `None`."""
    flags.DEFINE_multi(_PathParser(), flags.ArgumentSerializer(), name, None, help_string)
