"""Fine-tunes existing weights on a small folder of images, evaluates, and exports for serving: one command.

    python -m tools.fine_tune --images=/path/to/images --init_from=timm/coatnet_0_rw_224.sw_in1k --output=runs/mine
    python -m tools.fine_tune --images=/path/to/images --init_from=runs/pretrained --output=runs/mine
    python -m tools.fine_tune --images=/path/to/images --init_from=coatnet-0.keras --model=coatnet-0 --output=runs/mine
    python -m tools.fine_tune --images=/path/to/images --init_from=RUN --output=runs/head --config.tune=head
    python -m tools.fine_tune --images=/path/to/images --init_from=RUN --output=runs/folds --folds=5

The images lie in one folder per class, or `--images=csv:FILE` names a table of their labels, or of numbers, which
`--config.loss=squared_error` learns (`docs/small_sets.md`).
By their names one in five is held out: where the loss on these is lowest, the weights are kept, and training stops when
it has not fallen for some epochs. With class folders in `train`, those in `validation` are held out in their place if
they are there; those in `test` are never trained on nor chosen by, and are what to report. The values are those of
`experiments/recipes/small_folder.py`, and `--config.epochs=20` and the like override them. `--config.tune` says what is
trained: all of the network, its head alone, its last blocks, or LoRA; `auto` tries several and keeps the best.

`--folds=5` says how good such a training is: five are done, each of which holds out another fifth of the images, and
`folds.md` in `--output` has the mean and its interval. `--init_from=none` begins at random weights. The same command
with `--find_rate=rate.png` trains nothing: it suggests a learning rate and draws the losses that say so.

`--output` becomes the folder of the run, with `report.md`, `evaluation/` (and `test_evaluation/`) and `serving/1`. The
same command resumes a stopped run. Exit status: as `experiments.train`.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import app, flags, logging
from etils import epath

import coatnet_tf
from coatnet_tf.pretrained import find_pretrained, is_pretrained_name
from coatnet_tf.weights import places_of, stored_shapes
from experiments import (
    checks,
    command_line,
    cross_validation,
    engine,
    evaluate,
    path_flags,
    rate_finder,
    recipe_flags,
    sizes,
    train,
    tries,
    tuning,
    workdir,
)
from experiments.data import folder, folder_splits, labels_file, sources, values
from experiments.data.folds import Fold
from experiments.recipes import base, small_folder
from experiments.stops import RunStopped
from tools import export_saved_model

FIRST_KERNEL = "stem_conv01#0"
PIXELS_ARE_OF = 224  # the size for which RandAugment counts its pixels
RGB = 3
TUNING_SHARE = 3  # the rate of a training from scratch over that of fine-tuning
FACTORS = {tuning.HEAD: 10, tuning.LORA: 10}  # the rate of a way over that of all weights: docs/fine_tuning.md
NO_WEIGHTS = "none"  # for --init_from
ABOUT_NO_WEIGHTS = (
    "%s begins at random weights: expect a lower accuracy than from trained ones, much lower with few images, and try "
    "more epochs."
)
FOLDS = 5  # to advise
WIDE_INTERVAL = 0.1  # of an accuracy
LATE = 0.8  # of the epochs: where the best is later, twice as many are better (docs/small_sets.md)
_OF_SPLITS = ("dataset.name", "dataset.train_split", "dataset.eval_split")
_OF_IMAGES = ("loss", "dataset.channels", "dataset.value_columns")  # fields that say how images and labels are read


@dataclasses.dataclass(frozen=True)
class Start:
    """Where to begin.

    Args:
        init_from: Folder of a finished run, or a file of weights; empty for random ones.
        model: The recipe's fields of the network.
        image_size: Of the images it was trained on, as recipes have it.
        channels: Of these images; 0 for any.
        learning_rate: Peak of the learning rate that suits the network.
    """

    init_from: str
    model: ml_collections.ConfigDict
    image_size: int | Sequence[int]
    channels: int
    learning_rate: float


def find_start(init_from: str, model: str = "") -> Start:
    """Turns what the user names into a network and its weights.

    Args:
        init_from: Folder of a finished run, a `.keras` or `.weights.h5` file, a name that
            `coatnet_tf.list_weights` lists, or `NO_WEIGHTS`.
        model: Which of `coatnet_tf.FAMILY` or `coatnet_tf.RELATIVES` a file is for; a run and a name say it themselves.
            Without weights it is `"coatnet-0"` by default.

    Returns:
        A `Start`.

    Raises:
        FileNotFoundError: If there are no such weights, or the run is not finished.
        ValueError: If the file holds no CoAtNet, or it is not clear of which.
    """
    defaults = small_folder.get_config()
    if is_pretrained_name(init_from):
        network = find_pretrained(init_from)
        if model not in ("", network.config):
            raise ValueError(f"{init_from} is for the model {network.config}, not {model}; leave --model out.")
        return Start(init_from, _relative(network.config), network.image_size, RGB, defaults.optimizer.learning_rate)
    if init_from == NO_WEIGHTS:
        fields = _fields_of(model or "coatnet-0", "Which network is to be trained?")
        return Start("", fields, defaults.image_size, 0, TUNING_SHARE * defaults.optimizer.learning_rate)
    path = epath.Path(init_from)
    if path.is_dir():
        if model:
            raise ValueError(f"{path} is a run, whose {workdir.CONFIG} says which model it is; leave --model out.")
        recipe = workdir.read_recipe(path, workdir.MODEL)
        # How large a rate suits a network depends on its width: its own training knows.
        learning_rate = recipe.optimizer.learning_rate / (1 if recipe.init_from else TUNING_SHARE)
        learning_rate /= FACTORS.get(recipe.get("tune"), 1)
        return Start(init_from, recipe.model, recipe.image_size, _channels(path / workdir.MODEL), learning_rate)
    if not path.exists():
        raise FileNotFoundError(f"--init_from={path} is neither the folder of a finished run nor a weights file.")
    channels = _channels(path)
    # Its input size is no part of a file: the recipe has the paper's, and --config.image_size another.
    fields = _fields_of(model, f"Which network are the weights {path} for?")
    return Start(init_from, fields, defaults.image_size, channels, defaults.optimizer.learning_rate)


def _fields_of(model: str, question: str) -> ml_collections.ConfigDict:
    """The recipe's fields of a network; a ValueError with the question if there is none of the name."""
    known = (*coatnet_tf.FAMILY, *coatnet_tf.RELATIVES)
    if model not in known:
        raise ValueError(
            f"{question} Give --model, one of {', '.join(known)}"
            + (f"; got {model!r}." if model else ", or a run's folder in place of the file.")
        )
    return base.family_model(model.replace("-", "")) if model in coatnet_tf.FAMILY else _relative(model)


