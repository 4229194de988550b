"""Draws the architecture of a CoAtNet from its configuration: the stages with their costs, and both blocks.

    python -m tools.paper.draw_architecture --model=coatnet-0 --size=224 --output=docs/architecture.png

Every size is read from the configuration, its unbuilt layers or `coatnet_tf.profile`; nothing is allocated.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from absl import app, flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

import coatnet_tf
from coatnet_tf.builder import DEFAULT_SIZE
from coatnet_tf.layers import MBConv, TransformerBlock
from experiments import charts, command_line, path_flags

CLASSES = 1000  # of ImageNet-1K, for which the paper counts its parameters
WIDTH, HEIGHT, DPI = 160, 112, 120  # of the page, in tenths of an inch; a character of 12 pt is about one wide
TALLEST, SHORTEST, PANEL = 23, 13, 24  # heights of the top row's boxes and of the frame around a block
IMAGE, GAP = 13, 4.8  # width of the image's box, and from each box to the next
FILL = {
    "conv": charts.PALE[charts.VERMILLION],
    "transformer": charts.PALE[charts.BLUE],
    "other": "#eeeeee",
    "plain": "#ffffff",
}
EDGE = {"conv": charts.VERMILLION, "transformer": charts.BLUE, "other": "#7a7a7a", "plain": "#7a7a7a"}
INK, FAINT, TIMES = "#222222", "#666666", "\N{MULTIPLICATION SIGN}"
ROUND = "round,pad=0,rounding_size=0.8"
CAPTION = """L: number of blocks (of convolutions in S0); D: width; resolution: after the stage. \
Taller boxes have a higher resolution; bars are shares of the whole model.
Both blocks as they begin a stage, from width C to D; the others have stride 1. \
Dashed: only where a block halves the resolution (MaxPool) or changes the width (Proj)."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One run of blocks in the top row; `lines` stand in its box, `side` is the resolution after it."""

    stage: str
    lines: tuple[str, ...]
    hue: str
    side: int
    cost: coatnet_tf.Cost


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation of a block; `optional` ones, drawn dashed, are not in every block."""

    lines: tuple[str, ...]
    width: float
    hue: str = "plain"
    optional: bool = False


ADD = Op((), 3)  # drawn as a plus in a circle


def columns_of(config: coatnet_tf.CoAtNetConfig, size: int) -> tuple[list[Column], coatnet_tf.CostReport]:
    """The stem, each run of blocks and the head for images of this size, with the costs of the whole model."""
    config.check_input_shape((size, size, 3))  # here, where stages still have the names that its message tells
    # profile adds up runs of one stage name (S3 of CoAtNet-6 and -7); under names of their own they stay apart.
    runs = tuple(dataclasses.replace(stage, name=f"run{i}") for i, stage in enumerate(config.stages))
    report = coatnet_tf.profile(dataclasses.replace(config, stages=runs), (size, size, 3), classes=CLASSES)
    stem, head_size = config.stem, config.transformer.attention.head_size
    side = size // stem.stem_stride
    lines: tuple[str, ...] = (
        f"Conv {stem.stem_kernel_size}{TIMES}{stem.stem_kernel_size}",
        f"L = {stem.stem_depth}",
        f"D = {stem.stem_width}",
    )
    columns = [Column("S0", lines, "other", side, report.stages["stem"])]
    for stage, run in zip(config.stages, runs, strict=True):
        side //= stage.stride
        lines, hue = ("MBConv", f"L = {stage.depth}", f"D = {stage.width}"), "conv"
        if stage.block == "transformer":
            heads = stage.width // head_size
            lines, hue = ("Transformer", *lines[1:], f"{heads} heads of {head_size}"), "transformer"
        columns.append(Column(stage.name.upper(), lines, hue, side, report.stages[run.name]))
    lines = ("Avg pool", "LayerNorm", f"Dense {config.stages[-1].width}, tanh", f"Dense {CLASSES}")
    return [*columns, Column("Head", lines, "other", 1, report.stages["head"])], report


def short(count: int) -> str:
    """Three digits of a count.

    Example:
    >>> from tools.paper.draw_architecture import short
    >>> short(25_043_304), short(4_140)
    ('25.0 M', '4.14 K')
    """
    value, unit = next((count / n, unit) for n, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K"), (1, "")) if count >= n)
    return f"{value:.{2 - (value >= 9.995) - (value >= 99.95)}f} {unit}"


def text(ax: Axes, x: float, y: float, words: str, size: float = 12, **style: Any) -> None:
    ax.text(x, y, words, **{"size": size, "color": INK, "ha": "center", "va": "center", **style})


def line(ax: Axes, *points: tuple[float, float], color: str = INK) -> None:
    ax.plot(*zip(*points, strict=True), color=color, linewidth=1.3, zorder=0)


def arrow(ax: Axes, *points: tuple[float, float]) -> None:
    """A line through the points with a head at the last."""
    line(ax, *points)
    style = {"arrowstyle": "-|>,head_length=0.5,head_width=0.22", "color": INK, "linewidth": 1.3}
    ax.annotate("", points[-1], points[-2], arrowprops={**style, "shrinkA": 0, "shrinkB": 0})


def box(ax: Axes, x: float, y: float, op: Op, height: float, fill: str = "") -> None:
    """A rounded box around the centre (x, y); the first of several lines is bold."""
    patch = FancyBboxPatch((x - op.width / 2, y - height / 2), op.width, height, boxstyle=ROUND, linewidth=1.4)
    patch.set(facecolor=fill or FILL[op.hue], edgecolor=EDGE[op.hue], linestyle="--" if op.optional else "-")
    ax.add_patch(patch)
    for i, words in enumerate(op.lines):
        weight = "bold" if i == 0 and len(op.lines) > 1 else "normal"
        text(ax, x, y + 2.5 * ((len(op.lines) - 1) / 2 - i), words, 11.5, weight=weight)


def share_bar(ax: Axes, x: float, y: float, width: float, hue: str, count: int, total: int) -> None:
    """A count and its share of the total, in words and as a bar around the centre x."""
    share = count / total
    text(ax, x, y, f"{short(count)} · " + (f"{share:.1%}" if share >= 0.001 else "<0.1%"), 11.5)
    for filled, color in ((1, "#f0f0f0"), (share, EDGE[hue])):
        ax.add_patch(Rectangle((x - width / 2, y - 2.6), width * filled, 0.9, facecolor=color, linewidth=0))


def draw_stages(ax: Axes, top: float, columns: list[Column], report: coatnet_tf.CostReport) -> None:
    """Image, stages and head from left to right, under their names; resolution and costs below."""
    size, y, table = report.input_shape[0], top - 16.5, top - 31.5
    box(ax, 1 + IMAGE / 2, y, Op(("Image", f"{size} {TIMES} {size}", f"{TIMES} 3"), IMAGE, "other"), TALLEST)
    pitch = (WIDTH - 2 - IMAGE) / len(columns)
    width = pitch - GAP
    centres: dict[str, list[float]] = {}
    for i, column in enumerate(columns):
        x = 1 + IMAGE + pitch * (i + 1) - width / 2
        arrow(ax, (x - width / 2 - GAP, y), (x - width / 2, y))
        box(ax, x, y, Op(column.lines, width, column.hue), max(SHORTEST, TALLEST - 1.6 * math.log2(size / column.side)))
        text(ax, x, table, f"{column.side} {TIMES} {column.side}")
        share_bar(ax, x, table - 4.2, width, column.hue, column.cost.params, report.params)
        share_bar(ax, x, table - 10.2, width, column.hue, column.cost.macs, report.macs)
        centres.setdefault(column.stage, []).append(x)
    for below, words in ((0, "Resolution"), (4.2, "Parameters"), (10.2, "MACs")):
        text(ax, 1, table - below, words, color=FAINT, ha="left")
    for stage, xs in centres.items():
        left, right, y = xs[0] - width / 2, xs[-1] + width / 2, top - 2.5
        line(ax, (left, y - 0.8), (left, y), (right, y), (right, y - 0.8), color=FAINT)
        text(ax, (left + right) / 2, top - 0.6, stage, 14, weight="bold")


def draw_chain(ax: Axes, start: float, end: float, y: float, ops: list[Op], height: float) -> list[float]:
    """Operations from left to right, evenly spaced, with an arrow to each; returns their centres."""
    gap = (end - start - sum(op.width for op in ops)) / (len(ops) + 1)
    centres, left = [], start
    for op in ops:
        x = left + gap + op.width / 2
        arrow(ax, (left, y), (left + gap, y))
        if op is ADD:
            ax.add_patch(Circle((x, y), op.width / 2, facecolor="white", edgecolor=INK, linewidth=1.3))
            ax.plot([x, x], [y - 0.8, y + 0.8], [x - 0.8, x + 0.8], [y, y], color=INK, linewidth=1.3)
        else:
            box(ax, x, y, op, height)
        centres.append(x)
        left = x + op.width / 2
    return centres


def draw_block(ax: Axes, top: float, title: str, hue: str, stride: int, ops: list[Op]) -> list[float]:
    """A block that halves the resolution; returns the centres of the operations of its residual branches."""
    box(ax, WIDTH / 2, top - PANEL / 2, Op((), WIDTH - 2, hue), PANEL, fill="none")
    text(ax, 2.5, top - 2.4, title, 14, weight="bold", color=EDGE[hue], ha="left")
    y, above, start, end = top - 15.6, top - 6.9, 9.5, WIDTH - 11.5
    text(ax, 5.5, y, f"H {TIMES} W\n{TIMES} C", linespacing=1.5)
    text(ax, WIDTH - 6.2, y, f"H/{stride} {TIMES} W/{stride}\n{TIMES} D", linespacing=1.5)
    centres = draw_chain(ax, start, end, y, ops, 9)
    arrow(ax, (centres[-1] + ADD.width / 2, y), (end, y))
    fork, (first, *more) = start + 1.2, [x for x, op in zip(centres, ops, strict=True) if op is ADD]
    pool = Op((f"MaxPool {stride}{TIMES}{stride}",), 14, optional=True)
    proj = Op((f"1{TIMES}1 Proj, C → D",), 16, hue, optional=True)
    line(ax, (fork, y), (fork, above))
    last = draw_chain(ax, fork, first, above, [pool, proj], 4.6)[-1] + proj.width / 2
    arrow(ax, (last, above), (first, above), (first, y + ADD.width / 2))
    fork = first + ADD.width / 2 + 1.2
    for x in more:  # the second branch of a Transformer block has nothing on its shortcut
        arrow(ax, (fork, y), (fork, above), (x, above), (x, y + ADD.width / 2))
    return centres


def draw_mbconv(ax: Axes, top: float, block: MBConv) -> None:
    """The inside of an MBConv block, with the stride where the configuration has it."""
    config = block.config
    norm, gelu = Op(("LayerNorm" if config.conv_norm == "layer_norm" else "BatchNorm",), 11), Op(("GELU",), 7)
    inner, kernel = f"{config.expansion}D", f"{config.kernel_size}{TIMES}{config.kernel_size}"
    stride, in_expand = f"stride {block.strides}", config.downsampling == "expand_conv"
    expand = (f"1{TIMES}1 expand", f"C → {inner}", *([stride] if in_expand else []))
    depthwise = (f"{kernel} depthwise", inner, *([] if in_expand else [stride]))
    excite = Op(("SE", f"{inner} → D/{1 / config.se_ratio:g} → {inner}"), 15.5, "conv")
    ops = [norm, Op(expand, 13, "conv"), norm, gelu, Op(depthwise, 15.5, "conv"), norm, gelu, excite]
    ops += [Op((f"1{TIMES}1 shrink", f"{inner} → D"), 12.5, "conv"), ADD]
    centres = draw_block(ax, top, "MBConv block", "conv", block.strides, ops)
    if in_expand:
        text(ax, centres[4], top - 21.8, f"† variant: {stride} here instead", 11.5, color=FAINT)


def draw_transformer(ax: Axes, top: float, block: TransformerBlock) -> None:
    """The inside of a Transformer block."""
    config = block.config
    relative = config.attention.relative_attention
    norm, inner = Op(("LayerNorm",), 11.5), f"{config.ffn.ffn_expansion}D"
    pool = Op(("MaxPool", f"{block.strides}{TIMES}{block.strides}"), 10.5, optional=True)
    kind, bias = ("Relative attention", " + P_{i-j}") if relative else ("Attention", "")
    formula = rf"$\mathrm{{softmax}}(QK^\top\!/\sqrt{{d}}{bias})\,V$"
    widen, narrow = ((("Dense", change), 10.5, "transformer") for change in (f"D → {inner}", f"{inner} → D"))
    ops = [norm, pool, Op((kind, formula, "C → D"), 27, "transformer"), ADD, norm]
    ops += [Op(*widen), Op(("GELU",), 7), Op(*narrow), ADD]
    centres = draw_block(ax, top, "Transformer block", "transformer", block.strides, ops)
    heads = f"d = {config.attention.head_size} channels per head" + ("; each has its own table P" if relative else "")
    text(ax, centres[2], top - 21.8, heads, 11.5, color=FAINT)
    left, right, y = centres[5] - 5.25, centres[7] + 5.25, top - 20.8
    line(ax, (left, y + 0.5), (left, y), (right, y), (right, y + 0.5), color=FAINT)
    text(ax, centres[6], top - 22.3, "feed-forward network", 11.5, color=FAINT)


def draw_architecture(config: coatnet_tf.CoAtNetConfig, size: int, output: Path) -> None:
    """Draws a configuration that has a down-sampling block of both kinds, for images of a size, as a PNG.

    Raises:
        ValueError: If the configuration cannot take images of this size.
    """
    columns, report = columns_of(config, size)
    figure = Figure(figsize=(WIDTH / 10, HEIGHT / 10), facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    ax.axis("off")
    text(ax, 1, HEIGHT - 3.2, config.name.replace("coatnet", "CoAtNet"), 22, weight="bold", ha="left")
    text(ax, WIDTH - 1, HEIGHT - 3.4, f"{short(report.params)} parameters, {short(report.macs)} MACs", 14, ha="right")
    draw_stages(ax, HEIGHT - 8.5, columns, report)
    blocks = [layer for layer in config.feature_layers((size, size, 3)) if getattr(layer, "strides", None) == 2]
    draw_mbconv(ax, 56.5, next(block for block in blocks if isinstance(block, MBConv)))
    draw_transformer(ax, 31, next(block for block in blocks if isinstance(block, TransformerBlock)))
    text(ax, 1, 3, CAPTION, 11.5, color=FAINT, ha="left", linespacing=1.5)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=DPI)


def main(argv: list[str]) -> None:
    command_line.begin(argv)
    try:
        draw_architecture(coatnet_tf.get_config(flags.FLAGS.model), flags.FLAGS.size, Path(flags.FLAGS.output))
    except ValueError as error:
        raise SystemExit(str(error)) from error
    print(f"Drew {flags.FLAGS.model} as {flags.FLAGS.output}")


if __name__ == "__main__":
    flags.DEFINE_string("model", "coatnet-0", "Name of a configuration.")
    flags.DEFINE_integer("size", DEFAULT_SIZE, "Height and width of the image.")
    path_flags.define("output", None, "PNG to write; its folder is made if it is missing.")
    flags.mark_flag_as_required("output")
    app.run(main)
