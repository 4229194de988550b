"""Height and width of images, as recipes and flags say them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from absl import flags

if TYPE_CHECKING:  # export and serving do without
    import ml_collections

flags.disclaim_key_flags()  # what is defined here belongs to the program, whose --help lists it

Size = tuple[int, int]  # height, width
WAYS = "a whole number, such as 288, or a height and a width, such as 288x512"


def parse(value: Any) -> Size:
    """Height and width of what stands for them.

    Args:
        value: One number for a square, or two: as numbers, or as text of a command line.

    Raises:
        ValueError: If it is something else.

    >>> parse(288), parse((288, 512)), parse("288x512"), parse("288,512"), parse("(288, 512)")
    ((288, 288), (288, 512), (288, 512), (288, 512), (288, 512))
    """
    sides: Any = value
    if isinstance(value, str):
        sides = [int(side) for side in re.split("[x,]", value.strip("()[] ")) if side.strip().isdecimal()]
        sides = sides if len(sides) == 1 + len(re.findall("[x,]", value)) else ()
    elif not isinstance(value, list | tuple):
        sides = (value,)
    if len(sides) not in (1, 2) or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"the size of images is {WAYS}; got {value!r}.")
    return sides[0], sides[-1]


def of(config: ml_collections.ConfigDict) -> Size:
    """Height and width of a recipe's images."""
    return parse(config.image_size)


def describe(size: Size) -> str:
    """For people, as `288 x 512`."""
    return f"{size[0]} x {size[1]}"


class _SizeParser(flags.ArgumentParser[Size]):
    """Parses by `parse`."""

    syntactic_help = WAYS

    def parse(self, argument: Any) -> Size:
        return parse(argument)


def define(name: str, help_string: str) -> None:
    """Defines a flag that takes a size; its value is a `Size`, or `None` without one."""
    flags.DEFINE(_SizeParser(), name, None, f"{help_string}: {WAYS}.", serializer=flags.ArgumentSerializer())
