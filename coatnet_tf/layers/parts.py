"""What happened to layers inside a layer after they were made, freezing, quantisation, LoRA: kept in its config.

A block makes its layers from its own options; without this the layers of a loaded or cloned block would all be
trainable and in floating point again.
"""

from __future__ import annotations

from typing import Any

import keras

Change = dict[str, Any]


class LayerOfLayers(keras.layers.Layer):
    """A layer that makes layers of its own, and calls `restore_parts` before it builds them.

    Args:
        parts: What differs in these layers from how they are made, by attribute: `change_of` each. `get_config` has it.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, parts: dict[str, Change] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = parts or {}

    def restore_parts(self) -> None:
        """Makes the changes `parts` of the layers, which are made and not built yet."""
        own = _layers_of(self)
        for name, change in self.parts.items():
            restore(own[name], change)

    def changed_parts(self) -> dict[str, Change]:
        """What differs in the layers by now, by attribute."""
        if not self.built:
            return dict(self.parts)
        changes = {name: change_of(layer, self) for name, layer in _layers_of(self).items()}
        return {name: change for name, change in changes.items() if change}

    def get_config(self) -> dict[str, Any]:
        parts = self.changed_parts()
        return {**super().get_config(), **({"parts": parts} if parts else {})}


def change_of(layer: keras.layers.Layer, parent: keras.layers.Layer) -> Change:
    """What differs in a layer from how `parent` makes it.

    Returns:
        `"trainable"`, `"dtype"` and `"quantization_config"` as configs have them, `"lora"`, its rank and alpha, and
        `"parts"`, the changes of its own layers by attribute; each only if it differs.
    """
    change: Change = {}
    if layer.trainable != parent.trainable:
        change["trainable"] = layer.trainable
    if layer.quantization_mode:
        change["dtype"] = keras.dtype_policies.serialize(layer.dtype_policy)
        if quantization := layer.get_config().get("quantization_config"):
            change["quantization_config"] = quantization
    if getattr(layer, "lora_enabled", False):
        change["lora"] = {"lora_rank": layer.lora_rank, "lora_alpha": layer.lora_alpha}
    if isinstance(layer, LayerOfLayers) and (parts := layer.changed_parts()):
        change["parts"] = parts
    return change


def restore(layer: Any, change: Change) -> None:
    """Makes the change of a layer, as `change_of` has it; the layer is not built yet."""
    if "quantization_config" in change:
        layer.quantization_config = keras.saving.deserialize_keras_object(change["quantization_config"])
    if "dtype" in change:
        layer.dtype_policy = keras.dtype_policies.deserialize(change["dtype"])
    if "trainable" in change:
        layer.trainable = change["trainable"]
    for attribute, value in change.get("lora", {}).items():
        setattr(layer, attribute, value)
    if "parts" in change:
        layer.parts = change["parts"]


def restore_trainable(layer: LayerOfLayers) -> None:
    """Freezes the layers of one that is frozen, which Keras leaves out if its config said so, but for `parts`."""
    if not layer.trainable:
        layer.trainable = True  # TensorFlow leaves out assignments of what is there already
        layer.trainable = False
    _apply_trainable(layer, layer.parts)


def _apply_trainable(layer: keras.layers.Layer, changes: dict[str, Change]) -> None:
    own = _layers_of(layer)
    for name, change in changes.items():
        if "trainable" in change:
            own[name].trainable = change["trainable"]
        _apply_trainable(own[name], change.get("parts", {}))


def _layers_of(layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
    return {name: value for name, value in vars(layer).items() if isinstance(value, keras.layers.Layer)}
