"""Which layers of a model are trained: fine-tuning from a layer on, with the norms as they are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator

import keras

_NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
)


def freeze(model: keras.Model, until: str | None = None, norms: bool = True) -> None:
    """Freezes a model up to a layer, and all its norms; the rest is trained.

    Norms are found wherever they are, in blocks and in models inside the model. A frozen BatchNorm keeps its moving
    statistics and computes with them in training too, as `keras.layers.BatchNormalization` says. What was frozen before
    is trained again unless this call freezes it. Saved and cloned models stay frozen. As always with Keras, call
    `compile` afterwards.

    Args:
        model: A functional or sequential model, built; a CoAtNet or a model with one in it.
        until: The last thing that is frozen whole, with all before it: a layer, such as `"s3_block02"`, or all that
            belong to a stage (`"s3"`) or the stem (`"stem"`). `None` freezes no layer whole.
        norms: Whether the norms behind it are frozen too.

    Raises:
        ValueError: If there is no such layer or stage, the model is not built, or has LoRA already.

    Example:
    >>> import coatnet_tf
    >>> config = coatnet_tf.make_config("tiny", (1, 1, 1), (8, 16, 32), "CT")
    >>> model = coatnet_tf.CoAtNet(config, input_shape=(32, 32, 3), classes=10)
    >>> coatnet_tf.freeze(model, until="s1")
    >>> [layer.name for layer in model.layers if layer.trainable and layer.weights]
    ['s2_block01', 'head_hidden', 'predictions']
    """
    if not model.built:
        raise ValueError(f"{model.name} is not built; call it on an image once, or give it a keras.Input.")
    if any(getattr(layer, "lora_enabled", False) for layer in model._flatten_layers()):
        raise ValueError(f"{model.name} has LoRA, whose kernels would be trained then; freeze it before enable_lora.")
    layers = list(_layers(model))
    frozen = 0 if until is None else last_of(model, layers, until) + 1
    model.trainable = True
    for number, layer in enumerate(layers):
        within = list(layer._flatten_layers())  # itself first
        layer.trainable = number >= frozen
        for part in within if norms else []:
            if isinstance(part, _NORMS):
                part.trainable = False


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model in order, those of models inside it in their place."""
    for layer in model.layers:
        if isinstance(layer, keras.Model) and layer.layers:
            yield from _layers(layer)
        else:
            yield layer


def last_of(model: keras.Model, layers: Iterable[keras.layers.Layer], part: str) -> int:
    """The place of the last layer that belongs to a part of a network.

    Args:
        model: The model, for the message.
        layers: Its layers in order.
        part: A layer, such as `"s3_block02"`, a stage (`"s3"`) or the stem (`"stem"`).

    Raises:
        ValueError: If there is no such layer or stage; it names the nearest.
    """
    names = [layer.name for layer in layers]
    pattern = re.compile(rf"{re.escape(part)}(_block\d+)?" + (r"|stem_\w+" if part == "stem" else ""))
    found = [place for place, name in enumerate(names) if pattern.fullmatch(name)]
    if not found:
        known = list(dict.fromkeys([*(re.sub(r"_block\d+$", "", name) for name in names), *names]))
        near = difflib.get_close_matches(part, known, n=3, cutoff=0.3) or known[:5]
        raise ValueError(f"There is no layer or stage {part!r} in {model.name}; the nearest are {', '.join(near)}.")
    return found[-1]
