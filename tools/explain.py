"""Draws what a model looks at: predictions, Grad-CAM, attention rollout and the tables of relative attention.

    python -m tools.explain --workdir=runs/digits --output=runs/digits/explained.png
    python -m tools.explain --weights=model.keras --labels=classes.txt --output=explained.png IMAGE.png ...

Without an IMAGE, held-out images of the run are taken. Images come to the model's size as in evaluation; for a model
whose images are not square, the whole image is stretched to them. What is drawn is computed by `tools/explanations.py`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from experiments import workdir
from experiments.data import images, sources
from tools import explanations, model_files

TOP = 5  # classes that are named
TABLES = 4  # heads whose tables are drawn if none are chosen
PANEL, TABLE, DPI = 2.3, 1.9, 90  # inches of an image and of a table, and pixels of an inch
HEAT = "inferno"
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
class Options:
    """What to explain, and how; the flags of the program.

    Args:
        output: PNG to write; its folder is made if it is missing.
        workdir: Folder of a finished run. Either this or `weights` is given.
        weights: A `.keras` file with a whole model.
        labels: File with one class name a line; a run brings its own.
        files: Images; if there are none, held-out ones of the run.
        count: How many held-out images, evenly spaced over the split.
        class_name: Class that Grad-CAM explains; each image's predicted one if it is empty.
        stages: Stages for Grad-CAM; `explanations.default_stages` if there are none.
        heads: Heads for rollout and tables; the mean of all and the first few if there are none.
        position: (row, column) of the last attention's grid, from which rollout is seen; empty is the mean of all.
    """

    output: Path
    workdir: Path | None = None
    weights: Path | None = None
    labels: Path | None = None
    files: tuple[Path, ...] = ()
    count: int = 3
    class_name: str = ""
    stages: tuple[str, ...] = ()
    heads: tuple[int, ...] = ()
    position: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Explained:
    """One image and what was found: the index of the explained class, a Grad-CAM map a stage, and the rollout."""

    title: str
    image: np.ndarray
    probabilities: np.ndarray
    target: int
    maps: list[np.ndarray]
    rollout: np.ndarray | None


def explain(options: Options) -> Figure:
    """Explains images and writes the picture.

    Args:
        options: What to explain, and how.

    Returns:
        The figure that was written.

    Raises:
        FileNotFoundError: If the model, the labels, an image or the run's data is missing.
        PermissionError: If the output cannot be written.
        ValueError: If the model cannot be explained, an image cannot be read, or an option does not fit the model.
    """
    path, labels = model_files.find(options.workdir, options.weights, options.labels)
    _check(options)
    model = model_files.load(path)
    explanations.check_model(model, path)
    names = model_files.name_classes(model, path, labels)
    options = dataclasses.replace(options, stages=options.stages or tuple(explanations.default_stages(model)))
    _check_model_has(model, names, options)

    recipe = workdir.read_recipe(options.workdir) if options.workdir else None
    crop = "center"  # as export has it for a model without a recipe
    if recipe is not None:
        crop = recipe.eval_crop
    # All are decoded before the first is explained, so that one which cannot be read costs no time.
    shown = [
        (title, decode(encoded, name, model.input_shape[1:], crop)) for title, name, encoded in _read(options, recipe)
    ]
    target = names.index(options.class_name) if options.class_name else None
    explained = []
    for title, image in shown:
        probabilities, maps = explanations.predict_and_grad_cam(model, image, options.stages, target)
        attentions = explanations.attention(model, image, options.heads)
        rollout = explanations.rollout(attentions, options.position) if attentions else None
        of_class = int(probabilities.argmax()) if target is None else target
        explained.append(Explained(title, image, probabilities, of_class, maps, rollout))
    figure = draw(model, names, explained, options)
    figure.savefig(options.output, dpi=DPI, format="png")
    return figure


def _check(options: Options) -> None:
    """Refuses what no model could make right, such as images that are not there."""
    if options.count < 1:
        raise ValueError(f"--count must be at least 1; got {options.count}.")
    if len(options.position) not in (0, 2):
        raise ValueError(f"--position takes a row and a column, such as 3,0; got {options.position}.")
    if not options.files and options.workdir is None:
        raise ValueError("Name at least one image, or give --workdir, whose held-out images are taken then.")
    for file in options.files:
        if not file.is_file():
            raise FileNotFoundError(f"There is no image {file}.")
    output = options.output
    if output.is_dir():
        raise ValueError(f"--output={output} is a folder; give the name of a PNG file.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(output if output.exists() else output.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise PermissionError(f"--output={output} cannot be written; give another file.")


def _check_model_has(model: keras.Model, names: Sequence[str], options: Options) -> None:
    """Refuses classes, stages, heads and positions that the model does not have."""
    if options.class_name and options.class_name not in names:
        some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise ValueError(f"There is no class {options.class_name!r}; {model.name} has {len(names)}: {some}.")
    stages = explanations.stages_of(model)
    for name in options.stages:
        if name not in stages:
            raise ValueError(f"There is no stage {name!r}; those of {model.name} are {', '.join(stages)}.")
    blocks = explanations.transformers_of(model)
    if not blocks:
        if options.heads or options.position:
            raise ValueError(f"{model.name} has no Transformer block, and so no --heads and no --position.")
        return
    for head in options.heads:
        for block in blocks:
            if not 0 <= head < block.attention.num_heads:
                raise ValueError(
                    f"--heads: there is no head {head} in {block.name}, whose heads are 0 to "
                    f"{block.attention.num_heads - 1}; choose heads that all Transformer blocks have."
                )
    if options.position:
        rows, columns = blocks[-1].output.shape[1:3]
        row, column = options.position
        if not (0 <= row < rows and 0 <= column < columns):
            raise ValueError(
                f"--position={row},{column} is outside the grid of {blocks[-1].name}, {rows} rows and {columns} "
                f"columns; give a row from 0 to {rows - 1} and a column from 0 to {columns - 1}."
            )


def _read(options: Options, recipe: Any) -> list[tuple[str, str, bytes]]:
    """Title, name and bytes of each image to explain."""
    if options.files:
        return [(_short(file.name), str(file), file.read_bytes()) for file in options.files]
    source = sources.prepare(recipe.dataset)
    found = []
    # Evenly spaced, since a split can be sorted by class.
    for index in np.linspace(0, source.eval.count - 1, min(options.count, source.eval.count)).astype(int):
        (example,) = source.eval.read(index, index + 1)
        label = example["label"].numpy()
        true = np.flatnonzero(label) if source.multi_label else [label]
        title = f"held-out image {index}\ntrue: {_short(', '.join(source.class_names[i] for i in true))}"
        found.append((title, example["name"].numpy().decode(), example["image"].numpy()))
    return found


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 3] + "..."


def decode(encoded: bytes, name: str, shape: tuple[int, int, int], crop: str) -> np.ndarray:
    """Decodes an image and brings it to a model's size.

    Args:
        encoded: The file's bytes.
        name: What to call it if it cannot be read.
        shape: `(height, width, channels)` of the model.
        crop: A recipe's `eval_crop`; only square models can have `"center"`, others take the whole image.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        ValueError: If it is no image, or a damaged one.
    """
    height, width, channels = shape
    size = max(height, width)
    window = images.center(size) if crop == "center" and height == width else images.whole
    try:
        image = images.load(tf.constant(encoded), channels, size, window)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"{name} cannot be read; an undamaged JPEG, PNG, GIF, BMP or WebP is expected.") from error
    if height != width:
        image = images.to_uint8(tf.image.resize(image, (height, width), antialias=True))
    return image.numpy()


def draw(model: keras.Model, names: Sequence[str], explained: Sequence[Explained], options: Options) -> Figure:
    """Draws one row an image, and below them the tables of relative attention.

    Args:
        model: The model.
        names: Names of its classes.
        explained: The images and what was found.
        options: What was asked for, with stages.

    Returns:
        A figure.
    """
    blocks = explanations.transformers_of(model)
    tables = explanations.bias_tables(model)
    most_heads = max((len(table) for table in tables.values()), default=0)
    heads = options.heads or tuple(range(min(TABLES, most_heads)))
    columns = 2 + len(options.stages) + bool(blocks)
    upper = PANEL * len(explained) + 1.2
    lower = TABLE * len(tables) + 1.2 if tables else 0.4
    figure = Figure(
        figsize=(PANEL * max(columns, len(heads) + 1), upper + lower), facecolor="white", layout="constrained"
    )
    above, below = figure.subfigures(2, 1, height_ratios=(upper, lower))
    grid = above.subplots(len(explained), columns, squeeze=False)
    for row, one in zip(grid, explained, strict=True):
        _draw_image(row[0], one.image, one.title)
        _draw_classes(row[1], one, names)
        for axes, name, found in zip(row[2:], options.stages, one.maps, strict=False):
            _draw_grad_cam(axes, one.image, name, found, names[one.target])
        if one.rollout is not None:
            _draw_rollout(row[-1], one, blocks[-1].output.shape[1:3], options.position)
    about = [ABOUT_GRAD_CAM]
    if blocks:
        seen = "the positions on average" if not options.position else "the framed position"
        chosen = f"heads {', '.join(map(str, options.heads))}" if options.heads else "all heads"
        about.append(ABOUT_ROLLOUT.format(seen=seen, heads=chosen))
    above.suptitle("\n".join(about), **CAPTION)
    if tables:
        _draw_tables(below, tables, heads, places=max(columns - 1, len(heads)))
        left_out = most_heads > TABLES and not options.heads
        note = f" Of each block the first {TABLES} heads; --heads chooses others." if left_out else ""
        below.suptitle(ABOUT_TABLES + note, **CAPTION)
    else:
        why = "relative_attention=False" if blocks else "no Transformer block"
        below.suptitle(f"This model has no table of relative attention: {why}.", **CAPTION)
    return figure


def _draw_image(axes: Axes, image: np.ndarray, title: str, lowest: float = 0, highest: float = 255) -> None:
    axes.imshow(image.squeeze(), cmap="gray", vmin=lowest, vmax=highest)
    axes.set_title(title, size=8)
    axes.set_axis_off()


def _draw_classes(axes: Axes, one: Explained, names: Sequence[str]) -> None:
    """Bars of the most probable classes, best on top; the explained one is blue, and always among them."""
    best = np.argsort(-one.probabilities, kind="stable")[:TOP]
    if one.target not in best:
        best[-1] = one.target
    bars = axes.barh(range(len(best)), one.probabilities[best], color="#c8c8c8")
    for index, bar in zip(best, bars, strict=True):
        words = f"{_short(names[index])}  {one.probabilities[index]:.1%}"
        axes.text(0.03, bar.get_y() + bar.get_height() / 2, words, size=8, va="center")
        if index == one.target:
            bar.set_color("#8fb8de")
    axes.set(xlim=(0, 1), ylim=(TOP - 0.5, -0.5), yticks=[], xticks=[0, 0.5, 1])
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"predicted: {_short(names[best[0]])}\n(with probability)", size=8)


def _draw_heat(axes: Axes, image: np.ndarray, heat: np.ndarray, lowest: float, title: str) -> None:
    """A map, resized bilinearly, over the image in pale grey, so that heat looks alike on black and on white."""
    _draw_image(axes, image.mean(axis=-1), title, lowest=-128, highest=383)
    smooth = tf.image.resize(heat[..., None], image.shape[:2])[..., 0].numpy()
    highest = max(float(smooth.max()), lowest + np.finfo("float32").tiny)
    axes.imshow(smooth, cmap=HEAT, alpha=0.55, vmin=lowest, vmax=highest)


def _draw_grad_cam(axes: Axes, image: np.ndarray, stage: str, found: np.ndarray, name: str) -> None:
    rows, columns = found.shape
    title = f"Grad-CAM of {stage.upper()} ({rows} {TIMES} {columns})\nfor {_short(name)}"
    _draw_heat(axes, image, found, 0.0, title + (": nothing speaks for it" if not found.any() else ""))


def _draw_rollout(axes: Axes, one: Explained, grid: tuple[int, int], position: tuple[int, ...]) -> None:
    rows, columns = one.rollout.shape
    shares = one.rollout * one.rollout.size
    title = (
        f"Attention rollout ({rows} {TIMES} {columns})\n{shares.min():.1f} to {shares.max():.1f} times an equal share"
    )
    _draw_heat(axes, one.image, shares, float(shares.min()), title)
    if position:
        height, width = (size / cells for size, cells in zip(one.image.shape[:2], grid, strict=True))
        corner = position[1] * width - 0.5, position[0] * height - 0.5
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="cyan", linewidth=2))


def _draw_tables(figure: SubFigure, tables: dict[str, np.ndarray], heads: Sequence[int], places: int) -> None:
    """One row a block and one column a head; the colours of a row share a scale, centred at 0."""
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


def whole_numbers(flag: str, values: Sequence[str]) -> tuple[int, ...]:
    """The values of a flag as numbers, or a ValueError that says what the flag takes."""
    try:
        return tuple(int(value) for value in values)
    except ValueError:
        raise ValueError(
            f"--{flag} takes whole numbers separated by commas, such as 0,3; got {','.join(values)}."
        ) from None


def main(argv: list[str]) -> None:
    values: dict[str, Any] = {name: flags.FLAGS[name].value for name in ("count", "class_name")}
    for name in ("output", "workdir", "weights", "labels"):
        values[name] = Path(flags.FLAGS[name].value) if flags.FLAGS[name].value else None
    try:
        for name in ("heads", "position"):
            values[name] = whole_numbers(name, flags.FLAGS[name].value)
        explain(Options(files=tuple(map(Path, argv[1:])), stages=tuple(flags.FLAGS.stages), **values))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    print(f"Drew {flags.FLAGS.output}")


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "PNG to write; its folder is made if it is missing.")
    flags.DEFINE_string("workdir", None, "Folder of a finished run.")
    flags.DEFINE_string("weights", None, "A .keras file with a whole model, in place of --workdir.")
    flags.DEFINE_string("labels", None, "File with one class name a line; a run brings its own.")
    flags.DEFINE_integer("count", 3, "How many held-out images, where no image is named.")
    flags.DEFINE_string("class_name", "", "Class that Grad-CAM explains; each image's predicted one by default.")
    flags.DEFINE_list("stages", [], "Stages for Grad-CAM: the last of MBConv blocks and the last of all by default.")
    flags.DEFINE_list("heads", [], "Heads for rollout and tables: the mean of all, and the first few, by default.")
    flags.DEFINE_list("position", [], "ROW,COLUMN of the last grid, from which rollout is seen; all by default.")
    flags.mark_flag_as_required("output")
    app.run(main)
