"""How all charts look: colours that colour-blind readers tell apart, names in any script, labels beside each other."""

from __future__ import annotations

import contextlib
import functools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import matplotlib
from absl import logging
from cycler import cycler
from matplotlib import font_manager

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

# Okabe and Ito's, without yellow, which is pale on white.
BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9"
COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY)
PALE = {BLUE: "#cfe0f3", VERMILLION: "#fde3c8", GREEN: "#d6e9d2"}  # to write on
GREY = "0.4"
SHARES = "Blues"  # from 0 to 1
_FONT = "DejaVu Sans"  # matplotlib's own
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_AROUND = [(4, 3, "left"), (-4, 3, "right"), (4, -9, "left"), (-4, -9, "right"), (0, 6, "center"), (0, -12, "center")]
_FURTHER = [(x, y, side) for y in (14, -20, 25, -31) for x, side in ((0, "center"), (4, "left"), (-4, "right"))]

matplotlib.rcParams.update({"axes.prop_cycle": cycler(color=COLOURS), "font.family": [_FONT]})


@contextlib.contextmanager
def names_in_any_script(names: Iterable[str]) -> Iterator[None]:
    """Within it, texts are drawn as they are, `$` included, in whatever script; letters that no font has are warned of.

    Args:
        names: What is drawn, such as names of classes.
    """
    letters = {letter for name in names for letter in name if letter.isprintable() and not letter.isspace()}
    fonts, missing = _find_fonts(frozenset(letters))
    if missing:
        some = ", ".join(sorted(missing)[:5])
        logging.warning(
            "No font of this machine has %d of the letters in the names (%s): charts show boxes in their place. "
            "Install a font that has them, such as Debian's fonts-noto-cjk or fonts-noto-core.",
            len(missing),
            some,
        )
    with plt.rc_context({"font.family": [_FONT, *fonts], "text.parse_math": False}):
        yield


@functools.lru_cache
def _find_fonts(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Fonts that have some letters between them, matplotlib's own first, and the letters that none has."""
    own = font_manager.findfont(_FONT)
    left = letters - _letters_of(own)
    fonts: list[str] = []
    if left:
        _look_for_new_fonts()
    for entry in sorted(font_manager.fontManager.ttflist, key=_plainness):
        if not left:
            break
        if found := left & _letters_of(entry.fname):
            fonts.append(entry.name)
            left -= found
    return tuple(fonts), left


def _look_for_new_fonts() -> None:
    """Adds fonts that were installed after matplotlib made its list."""
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            try:
                font_manager.fontManager.addfont(path)
            except (OSError, RuntimeError, NotImplementedError, ValueError):
                logging.debug("%s is no font that matplotlib can use.", path)


def _plainness(entry: Any) -> tuple[bool, bool, bool, str]:
    return "sans" not in entry.name.lower(), entry.style != "normal", entry.weight not in (400, "normal"), entry.name


@functools.cache
def _letters_of(path: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, font_manager.get_font(path).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()


def shorten(name: str, longest: int) -> str:
    """A name, cut where it is wider than a label has place.

    Args:
        name: The name.
        longest: Width in Latin letters; Chinese, Japanese and Korean ones count as two.

    Example:
    >>> from experiments.charts import shorten
    >>> shorten("cat", 6), shorten("caterpillar", 6), shorten("猫の画像です", 6)
    ('cat', 'cater…', '猫の…')
    """
    if width(name) <= longest:
        return name
    while width(name) > longest - 1:
        name = name[:-1]
    return name.rstrip() + _ELLIPSIS


def width(text: str) -> int:
    """Width of a text, as `shorten` counts it."""
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text
    )


def label_points(axes: Axes, places: Sequence[tuple[float, float]], texts: Sequence[str], size: float = 7) -> None:
    """Writes a text beside each point, on the first side where it covers no other point or text.

    Where there is no such side, it stands on the first.

    Args:
        axes: With all points, and with its final limits and scales.
        places: Of the points, in data.
        texts: One for each.
        size: Of the font.
    """
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    within = axes.get_window_extent(renderer)
    pixels = axes.transData.transform(list(places))
    taken: list[Any] = [Bbox.from_extents(x - 3, y - 3, x + 3, y + 3) for x, y in pixels]
    for place, text in zip(places, texts, strict=True):
        for x, y, side in (*_AROUND, *_FURTHER):
            label = axes.annotate(text, place, (x, y), textcoords="offset points", fontsize=size, ha=side)
            box = label.get_window_extent(renderer)
            fits = box.x0 >= within.x0 and box.x1 <= within.x1 and box.y0 >= within.y0 and box.y1 <= within.y1
            if fits and not any(box.overlaps(other) for other in taken):
                break
            label.remove()
        else:
            x, y, side = _AROUND[0]
            axes.annotate(text, place, (x, y), textcoords="offset points", fontsize=size, ha=side)
        taken.append(box)
