"""The recipe on the command line: `--config` and the fields that `--config.FIELD=VALUE` overrides.

`ml_collections` defines these flags, but says of a wrong field only that there is none, in a traceback.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from experiments import path_flags, sizes
from experiments.recipes.base import RecipeError

flags.disclaim_key_flags()  # what is defined here belongs to the program, whose --help lists it
_RECIPES = Path(__file__).parent / "recipes"
# Fields that are paths, or can be.
_PATHS = ("init_from", "teacher", "dataset.name", "dataset.data_dir", "dataset.manual_dir")
_SIZE = "image_size"
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}
_TRUTHS = ("true", "t", "1", "false", "f", "0")  # as absl has them


def define_file(required: bool) -> None:
    """Defines `--config`, a file with a recipe.

    Args:
        required: Whether the program cannot do without.
    """
    config_flags.DEFINE_config_file("config", None, "The recipe, a file of experiments/recipes or your own.")
    flags.FLAGS["config"].parser = _RecipeParser(flags.FLAGS["config"].parser)
    if required:
        flags.mark_flag_as_required("config")


def define_start() -> None:
    """Defines what is often given beside a recipe: `--data`, `--init_from` and `--reset_head`."""
    path_flags.define("data", None, "Dataset in place of the recipe's: tfds:NAME, folder:PATH or csv:FILE.")
    path_flags.define(
        "init_from", None, "Weights to begin with: folder of a finished run, .keras, .weights.h5, or a name."
    )
    flags.DEFINE_bool("reset_head", False, "Begin with a new classifier, for other classes than --init_from's.")


def define_fields(config: ml_collections.ConfigDict) -> None:
    """Defines the fields of a recipe that has no file; ends the program if the command line has a wrong one."""
    try:
        check_overrides(config, sys.argv[1:])
        config_flags.DEFINE_config_dict("config", config, "Fields of the recipe to override.")
    except flags.Error as error:  # absl reads the command line later
        raise SystemExit(f"FATAL Flags parsing error: {error}") from error


def overrides() -> dict[str, Any]:
    """The fields that the command line overrides, by name, as recipes have them: paths are expanded, sizes numbers."""
    values = config_flags.get_override_values(flags.FLAGS["config"])
    return {name: _as_in_recipes(name, value) for name, value in values.items()}


def recipe() -> ml_collections.ConfigDict:
    """The recipe of the command line, with all overrides, and what the flags of `define_start` say."""
    config = flags.FLAGS.config
    config.update_from_flattened_dict(overrides())
    if "reset_head" not in flags.FLAGS:
        return config
    config.dataset.name = flags.FLAGS.data or config.dataset.name
    config.init_from = flags.FLAGS.init_from or config.init_from
    config.reset_head = flags.FLAGS.reset_head or config.reset_head
    return config


def check_overrides(config: ml_collections.ConfigDict, arguments: Sequence[str]) -> None:
    """Refuses what no recipe could take.

    Args:
        config: The recipe.
        arguments: The command line without the program's name.

    Raises:
        RecipeError: If a field is unknown, or its value is of another kind; a sentence with the nearest fields.
    """
    fields = _fields(config)
    for index, argument in enumerate(arguments):
        if argument == "--":
            return
        found = re.fullmatch(r"--?(?:no)?config\.([^=]*)(?:=(.*))?", argument, re.DOTALL)
        if found is None:
            _check_is_no_field(argument, fields)
            continue
        name, value = found.groups()
        if value is None and name == _SIZE:  # to `ml_collections` the value could be a truth, which needs none
            raise RecipeError(f"--config.{_SIZE} takes its value behind a =, as --config.{_SIZE}=288x512.")
        if value is None and fields.get(name) is not bool:  # which is true without a value
            value = arguments[index + 1] if index + 1 < len(arguments) else None
        _check_field(fields, name, value)


class _RecipeParser(flags.ArgumentParser):
    """Loads a file as `ml_collections` does, and refuses what is wrong on the command line beside it."""

    def __init__(self, loader: flags.ArgumentParser) -> None:
        self._loader = loader

    def parse(self, path: str) -> ml_collections.ConfigDict:
        file, colon, variant = path_flags.expand(path).partition(":")
        if not os.path.isfile(file):
            near = difflib.get_close_matches(os.path.basename(file), [name.name for name in _RECIPES.glob("*.py")], n=1)
            advice = f"; experiments/recipes has {' and '.join(near)}" if near else ""
            raise RecipeError(f"--config={path}: there is no file {file}{advice}.")
        config = self._loader.parse(f"{file}{colon}{variant}")
        check_overrides(config, sys.argv[1:])
        return config


def _fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The types of all fields by their names, such as `optimizer.learning_rate`."""
    fields: dict[str, Any] = {}
    for name in config:
        if config.get_type(name) is ml_collections.ConfigDict:
            fields |= {f"{name}.{inner}": kind for inner, kind in _fields(config[name]).items()}
        else:
            fields[name] = config.get_type(name)
    return fields


def _check_field(fields: Mapping[str, Any], name: str, value: str | None) -> None:
    inside = [field for field in fields if field.startswith(f"{name}.")]
    if inside:
        raise RecipeError(f"config.{name} is a group of fields: give them one by one, as --config.{inside[0]}=VALUE.")
    if name not in fields:
        raise RecipeError(f"The recipe has no field {name!r}{_advice(name, fields)}.")
    if name == _SIZE and value is not None:
        try:
            sizes.parse(value)
        except ValueError as error:
            raise RecipeError(f"--config.{name}={value}: {error}") from error
    kind = fields[name]
    if kind in _KINDS and value is not None and not _is_a(kind, value):
        raise RecipeError(f"--config.{name}={value}: the field takes {_KINDS[kind]}.")


def _check_is_no_field(argument: str, fields: Mapping[str, Any]) -> None:
    """Refuses a flag that there is not, if a field has its name."""
    found = re.match(r"--?(?:no)?([\w.]+)", argument)
    if found and found[1] not in flags.FLAGS:
        same = [field for field in fields if field.endswith(f".{found[1]}") or field == found[1]]
        if same:
            raise RecipeError(f"There is no flag --{found[1]}; the recipe's field is set by --config.{same[0]}=VALUE.")


def _is_a(kind: type, value: str) -> bool:
    if kind is bool:
        return value.lower() in _TRUTHS
    try:
        kind(value)
    except ValueError:
        return False
    return True


def _advice(name: str, fields: Mapping[str, Any]) -> str:
    """The nearest fields: of the same last name, or else alike."""
    group, _, last = name.rpartition(".")
    same = [field for field in fields if field.rpartition(".")[2] == last]
    by_last: dict[str, list[str]] = {}
    for field in fields:
        by_last.setdefault(field.rpartition(".")[2], []).append(field)
    alike = [f for near in difflib.get_close_matches(last, by_last, n=3, cutoff=0.6) for f in by_last[near]]
    initials = [f for f in fields if "".join(word[0] for word in f.rpartition(".")[2].split("_")) == last]  # lr
    initials = [f for f in initials if f.startswith(f"{group}.")] or initials
    near = same or list(dict.fromkeys([*initials, *alike]))[:3] or difflib.get_close_matches(name, fields, n=3)
    if not near:
        return f"; it has {', '.join(fields)}"
    return f"; near it {'are' if len(near) > 1 else 'is'} {', '.join(near)}"


def _as_in_recipes(name: str, value: Any) -> Any:
    if name == _SIZE:
        height, width = sizes.parse(value)
        return height if height == width else (height, width)
    return path_flags.expand(value) if name in _PATHS and value else value