def _relative(name: str) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({"name": name, "drop_path_rate": 0.0})


def _channels(weights: epath.Path) -> int:
    shapes = stored_shapes(weights)
    places = places_of(FIRST_KERNEL, shapes)  # also inside a model of one's own
    if not places:
        raise ValueError(
            f"{weights} holds no weights of a CoAtNet: there is no {FIRST_KERNEL.partition('#')[0]} in it."
        )
    return shapes[places[0] + FIRST_KERNEL][2]


@dataclasses.dataclass(frozen=True)
class Images:
    """Which images are for what.

    Args:
        data: The dataset to train and choose on, `folder:PATH`.
        train_count: Number of its training images.
        test: The dataset whose split `test` is used for nothing but the last evaluation; empty if there is none.
        channels: Of the images if they are arrays; 0 for pictures, which can be read as grey or RGB.
        multi_label: Whether an image can have several classes.
        of_numbers: Whether it has numbers in their place.
    """

    data: str
    train_count: int
    test: str = ""
    channels: int = 0
    multi_label: bool = False
    of_numbers: bool = False


def find_images(path: str, channels: int = 0, fold: Fold | None = None, value_columns: Sequence[str] = ()) -> Images:
    """Looks at images and refuses what cannot be fine-tuned on.

    Args:
        path: The folder, or `csv:FILE`, a file of labels.
        channels: `dataset.channels` of the recipe.
        fold: That is held out, in the place of validation images or those chosen by name.
        value_columns: Columns of a file of labels with numbers to learn.

    Returns:
        An `Images`.

    Raises:
        FileNotFoundError: If there is no such folder, or no image in it.
        ValueError: If there is one class only, or a class has nothing to train on or nothing held out; or if a fold is
            to be held out and there are validation images.
    """
    if path.startswith("csv:"):
        return _find_labels(path, channels, fold, value_columns)
    if value_columns:
        raise ValueError(
            f"--config.loss=squared_error learns numbers of a table, --images=csv:FILE; {path} has classes."
        )
    root, test = path.rstrip("/"), ""
    if os.path.isfile(root):
        raise ValueError(f"{root} is a file; a table of labels is given as --images=csv:{root}.")
    layout = folder_splits.find_layout(root, "train")
    if layout.splits:
        usable = {purpose: name for purpose, name in layout.splits.items() if layout.classes_in(name)}
        if "test" in usable:
            test = f"folder:{root}"
            folder.read(root, "train", "test", channels)  # refuses other classes than those of train
        if fold and "validation" in usable:
            raise ValueError(
                f"{root} has validation images of its own; leave --folds out to hold these out, or divide the training "
                f"images into folds: --images={root}/{layout.splits['train']}."
            )
        if fold:
            root += f"/{layout.splits['train']}"
        elif "validation" not in usable:
            folder.say(f"{root}/{layout.splits['train']} is divided, as there are no validation images beside it.")
            root += f"/{layout.splits['train']}"
    found = folder.read(root, "train", str(fold or "validation"), channels)
    folder.check_classes(root, found.class_names, {"to train on": found.train, "held out": found.held_out})
    return Images(f"folder:{root}", found.train.count, test, found.channels)


