"""The held-out images of a run, answered by an exported model."""

from __future__ import annotations

from collections.abc import Iterator

import ml_collections
import numpy as np

from experiments.data import pipeline, sources
from tools.serving.exported import ExportedModel


def classify_held_out(
    model: ExportedModel, config: ml_collections.ConfigDict
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Classifies the held-out images of a run, at the size and in the dtype that the export takes.

    Args:
        model: The export.
        config: The run's recipe.

    Yields:
        One batch after another: images, uint8 `[n, height, width, channels]`, targets `[n, classes]` with 1 for each
        class of the image, and probabilities `[n, classes]`.

    Raises:
        ValueError: If the export takes images of other channels.
    """
    *size, channels = model.image_shape
    source = sources.prepare(config.dataset)
    if channels != source.channels:
        raise ValueError(
            f"The export takes images of {channels} channels, and those of {source.name} have {source.channels}."
        )
    config = config.copy_and_resolve_references()
    with config.ignore_type():  # a number, or two
        config.image_size = tuple(size)
    for images, targets, weights in pipeline.evaluation_batches(source, config):
        kept = weights.numpy() > 0  # neither filling nor damaged
        if kept.any():
            batch = images.numpy()[kept]
            yield batch, targets.numpy()[kept], model.classify(batch.astype(model.dtype))
