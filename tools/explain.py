"""Draws what a model looks at: predictions, Grad-CAM, attention rollout and the tables of relative attention.

    python -m tools.explain --workdir=runs/digits --output=runs/digits/explained.png
    python -m tools.explain --weights=model.keras --labels=classes.txt --output=explained.png IMAGE.png ...

Without an IMAGE, held-out images of the run are taken. Images come to the model's size as in evaluation.
`tools/explanations/` computes and draws.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from matplotlib.figure import Figure

from coatnet_tf.graph import inlined
from experiments import logs, path_flags, workdir
from experiments.data import images, other_formats, readers, sources, views
from tools import model_files
from tools.explanations import maps
from tools.explanations.picture import DPI, Explained, draw_explanations, short_name


@dataclasses.dataclass(frozen=True)
class ExplainOptions:
    """What to explain, and how; the flags of the program.

    Args:
        output: PNG to write; its folder is made if it is missing.
        workdir: Folder of a finished run. Either this or `weights` is given.
        weights: A `.keras` file with a whole model.
        labels: File with one class name per line; a run brings its own.
        preprocessing: How a model built with `include_preprocessing=False` has its images, one of
            `model_files.PREPROCESSING`.
        files: Images; if there are none, held-out ones of the run.
        count: How many held-out images, evenly spaced over the split.
        class_name: Class that Grad-CAM explains; each image's predicted one if it is empty.
        stages: Stages for Grad-CAM; `maps.default_stages` if there are none.
        heads: Heads for rollout and tables; the mean of all and the first few if there are none.
        position: (row, column) of the last attention's grid, from which rollout is seen; empty is the mean of all.
    """

    output: Path
    workdir: Path | None = None
    weights: Path | None = None
    labels: Path | None = None
    preprocessing: str = ""
    files: tuple[Path, ...] = ()
    count: int = 3
    class_name: str = ""
    stages: tuple[str, ...] = ()
    heads: tuple[int, ...] = ()
    position: tuple[int, ...] = ()


def explain(options: ExplainOptions) -> Figure:
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
    model = inlined(model_files.load(path))
    model_files.refuse_values(model, path)
    maps.check_model(model, path)
    names = model_files.name_classes(model, path, labels)
    model = model_files.with_preprocessing(model, path, options.preprocessing)
    options = dataclasses.replace(options, stages=options.stages or tuple(maps.default_stages(model)))
    _check_model_has(model, names, options)

    recipe = workdir.read_recipe(options.workdir) if options.workdir else None
    view = model_files.view_of(model, path)
    # All are decoded before the first is explained, so that one which cannot be read costs no time.
    shown = [
        (title, decode(encoded, name, model.input_shape[-1], view)) for title, name, encoded in _read(options, recipe)
    ]
    target = names.index(options.class_name) if options.class_name else None
    explained = []
    for title, image in shown:
        probabilities, found = maps.predict_and_grad_cam(model, image, options.stages, target)
        attentions = maps.attention(model, image, options.heads)
        rollout = maps.rollout(attentions, options.position) if attentions else None
        of_class = int(probabilities.argmax()) if target is None else target
        explained.append(Explained(title, image, probabilities, of_class, found, rollout))
    figure = draw_explanations(model, names, explained, options.stages, options.heads, options.position)
    figure.savefig(options.output, dpi=DPI, format="png")
    return figure


def _check(options: ExplainOptions) -> None:
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
    path_flags.refuse_overwriting(
        {"output": output}, [*options.files, options.weights, options.workdir, options.labels]
    )
    if output.is_dir():
        raise ValueError(f"--output={output} is a folder; give the name of a PNG file.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(output if output.exists() else output.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise PermissionError(f"--output={output} cannot be written; give another file.")


def _check_model_has(model: keras.Model, names: Sequence[str], options: ExplainOptions) -> None:
    """Refuses classes, stages, heads and positions that the model does not have."""
    if options.class_name and options.class_name not in names:
        some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise ValueError(f"There is no class {options.class_name!r}; {model.name} has {len(names)}: {some}.")
    stages = maps.stages_of(model)
    for name in options.stages:
        if name not in stages:
            raise ValueError(f"There is no stage {name!r}; those of {model.name} are {', '.join(stages)}.")
    blocks = maps.transformers_of(model)
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


def _read(options: ExplainOptions, recipe: Any) -> list[tuple[str, str, bytes]]:
    """Title, name and bytes of each image to explain."""
    if options.files:
        return [(short_name(file.name), str(file), file.read_bytes()) for file in options.files]
    source = sources.prepare(recipe.dataset)
    found = []
    for index in readers.spread_places(source.eval.count, options.count):
        (example,) = source.eval.read(index, index + 1)
        label = example["label"].numpy()
        true = np.flatnonzero(label) if source.multi_label else [label]
        title = f"held-out image {index}\ntrue: {short_name(', '.join(source.class_names[i] for i in true))}"
        found.append((title, example["name"].numpy().decode(), example["image"].numpy()))
    return found


def decode(encoded: bytes, name: str, channels: int, view: views.View) -> np.ndarray:
    """Decodes an image and brings it to a model's size.

    Args:
        encoded: The file's bytes.
        name: What to call it if it cannot be read.
        channels: Of the model's images.
        view: What the model sees of an image.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        ValueError: If it is no image, a damaged one, or one of other channels.
    """
    try:
        return view.load(tf.constant(encoded), channels)[0].numpy()
    except (tf.errors.OpError, ValueError) as error:  # as TensorFlow's kernels raise it, and Pillow
        why = other_formats.problem(encoded, channels)
        why = f": {why}" if why else f"; an undamaged {images.READ} is expected"
        raise ValueError(f"{name} cannot be read{why}.") from error


def whole_numbers(flag: str, values: Sequence[str]) -> tuple[int, ...]:
    """The values of a flag as numbers, or a ValueError that says what the flag takes."""
    try:
        return tuple(int(value) for value in values)
    except ValueError:
        raise ValueError(
            f"--{flag} takes whole numbers separated by commas, such as 0,3; got {','.join(values)}."
        ) from None


def main(argv: list[str]) -> None:
    logs.show_ours()
    values: dict[str, Any] = {name: getattr(flags.FLAGS, name) for name in ("count", "class_name", "preprocessing")}
    for name in ("output", "workdir", "weights", "labels"):
        path = getattr(flags.FLAGS, name)
        values[name] = Path(path) if path else None
    try:
        for name in ("heads", "position"):
            values[name] = whole_numbers(name, getattr(flags.FLAGS, name))
        files = tuple(Path(path_flags.expand(file)) for file in argv[1:])
        explain(ExplainOptions(files=files, stages=tuple(flags.FLAGS.stages), **values))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    print(f"Drew {flags.FLAGS.output}")


if __name__ == "__main__":
    path_flags.define("output", None, "PNG to write; its folder is made if it is missing.")
    path_flags.define("workdir", None, "Folder of a finished run.")
    path_flags.define("weights", None, "A .keras file with a whole model, in place of --workdir.")
    path_flags.define("labels", None, "File with one class name per line; a run brings its own.")
    flags.DEFINE_enum("preprocessing", "", model_files.PREPROCESSING, model_files.ABOUT_PREPROCESSING)
    flags.DEFINE_integer("count", 3, "How many held-out images, where no image is named.")
    flags.DEFINE_string("class_name", "", "Class that Grad-CAM explains; each image's predicted one by default.")
    flags.DEFINE_list("stages", [], "Stages for Grad-CAM: the last of MBConv blocks and the last of all by default.")
    flags.DEFINE_list("heads", [], "Heads for rollout and tables: the mean of all, and the first few, by default.")
    flags.DEFINE_list("position", [], "ROW,COLUMN of the last grid, from which rollout is seen; all by default.")
    flags.mark_flag_as_required("output")
    app.run(main)
