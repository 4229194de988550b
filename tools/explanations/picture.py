"""The picture of what a model looks at: a row for each image, and below them the tables of relative attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from experiments import charts
from experiments.report import picture_of
from tools.explanations import maps

TOP = 5  # classes that are named
TABLES = 4  # heads whose tables are drawn if none are chosen
PANEL, TABLE, DPI = 2.3, 1.9, 90  # inches of an image and of a table, and pixels per inch
HEAT, HEAT_ALPHA = "inferno", 0.55
PALEST = (-128, 383)  # what is black and what is white of the image under a map
CAPTION = {"size": 9, "x": 0.01, "ha": "left"}
TIMES = "\N{MULTIPLICATION SIGN}"
LONGEST = 26  # characters of a name in a title
ABOUT_GRAD_CAM = "Grad-CAM, brighter: what the stage found there speaks for the class (of the blue bar)."
ABOUT_ROLLOUT = (
    "Attention rollout, brighter: {seen} took more from there, through all Transformer blocks, mean of {heads}."
)
ABOUT_TABLES = """Learned relative bias: what a head adds to attention by relative place, whatever the image shows.
The centre is the place that attends; red: it attends more to what lies so many rows and columns away, blue: less."""


@dataclasses.dataclass(frozen=True)
class Explained:
    """One image and what was found: the index of the explained class, a Grad-CAM map per stage, and the rollout."""

    title: str
    image: np.ndarray
    probabilities: np.ndarray
    target: int
    maps: list[np.ndarray]
    rollout: np.ndarray | None


def short_name(name: str) -> str:
    """The name, cut where it is too long for a title."""
    return charts.shorten(name, LONGEST)


def draw_explanations(
    model: keras.Model,
    names: Sequence[str],
    explained: Sequence[Explained],
    stages: Sequence[str] = (),
    heads: Sequence[int] = (),
    position: Sequence[int] = (),
) -> Figure:
    """Draws one row for each image, and below them the tables of relative attention.

    Args:
        model: The model.
        names: Names of its classes.
        explained: The images and what was found.
        stages: Stages of the Grad-CAM maps.
        heads: Heads of the rollout, and whose tables are drawn; the mean of all, and the first few, if there are none.
        position: (row, column) from which the rollout is seen; none for the mean of all.
    """
    with charts.names_in_any_script([*names, *(one.title for one in explained)]):
        blocks = maps.transformers_of(model)
        tables = maps.bias_tables(model)
        most_heads = max((len(table) for table in tables.values()), default=0)
        of_tables = heads or range(min(TABLES, most_heads))
        columns = 2 + len(stages) + bool(blocks)
        upper = PANEL * len(explained) + 1.2
        lower = TABLE * len(tables) + 1.2 if tables else 0.4
        figure = Figure(
            figsize=(PANEL * max(columns, len(of_tables) + 1), upper + lower), facecolor="white", layout="constrained"
        )
        subfigures: Any = figure.subfigures(2, 1, height_ratios=(upper, lower))
        above, below = subfigures
        grid = above.subplots(len(explained), columns, squeeze=False)
        for row, one in zip(grid, explained, strict=True):
            _draw_image(row[0], picture_of(one.image), one.title)
            _draw_classes(row[1], one, names)
            for axes, name, found in zip(row[2:], stages, one.maps, strict=False):
                _draw_grad_cam(axes, one.image, name, found, names[one.target])
            if one.rollout is not None:
                _draw_rollout(row[-1], one.image, one.rollout, blocks[-1].output.shape[1:3], position)
        about = [ABOUT_GRAD_CAM]
        if blocks:
            seen = "the positions on average" if not position else "the framed position"
            chosen = f"heads {', '.join(map(str, heads))}" if heads else "all heads"
            about.append(ABOUT_ROLLOUT.format(seen=seen, heads=chosen))
        above.suptitle("\n".join(about), **CAPTION)
        if tables:
            _draw_tables(below, tables, of_tables, places=max(columns - 1, len(of_tables)))
            left_out = most_heads > TABLES and not heads
            note = f" Of each block the first {TABLES} heads; --heads chooses others." if left_out else ""
            below.suptitle(ABOUT_TABLES + note, **CAPTION)
        else:
            why = "relative_attention=False" if blocks else "no Transformer block"
            below.suptitle(f"This model has no table of relative attention: {why}.", **CAPTION)
    return figure


def _draw_image(axes: Axes, image: np.ndarray, title: str, lowest: float = 0, highest: float = 255) -> None:
    axes.imshow(image, cmap="gray", vmin=lowest, vmax=highest)
    axes.set_title(title, size=8)
    axes.set_axis_off()


def _draw_classes(axes: Axes, one: Explained, names: Sequence[str]) -> None:
    """Bars of the most probable classes, best on top; the explained one is blue, and always among them."""
    best = np.argsort(-one.probabilities, kind="stable")[:TOP]
    if one.target not in best:
        best[-1] = one.target
    bars = axes.barh(range(len(best)), one.probabilities[best], color="#c8c8c8")
    for index, bar in zip(best, bars, strict=True):
        words = f"{short_name(names[index])}  {one.probabilities[index]:.1%}"
        axes.text(0.03, bar.get_y() + bar.get_height() / 2, words, size=8, va="center")
        if index == one.target:
            bar.set_color("#8fb8de")
    axes.set(xlim=(0, 1), ylim=(TOP - 0.5, -0.5), yticks=[], xticks=[0, 0.5, 1])
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"predicted: {short_name(names[best[0]])}\n(with probability)", size=8)


def heat_over(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A map over an image as `draw_explanations` draws it, without a figure.

    Args:
        image: `[height, width, channels]` in [0, 255].
        heat: `[rows, columns]`, at least 0.

    Returns:
        uint8 `[height, width, 3]`.
    """
    grey = np.atleast_3d(picture_of(image)).mean(axis=-1, keepdims=True)
    smooth = tf.image.resize(heat[..., None], image.shape[:2])[..., 0].numpy()
    colours = colormaps[HEAT](smooth / max(float(smooth.max()), float(np.finfo("float32").tiny)))[..., :3]
    return np.round(HEAT_ALPHA * 255 * colours + (1 - HEAT_ALPHA) * (grey - PALEST[0]) * 255 / np.ptp(PALEST)).astype(
        "uint8"
    )


