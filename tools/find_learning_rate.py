"""Suggests the learning rate of a recipe: takes training steps at rates that rise, and draws their loss.

    python -m tools.find_learning_rate --config=experiments/recipes/digits.py --output=rate.png
    python -m tools.find_learning_rate --config=mine.py --data=folder:/path/to/images --init_from=RUN --output=rate.png

It takes the flags of `experiments.train`, so that the steps are those that the training would take: its data,
augmentation, batch, loss and optimizer. For `tools.fine_tune` its own `--find_rate=rate.png` does the same. What is
printed is fastai's suggestion, a rate in the middle of where the loss falls. No folder of a run is touched.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
from absl import app, flags

from experiments import command_line, engine, path_flags, rate_finder, recipe_flags


def main(argv: list[str]) -> None:
    command_line.begin(argv)
    values = flags.FLAGS
    try:
        limits = rate_finder.Range(values.steps, values.lowest, values.highest)
        print(rate_finder.find(recipe_flags.recipe(), engine.connect(values.strategy), limits, values.output))
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    recipe_flags.define_file(required=True)
    recipe_flags.define_start()
    path_flags.define("output", None, "PNG file to draw.")
    flags.DEFINE_integer("steps", rate_finder.Range.steps, "Training steps to take.")
    flags.DEFINE_float("lowest", rate_finder.Range.lowest, "The first rate.")
    flags.DEFINE_float("highest", rate_finder.Range.highest, "The last rate.")
    flags.DEFINE_enum("strategy", "one_device", ["one_device", "mirrored", "sharded"], "As of experiments.train.")
    flags.mark_flag_as_required("output")
    app.run(main)
