"""Draws RandAugment's operations by magnitude, as a contact sheet.

    python -m tools.paper.draw_randaugment --output=docs/randaugment.png

The photograph is one that scikit-learn ships (by Don DeBold, CC BY 2.0).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from absl import app, flags

from experiments import command_line, path_flags, randaugment
from experiments.charts import plt
from experiments.data import images

MAGNITUDES = (2, 5, 10, 15, 20)
SIZE = 224


def photograph() -> tf.Tensor:
    """uint8 `[224, 224, 3]`."""
    from sklearn.datasets import load_sample_image

    photo = load_sample_image("china.jpg")[60:, 140:]
    side = min(photo.shape[:2])
    return images.resize(tf.constant(photo[:side, :side]), (SIZE, SIZE))


def draw_randaugment(path: str) -> None:
    """Draws one row for each operation and one column for each magnitude.

    Args:
        path: Where to.
    """
    image = photograph()
    names = list(randaugment.OPERATIONS)
    figure, grid = plt.subplots(
        len(names), 1 + len(MAGNITUDES), figsize=(1.3 * (1 + len(MAGNITUDES)), 1.3 * len(names)), layout="constrained"
    )
    for row, name in enumerate(names):
        _show(grid[row, 0], image, name, row)
        for column, magnitude in enumerate(MAGNITUDES, start=1):
            changed = randaugment.apply(image, tf.constant(row), magnitude, tf.constant([0, row]))
            _show(grid[row, column], changed, "", row, title=f"M = {magnitude}")
    figure.savefig(path, dpi=60)
    plt.close(figure)


def _show(axes: Any, image: tf.Tensor, label: str, row: int, title: str = "as it is") -> None:
    axes.imshow(np.asarray(image))
    axes.set(xticks=[], yticks=[])
    axes.set_ylabel(label, size=8)
    if row == 0:
        axes.set_title(title, size=8)


def main(argv: list[str]) -> None:
    command_line.begin(argv)
    draw_randaugment(flags.FLAGS.output)
    print(f"Drew {flags.FLAGS.output}")


if __name__ == "__main__":
    path_flags.define("output", "docs/randaugment.png", "Where to.")
    app.run(main)