def _draw_heat(axes: Axes, image: np.ndarray, heat: np.ndarray, lowest: float, title: str) -> None:
    """A map, resized bilinearly, over the image in pale grey, so that heat looks alike on black and on white."""
    _draw_image(axes, np.atleast_3d(picture_of(image)).mean(axis=-1), title, *PALEST)
    smooth = tf.image.resize(heat[..., None], image.shape[:2])[..., 0].numpy()
    highest = max(float(smooth.max()), lowest + float(np.finfo("float32").tiny))
    axes.imshow(smooth, cmap=HEAT, alpha=HEAT_ALPHA, vmin=lowest, vmax=highest)


def _draw_grad_cam(axes: Axes, image: np.ndarray, stage: str, found: np.ndarray, name: str) -> None:
    rows, columns = found.shape
    title = f"Grad-CAM of {stage.upper()} ({rows} {TIMES} {columns})\nfor {short_name(name)}"
    _draw_heat(axes, image, found, 0.0, title + (": nothing speaks for it" if not found.any() else ""))


def _draw_rollout(
    axes: Axes, image: np.ndarray, rollout: np.ndarray, grid: tuple[int, int], position: Sequence[int]
) -> None:
    rows, columns = rollout.shape
    shares = rollout * rollout.size
    title = (
        f"Attention rollout ({rows} {TIMES} {columns})\n{shares.min():.1f} to {shares.max():.1f} times an equal share"
    )
    _draw_heat(axes, image, shares, float(shares.min()), title)
    if position:
        height, width = (size / cells for size, cells in zip(image.shape[:2], grid, strict=True))
        corner = position[1] * width - 0.5, position[0] * height - 0.5
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="cyan", linewidth=2))


def _draw_tables(figure: SubFigure, tables: dict[str, np.ndarray], heads: Sequence[int], places: int) -> None:
    """One row for each block and one column for each head; the colours of a row share a scale, centred at 0."""
    grid = figure.subplots(len(tables), places, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, (block, table) in zip(grid, tables.items(), strict=True):
        down, right = (size // 2 for size in table.shape[1:])
        extent = (-right - 0.5, right + 0.5, down + 0.5, -down - 0.5)
        norm = CenteredNorm(halfrange=float(np.abs(table).max()))
        for axes, head in zip(row, [head for head in heads if head < len(table)], strict=False):
            axes.set_axis_on()
            axes.imshow(table[head], cmap="RdBu_r", norm=norm, extent=extent)
            axes.set_title(f"{block}, head {head}", size=8)
            axes.set_xlabel("columns to the right, j' - j", size=7)
            axes.set_ylabel("rows down, i' - i", size=7)
            axes.tick_params(labelsize=7)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(7, integer=True))
        scale = figure.colorbar(row[0].images[0], ax=list(row), shrink=0.8)
        scale.set_label("added to the logit", size=7)
        scale.ax.tick_params(labelsize=7)
