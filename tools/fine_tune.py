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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import app, flags, logging
from etils import epath

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
from experiments.data import sources, values
from experiments.data.folds import Fold
from experiments.recipes import small_folder
from experiments.stops import RunStopped
from tools import export_saved_model
from tools.fine_tuning import summary
from tools.fine_tuning.images import Images, find_images, refuse_other_images
from tools.fine_tuning.start import FACTORS, Start, find_start

PIXELS_ARE_OF = 224  # the size for which RandAugment counts its pixels
ABOUT_NO_WEIGHTS = (
    "%s begins at random weights: expect a lower accuracy than from trained ones, much lower with few images, and try "
    "more epochs."
)
LATE = 0.8  # of the epochs: where the best is later, twice as many are better (docs/small_sets.md)
_OF_SPLITS = ("dataset.name", "dataset.train_split", "dataset.eval_split")
_OF_IMAGES = ("loss", "dataset.channels", "dataset.value_columns")  # fields that say how images and labels are read


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
        can_fold: As of `summary.describe`.

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
    return summary.describe(output, measured, saved_model, config.tune, config.epochs * still_better, can_fold)


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


def _can_fold(overrides: Mapping[str, Any]) -> bool:
    """Whether `--folds` takes the images, as they have no validation images of their own."""
    try:
        _images_of_flags(overrides, [Fold(1, summary.FOLDS, 0)])
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
            refuse_other_images(folder_of_run, images)
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