def _find_labels(data: str, channels: int, fold: Fold | None, columns: Sequence[str]) -> Images:
    """The images of a file of labels."""
    path = data.removeprefix("csv:")
    found = labels_file.read(path, "train", str(fold or "validation"), channels, columns)
    labels_file.check_classes(path, found.class_names, {"to train on": found.train, "held out": found.held_out})
    test = data if labels_file.has_test_images(path) else ""
    if test:
        labels_file.read(path, "train", "test", channels, columns)  # refuses other classes than those of train
    return Images(data, found.train.count, test, found.channels, found.multi_label, bool(columns))


def configure(images: Images, start: Start, overrides: dict[str, Any]) -> ml_collections.ConfigDict:
    """The recipe of the run.

    Args:
        images: From `find_images`.
        start: From `find_start`.
        overrides: Fields to replace, by name, such as `optimizer.learning_rate`.

    Returns:
        The recipe.
    """
    config = small_folder.get_config(str(images.train_count))
    config.init_from, config.reset_head = start.init_from, bool(start.init_from)
    config.model, config.image_size = start.model, overrides.get("image_size", start.image_size)
    config.augment.randaugment_pixel_scale = min(sizes.of(config)) / PIXELS_ARE_OF
    config.loss = "sigmoid" if images.multi_label else config.loss
    config.label_smoothing = 0.0 if images.of_numbers else config.label_smoothing
    config.dataset.name, config.dataset.channels = images.data, images.channels or start.channels
    way = overrides.get("tune", config.tune)
    config.optimizer.learning_rate = start.learning_rate * FACTORS.get(way, 1)
    if way == tuning.HEAD:
        config.early_stop_patience = 0  # its epochs take no time, and a few held-out images would end it by chance
    config.update_from_flattened_dict(overrides)
    return config


