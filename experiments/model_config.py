"""From the fields of a recipe's model to the configuration of its network."""

from __future__ import annotations

import ml_collections

import coatnet_tf


def make_model_config(settings: ml_collections.ConfigDict) -> coatnet_tf.CoAtNetConfig:
    """The configuration of a recipe's model: a member of the family with changes, or one of its own.

    Args:
        settings: `name` and fields of `coatnet_tf.CoAtNetConfig`, or with `depths` in it the arguments
            of `coatnet_tf.make_config`.

    Returns:
        A `coatnet_tf.CoAtNetConfig`.

    Raises:
        ValueError: If the name or a value is refused.
    """
    fields = settings.to_dict()
    if "depths" in fields:
        if fields["name"] in {**coatnet_tf.FAMILY, **coatnet_tf.RELATIVES}:
            raise ValueError(
                f"config.model.name is {fields['name']!r}, but config.model.depths describes a model of its own: "
                "take another name, or a recipe without depths."
            )
        return coatnet_tf.make_config(**fields)
    return coatnet_tf.get_config(fields.pop("name"), **fields)


def model_norms(config: coatnet_tf.CoAtNetConfig) -> dict[str, str]:
    """The norms of a model by the names of their options."""
    return {"conv_norm": config.mbconv.conv_norm, "transformer_norm": config.transformer.transformer_norm}
