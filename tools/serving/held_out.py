"""The held-out images of a run, answered by an exported model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import ml_collections
import numpy as np
from etils import epath

from experiments import workdir
from experiments.data import pipeline, sources, views
from experiments.sizes import Size
from tools.serving import exported, model_card


def are_right(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Whether the likeliest class is the image's, or one of its several, as training counts: bool `[n]`.

    Args:
        targets: `[n, classes]` with 1 for each class of the image.
        probabilities: `[n, classes]`.
    """
    return np.take_along_axis(targets, probabilities.argmax(axis=-1)[:, None], axis=-1)[:, 0] > 0


def view_of_export(version: Path, size: Size, config: ml_collections.ConfigDict) -> views.View:
    """What an export sees of an image: as its model card says, or as its run does."""
    return model_card.view_of(version, size) or dataclasses.replace(views.of_recipe(config), size=size)


def classify_held_out(
    model: exported.ExportedModel, run: Path, config: ml_collections.ConfigDict, view: views.View
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Classifies the held-out images of a run, in the dtype that the export takes.

    Args:
        model: The export.
        run: Folder of the run.
        config: Its recipe.
        view: What the export sees of an image.

    Yields:
        One batch after another: images, uint8 `[n, height, width, channels]`, targets `[n, classes]` with 1 for each
        class of the image, and probabilities `[n, classes]`.

    Raises:
        ValueError: If the export takes images of other channels, or the data has changed since the run began.
    """
    channels = model.image_shape[-1]
    source = sources.prepare(config.dataset)
    workdir.check_data(epath.Path(run), source, "train again")
    if channels != source.channels:
        raise ValueError(
            f"The export takes images of {channels} channels, and those of {source.name} have {source.channels}."
        )
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():  # older runs do not name all of these, and a size can be a number
        config.image_size, config.eval_crop, config.interpolation = view.size, view.crop, view.interpolation
    for images, targets, weights in pipeline.evaluation_batches(source, config):
        kept = weights.numpy() > 0  # neither filling nor damaged
        if kept.any():
            batch = images.numpy()[kept]
            yield batch, targets.numpy()[kept], model.classify(batch.astype(model.dtype))
