"""A trained model as a preset of KerasHub's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import ml_collections

import coatnet_tf
from experiments.model_config import make_model_config

FORMAT = "keras_hub"


def write(model: keras.Model, folder: Path, recipe: Mapping[str, Any] | None) -> None:
    """Writes a preset, which `keras_hub.models.ImageClassifier.from_preset` reads.

    Args:
        model: A model of `coatnet_tf`, with its top.
        folder: Where to.
        recipe: Of its run, which says its configuration; without one, its name does.

    Raises:
        ValueError: If its configuration is not known, or it is another model.
        ImportError: If KerasHub is not installed.
    """
    from coatnet_tf.keras_hub import CoAtNetImageClassifier  # here, as it needs KerasHub

    if recipe is not None:
        settings = ml_collections.ConfigDict(recipe["model"])
        config = coatnet_tf.get_config(make_model_config(settings), drop_path_rate=0.0, dropout=0.0)
    elif model.name in {**coatnet_tf.FAMILY, **coatnet_tf.RELATIVES}:
        config = coatnet_tf.get_config(model.name)
    else:
        raise ValueError(
            f"{model.name!r} is no network that is known by its name: export it from its run (--workdir), or write the "
            "preset in Python, with coatnet_tf.keras_hub.CoAtNetImageClassifier.of(model, config)."
        )
    CoAtNetImageClassifier.of(model, config).save_to_preset(folder)