def finish(output: epath.Path, test: str, can_fold: bool = True) -> str:
    """Evaluates and exports a trained run.

    Args:
        output: Its folder.
        test: As of `Images`.
        can_fold: As of `describe`.

    Returns:
        What to tell the user.
    """
    measured = {"held-out": evaluate.evaluate(output, output / "evaluation")}
    if test:
        measured["test"] = evaluate.evaluate(output, output / "test_evaluation", test, "test")
    options = export_saved_model.ExportOptions(
        workdir=Path(output), output=Path(output) / "serving", fold=True, version=1, overwrite=True
    )
    config, kept = workdir.read_recipe(output), workdir.result_of(workdir.read_metrics(output))
    still_better = kept["epoch"] > LATE * config.epochs
    saved_model = export_saved_model.export(options)
    return describe(output, measured, saved_model, config.tune, config.epochs * still_better, can_fold)


def describe(
    output: epath.Path,
    measured: Mapping[str, dict[str, Any]],
    saved_model: Path,
    tune: str,
    epochs: int = 0,
    can_fold: bool = True,
) -> str:
    """How good a run is, what it confuses, where things are, and what to do next: one screen.

    Args:
        output: Folder of the run.
        measured: What `evaluate.evaluate` returned, by what the images are called; the most trustworthy are the last.
        saved_model: The export.
        tune: What was trained.
        epochs: For how many, if the best were the last ones; else 0.
        can_fold: Whether `--folds` takes the images.
    """
    lines = ["", "How good it is"]
    for name, of_images in measured.items():
        lines.append(f"  {of_images['images']} {name} images: {evaluate.describe_result(of_images)}")
        if "balanced_accuracy" in of_images:
            lines.append(f"  balanced over the classes {of_images['balanced_accuracy']:.2%}")
    *_, name = measured
    if "confused" in measured[name]:
        lines += ["", f"What it confuses, of the {name} images"]
        for pair in measured[name]["confused"][:3]:
            lines.append(f"  {pair['true']} taken for {pair['predicted']}: {pair['images']} of {pair['of']}")
        if not measured[name]["confused"]:
            lines.append("  nothing")
    about = "each number" if "by_value" in measured[name] else "each class"
    about += ", and who is taken for whom" if "confused" in measured[name] else ""
    evaluation = output / ("test_evaluation" if name == "test" else "evaluation")
    lines += [
        "",
        "Where things are",
        f"  {output / workdir.REPORT}: curves, and held-out images with what is said of them",
        f"  {evaluation / 'evaluation.md'}: {about}",
        f"  {output / workdir.MODEL}: the model, for Keras",
        f"  {saved_model}: the same for TensorFlow Serving (SavedModel)",
        "",
        "What to do next",
        f"  python -m tools.predict --model={output} --images=FOLDER --output=predictions.csv",
    ]
    low, high = measured[name].get("top1_interval", (0, 0))
    if name != "test" and can_fold:
        lines.append(
            f"  --folds={FOLDS}, in another --output, holds each image out once: a better guess at how good it is"
        )
    elif name == "test" and high - low > WIDE_INTERVAL:
        lines.append("  more test images: they narrow the interval")
    if epochs:
        lines.append(f"  --config.epochs={2 * epochs}, in another --output: the last were the best; more may help")
    if tune in (tuning.HEAD, tuning.LAST_BLOCKS):
        lines.append("  --config.tune=all, in another --output, trains all of the network: longer, and often better")
    return "\n".join(lines)


def _images_of_flags(overrides: Mapping[str, Any], folds: Sequence[Fold]) -> Images:
    """The images that `--images` names; each fold is looked at before any is trained on."""
    if given := [field for field in _OF_SPLITS if field in overrides]:
        raise ValueError(
            f"--config.{given[0]} is for experiments.train: here --images names the images, and folders of the names "
            "train, validation and test, or a table's column split, say what is held out."
        )
    settings = small_folder.get_config()
    settings.update_from_flattened_dict({field: overrides[field] for field in _OF_IMAGES if field in overrides})
    checks.settle_values(settings)
    channels, columns = settings.dataset.channels, values.columns_of(settings.dataset)
    wanted: Sequence[Fold | None] = folds or [None]
    images, *_ = [find_images(flags.FLAGS.images, channels, fold, columns) for fold in wanted]
    return images


