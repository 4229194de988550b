"""What the rivals share: a configuration that is a chain of layers, and the model built from it."""

from __future__ import annotations

import abc
import dataclasses
import os
from collections.abc import Callable
from typing import Any

import keras

from coatnet_tf.config import is_positive_int
from coatnet_tf.imagenet import preprocessing_layer
from coatnet_tf.models import (
    Shape,
    check_image_shape,
    check_top,
    image_input,
    pooling_layers,
    predictions_layer,
)
from coatnet_tf.weights import load_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineConfig(abc.ABC):
    """Everything that fixes the shape of a rival.

    Args:
        name: Model name, e.g. `"vit-l-16"`.
        drop_path_rate: Stochastic depth rate of the last block; earlier ones rise to it linearly from 0.
        dropout: Dropout rate before the classifier.

    Raises:
        ValueError: If a field is out of its range.
    """

    name: str
    drop_path_rate: float = 0.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for rate in ("drop_path_rate", "dropout"):
            if not 0.0 <= getattr(self, rate) < 1.0:
                raise ValueError(f"{rate} must be at least 0 and below 1; got {getattr(self, rate)!r}.")

    @property
    @abc.abstractmethod
    def preprocessing(self) -> str:
        """What images in [0, 255] become: `"tf"` or `"torch"`; see `CoAtNetConfig`."""

    @property
    @abc.abstractmethod
    def total_stride(self) -> int:
        """Image size over the size of the last feature map."""

    @abc.abstractmethod
    def feature_layers(self, input_shape: Shape) -> list[keras.layers.Layer]:
        """The unbuilt layers from the preprocessed image on, each called on the one before."""

    @abc.abstractmethod
    def map_layers(self, input_shape: Shape) -> list[keras.layers.Layer]:
        """Those from the features to a feature map `[batch, H / total_stride, W / total_stride, width]`."""

    @abc.abstractmethod
    def head_layers(self, classes: int, activation: Any) -> list[keras.layers.Layer]:
        """Those from the features to the classes."""

    def classifier_layers(self, classes: int, activation: Any, initializer: Any = None) -> list[keras.layers.Layer]:
        """Dropout, if any, and the classifier."""
        dropout = [keras.layers.Dropout(self.dropout, name="head_dropout")] if self.dropout else []
        return [*dropout, predictions_layer(classes, activation, initializer)]

    def drop_path_rates(self, num_blocks: int) -> list[float]:
        """Stochastic depth rate of every block."""
        return [self.drop_path_rate * index / max(1, num_blocks - 1) for index in range(num_blocks)]

    def check_input_shape(self, input_shape: tuple[Any, ...]) -> None:
        """Refuses input shapes that are no images, or whose height or width the total stride does not divide."""
        check_image_shape(self.name, input_shape)
        stride = self.total_stride
        for axis, size in zip(("height", "width"), input_shape[:2], strict=True):
            if size % stride:
                near = [str(n) for n in (size // stride * stride, (size // stride + 1) * stride) if n]
                raise ValueError(
                    f"{self.name}: {axis} {size} is no multiple of the total stride, {stride}; choose "
                    f"{' or '.join(near)}."
                )


def require_positive(config: Any, *fields: str) -> None:
    """Refuses a configuration in which one of these fields is no positive integer, or no tuple of them."""
    for field in fields:
        value = getattr(config, field)
        if not all(map(is_positive_int, value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{field} must be positive integers; got {value!r}.")


def Baseline(
    config: BaselineConfig,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: Any = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    include_preprocessing: bool = True,
    drop_path_rate: float | None = None,
    dropout: float | None = None,
) -> keras.Model:
    """Builds a rival of any configuration.

    Args:
        config: A `ViTConfig` or `NFNetConfig`.
        include_top: Whether to end in the classifier. Without it the output is the last feature map,
            `[batch, H / stride, W / stride, width]`; that of a ViT has the patches, and not the class token.
        weights: `None` for random initialisation, or the path of a `.weights.h5` or `.keras` file. Without the top
            the classifier in the file is left aside.
        input_tensor: Keras tensor to use as input, in place of a new `keras.Input`.
        input_shape: `(height, width, channels)`, channels last; `(224, 224, 3)` by default. Height and width are
            divisible by the total stride, and fix the number of position embeddings of a ViT.
        pooling: Without the top: `None`, `"avg"` or `"max"` to pool the last feature map globally.
        classes: Number of classes of the top.
        classifier_activation: Activation of the top; `None` returns the logits.
        name: Model name; the configuration's by default.
        include_preprocessing: Whether the model takes images in [0, 255] and rescales them itself: to [-1, 1] for a
            ViT, by mean and standard deviation of ImageNet's channels for an NFNet.
        drop_path_rate: Replaces the configuration's stochastic depth rate.
        dropout: Replaces the configuration's dropout rate before the classifier.

    Returns:
        A functional `keras.Model`. Its output is float32 under every dtype policy if it has the top.

    Raises:
        ValueError: If an argument is out of its range, the input size is no multiple of the total stride, or the
            weights do not fit (by name and shape).
        FileNotFoundError: If `weights` does not exist.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf import baselines
    >>> config = baselines.ViTConfig(name="tiny", patch_size=8, width=32, depth=2, mlp_width=64, num_heads=2)
    >>> model = baselines.Baseline(config, input_shape=(32, 48, 3), classes=10)
    >>> images = np.random.uniform(0, 255, (2, 32, 48, 3)).astype("float32")
    >>> tuple(model(images).shape)
    (2, 10)
    """
    replaced: dict[str, Any] = {"drop_path_rate": drop_path_rate, "dropout": dropout}
    config = dataclasses.replace(config, **{field: value for field, value in replaced.items() if value is not None})
    check_top(include_top, pooling, classes)
    image = image_input(input_tensor, input_shape)
    shape = tuple(image.shape[1:])
    config.check_input_shape(shape)

    layers = [preprocessing_layer(config.preprocessing)] if include_preprocessing else []
    layers += config.feature_layers(shape)
    if include_top:
        layers += config.head_layers(classes, classifier_activation)
    else:
        layers += config.map_layers(shape) + pooling_layers(pooling)
    x = image
    for layer in layers:
        x = layer(x)

    inputs = image if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
    model = keras.Model(inputs, x, name=name or config.name)
    if weights is not None:
        load_weights(model, weights, reset_head=not include_top)
    return model


def factory(function_name: str, config: BaselineConfig, summary: str) -> Callable[..., keras.Model]:
    """One of the rivals, with the signature of `keras.applications`."""

    def build(
        include_top: bool = True,
        weights: str | os.PathLike[str] | None = None,
        input_tensor: Any = None,
        input_shape: Shape | None = None,
        pooling: str | None = None,
        classes: int = 1000,
        classifier_activation: Any = "softmax",
        name: str = function_name.lower(),
        include_preprocessing: bool = True,
        drop_path_rate: float = 0.0,
        dropout: float = 0.0,
    ) -> keras.Model:
        return Baseline(
            config,
            include_top=include_top,
            weights=weights,
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            name=name,
            include_preprocessing=include_preprocessing,
            drop_path_rate=drop_path_rate,
            dropout=dropout,
        )

    build.__name__ = build.__qualname__ = function_name
    build.__doc__ = f"{summary}\n\n    The arguments are those of `Baseline`, which documents them, without `config`.\n"
    return build
