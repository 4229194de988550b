"""CoAtNet as a backbone: the feature maps of every resolution, for detectors and segmenters to stand on."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import keras

from coatnet_tf.config import CoAtNetConfig, StageConfig
from coatnet_tf.family import get_config
from coatnet_tf.models import CoAtNet, Shape, report
from coatnet_tf.pretrained import find_pretrained, is_pretrained_name, load_initial_weights


@keras.saving.register_keras_serializable(package="coatnet_tf")
class CoAtNetBackbone(keras.Model):
    """A CoAtNet without its classifier, whose `pyramid_outputs` are its feature maps by resolution.

    `model.pyramid_outputs` is `{"P1": ..., "P2": ..., ...}`, the last feature map at each of the strides 2, 4, ...: P1
    is the stem, P2 to P5 are S1 to S4. KerasHub's detectors and segmenters take it as their `image_encoder`. The
    model's own output is the last of them, `[batch, H / 32, W / 32, width]`.

    Args:
        config: A name, `"coatnet-0"` .. `"coatnet-7"` or one of `RELATIVES`, a name that `list_weights` lists (it
            stands for its configuration), or a `CoAtNetConfig`.
        input_shape: `(height, width, channels)`, `(224, 224, 3)` by default; height and width are divisible by 32.
        weights: `None`, a `.weights.h5` or `.keras` file of a whole model, or a name that `list_weights` lists. Bias
            tables of another input size are resized, which a warning reports; the head is left aside.
        include_preprocessing: Whether the model takes images in [0, 255].
        drop_path_rate: Replaces the configuration's stochastic depth rate.
        name: Model name; the configuration's and `_backbone` by default.
        **kwargs: Further arguments of `keras.Model`.

    Raises:
        ValueError, FileNotFoundError, OSError, ImportError: As `CoAtNet` and `from_pretrained` raise them.

    Example:
    >>> import numpy as np
    >>> import coatnet_tf
    >>> config = coatnet_tf.make_config("tiny", (1, 1, 1, 1, 1), (8, 16, 16, 32, 64))
    >>> backbone = coatnet_tf.CoAtNetBackbone(config, input_shape=(64, 96, 3))
    >>> {level: tuple(x.shape[1:]) for level, x in backbone.pyramid_outputs.items()}["P5"]
    (2, 3, 64)
    """

    def __init__(
        self,
        config: str | CoAtNetConfig,
        input_shape: Shape | None = None,
        weights: str | os.PathLike[str] | None = None,
        include_preprocessing: bool = True,
        drop_path_rate: float | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(config, str) and is_pretrained_name(config):
            config = find_pretrained(config).config
        config = get_config(config, **({} if drop_path_rate is None else {"drop_path_rate": drop_path_rate}))
        features = CoAtNet(
            config, include_top=False, input_shape=input_shape, include_preprocessing=include_preprocessing
        )
        if weights is not None:
            loaded = load_initial_weights(features, weights, resize=True, reset_head=True)
            report(loaded, os.fspath(weights))
        super().__init__(
            inputs=features.inputs, outputs=features.output, name=name or f"{config.name}_backbone", **kwargs
        )
        self.config = config
        self.include_preprocessing = include_preprocessing
        self.pyramid_outputs = _pyramid(features, config)

    def get_config(self) -> dict[str, Any]:
        return {
            "config": dataclasses.asdict(self.config),
            "input_shape": tuple(self.input_shape[1:]),
            "include_preprocessing": self.include_preprocessing,
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> CoAtNetBackbone:
        del custom_objects
        fields = dict(config["config"])
        fields["stages"] = tuple(StageConfig(**stage) for stage in fields["stages"])
        if isinstance(fields["stem_width"], list):
            fields["stem_width"] = tuple(fields["stem_width"])
        return cls(**{**config, "config": CoAtNetConfig(**fields), "input_shape": tuple(config["input_shape"])})


def _pyramid(features: keras.Model, config: CoAtNetConfig) -> dict[str, Any]:
    """The last feature map at each stride, by the logarithm of the stride."""
    level = config.stem_stride.bit_length() - 1
    outputs = {f"P{level}": features.get_layer(f"stem_conv{config.stem_depth:02d}").output}
    number: dict[str, int] = {}
    for stage in config.stages:
        level += stage.stride.bit_length() - 1
        number[stage.name] = number.get(stage.name, 0) + stage.depth
        outputs[f"P{level}"] = features.get_layer(f"{stage.name}_block{number[stage.name]:02d}").output
    return outputs