def _refuse_other_images(run: epath.Path, images: Images) -> None:
    """Refuses to go on with a run when images have come or gone, which change its recipe too."""
    if not (run / workdir.DATA).is_file() or workdir.read_recipe(run).dataset.name != images.data:
        return
    before = json.loads((run / workdir.DATA).read_text())["train"]
    if before != images.train_count:
        raise ValueError(
            f"{images.data} has {images.train_count} training images, and the run in {run} began with {before}: put "
            "them back to resume it, or begin anew in another --output."
        )


def _can_fold(overrides: Mapping[str, Any]) -> bool:
    """Whether `--folds` takes the images, as they have no validation images of their own."""
    try:
        _images_of_flags(overrides, [Fold(1, FOLDS, 0)])
    except (OSError, ValueError):
        return False
    return True


def main(argv: list[str]) -> None:
    command_line.begin(argv)
    output = epath.Path(flags.FLAGS.output)
    overrides = recipe_flags.overrides()
    count, minutes = flags.FLAGS.folds, flags.FLAGS.auto_minutes
    folds = [Fold(number, count, overrides.get("seed", 0)) for number in range(1, count + 1)]
    try:
        for flag in ("output", "init_from"):
            path = getattr(flags.FLAGS, flag)
            if "://" in path:
                raise ValueError(f"--{flag}={path} is not on this machine; give a local path.")
        if folds and overrides.get("tune") == tries.AUTO:
            raise ValueError("--folds measures one way of training; give another --config.tune than auto with it.")
        if count == 1:
            raise ValueError("--folds=1 leaves nothing to train on; give 2 or more, or leave it out.")
        images = _images_of_flags(overrides, folds)
        sources.check_place(str(output), f"folder:{flags.FLAGS.images}")
        start = find_start(flags.FLAGS.init_from, flags.FLAGS.model)
        config = configure(images, start, overrides)
        for folder_of_run in (output, *(output / way for way in tries.TRIED)):
            _refuse_other_images(folder_of_run, images)
        if config.tune == tries.AUTO and not start.init_from:
            raise ValueError(
                "--config.tune=auto tries what to train of weights that are given; --init_from=none is all."
            )
    except (ValueError, OSError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    if not start.init_from:
        logging.info(ABOUT_NO_WEIGHTS, config.model.name)

    def of_fold(fold: Fold) -> ml_collections.ConfigDict:
        return configure(images, start, {**overrides, "dataset.eval_split": str(fold)})

    try:
        if flags.FLAGS.find_rate:
            print(rate_finder.find(config, engine.connect("one_device"), rate_finder.Range(), flags.FLAGS.find_rate))
            return
        if folds:
            print(cross_validation.run(of_fold, folds, output) + f"\nThe report is {output / cross_validation.REPORT}")
            return
        if config.tune == tries.AUTO:
            output = tries.run(lambda way: configure(images, start, {**overrides, "tune": way}), output, minutes)
            print((output.parent / workdir.TRIES).read_text())
        else:
            train.run(config, output)
        print(finish(output, images.test, _can_fold(overrides)))
    except (OSError, ValueError, RunStopped) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    path_flags.define("images", None, "Folder of class-named folders of images or of splits of such, or csv:FILE.")
    path_flags.define("init_from", None, "Weights to begin with: a run's folder, .keras, .weights.h5, a name, or none.")
    flags.DEFINE_string("model", "", "With a file: which network it is for, such as coatnet-0 or coatnet_0_rw.")
    path_flags.define("output", None, "Folder of the new run; the same command resumes what it holds.")
    flags.DEFINE_integer("folds", 0, "Train so many times, holding out another part each time; 0: once.", lower_bound=0)
    flags.DEFINE_float("auto_minutes", 60, "With --config.tune=auto: when to begin no further try.", lower_bound=0)
    path_flags.define("find_rate", None, "PNG file: train nothing, but suggest a rate and draw the losses of a test.")
    recipe_flags.define_fields(small_folder.get_config())
    flags.mark_flags_as_required(["images", "init_from", "output"])
    app.run(main)
