"""Where fine-tuning begins: a network, its weights, and the learning rate that suits it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import ml_collections
from etils import epath

import coatnet_tf
from coatnet_tf.pretrained import find_pretrained, is_pretrained_name
from coatnet_tf.weights import places_of, stored_shapes
from experiments import tuning, workdir
from experiments.recipes import base, small_folder

FACTORS = {tuning.HEAD: 10, tuning.LORA: 10}  # the rate of a way over that of all weights: docs/fine_tuning.md
NO_WEIGHTS = "none"  # for --init_from
_FIRST_KERNEL = "stem_conv01#0"
_RGB = 3
_TUNING_SHARE = 3  # the rate of a training from scratch over that of fine-tuning


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
        return Start(init_from, _relative(network.config), network.image_size, _RGB, defaults.optimizer.learning_rate)
    if init_from == NO_WEIGHTS:
        fields = _fields_of(model or "coatnet-0", "Which network is to be trained?")
        return Start("", fields, defaults.image_size, 0, _TUNING_SHARE * defaults.optimizer.learning_rate)
    path = epath.Path(init_from)
    if path.is_dir():
        if model:
            raise ValueError(f"{path} is a run, whose {workdir.CONFIG} says which model it is; leave --model out.")
        recipe = workdir.read_recipe(path, workdir.MODEL)
        # How large a rate suits a network depends on its width: its own training knows.
        learning_rate = recipe.optimizer.learning_rate / (1 if recipe.init_from else _TUNING_SHARE)
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
    places = places_of(_FIRST_KERNEL, shapes)  # also inside a model of one's own
    if not places:
        raise ValueError(
            f"{weights} holds no weights of a CoAtNet: there is no {_FIRST_KERNEL.partition('#')[0]} in it."
        )
    return shapes[places[0] + _FIRST_KERNEL][2]
