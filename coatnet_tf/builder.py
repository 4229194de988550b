"""From a configuration to a functional `keras.Model`, for CoAtNet and for its rivals: the one builder."""

from __future__ import annotations

import difflib
import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras

from coatnet_tf.imagenet import preprocessing_layer
from coatnet_tf.layers import common, parts
from coatnet_tf.layers.options import PositiveInt, check, replace
from coatnet_tf.layers.parts import Change
from coatnet_tf.network import ImageShape, Network
from coatnet_tf.pretrained import load_initial_weights
from coatnet_tf.weights import Loaded

DEFAULT_SIZE = 224


def build_model(
    config: Any,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: Any = None,
    input_shape: ImageShape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    include_preprocessing: bool = True,
    dtype: Any = None,
    **options: Any,
) -> keras.Model:
    """Builds the model of a configuration.

    Args:
        config: The configuration.
        include_top: Whether to end in the classifier. Without it the output is the last feature map,
            `[batch, H / stride, W / stride, width]`.
        weights: `None` for random initialisation, the path of a `.weights.h5` or `.keras` file, or a name that
            `list_weights` lists, if the configuration is that of the name (`from_pretrained` finds it for you).
            Without the top the head in the file is left aside.
        input_tensor: Keras tensor to use as input, in place of a new `keras.Input`.
        input_shape: `(height, width, channels)`, channels last; `(224, 224, 3)` by default. Height and
            width fix the size of bias tables and position embeddings, and are divisible by the total stride.
        pooling: Without the top: `None`, `"avg"` or `"max"` to pool the last feature map globally.
        classes: Number of classes of the top.
        classifier_activation: Activation of the top; `None` returns the logits.
        name: Model name; the configuration's by default.
        include_preprocessing: Whether the model takes images in [0, 255] and rescales them itself to
            its own range. With `False`, call `rescale` first, with the configuration's `preprocessing`.
        dtype: Dtype or dtype policy of all layers, such as `"mixed_bfloat16"`; Keras' global one by default. The
            classifier's is float32 at least.
        **options: Fields of the configuration to replace, by name at any depth: `drop_path_rate`, `head_size`, ...

    Returns:
        A functional `keras.Model`. Its output is float32 under every dtype policy if it has the top.

    Raises:
        ValueError: If an argument is out of its range, the input size cannot be divided by the strides of all
            stages, or the weights do not fit (by name and shape).
        FileNotFoundError: If `weights` does not exist.
    """
    for option in options:
        if near := difflib.get_close_matches(option, _ARGUMENTS, n=1, cutoff=0.8):
            raise ValueError(f"There is no argument {option!r}; the nearest is {near[0]}.")
    config = replace(config, **options)
    check("include_top", include_top, bool)
    check("include_preprocessing", include_preprocessing, bool)
    if not isinstance(weights, str | os.PathLike | None):
        raise ValueError(f"weights must be a path, a name of list_weights() or None; got {weights!r}.")
    if pooling not in (None, "avg", "max"):
        raise ValueError(f'pooling must be None, "avg" or "max"; got {pooling!r}.')
    if include_top:
        check("classes", classes, PositiveInt)
    backbone = build_backbone(config, input_tensor, input_shape, include_preprocessing, dtype)
    if include_top:
        layers = config.head_layers(int(classes), classifier_activation, dtype)
    else:
        shape = tuple(backbone.input_shape[1:]) if input_tensor is None else tuple(input_tensor.shape[1:])
        layers = config.map_layers(shape, dtype) + _pooling_layers(pooling, dtype)
    model = keras.Model(backbone.input, common.chain(layers, backbone.output), name=name or config.name)
    if weights is not None:
        warn_of_changes(load_initial_weights(model, weights, reset_head=not include_top), os.fspath(weights))
    return model


_ARGUMENTS = [name for name in inspect.signature(build_model).parameters if name != "options"]


def build_backbone(
    config: Network,
    input_tensor: Any,
    input_shape: ImageShape | None,
    include_preprocessing: bool,
    dtype: Any,
    changes: Mapping[str, Change] | None = None,
) -> keras.Model:
    """The model from images to features, on which a classifier stands.

    Args:
        config, input_tensor, input_shape, include_preprocessing, dtype: See `build_model`.
        changes: What differs in layers from how they are made, by their names; see `coatnet_tf.layers.parts`.
    """
    if input_shape is not None:
        config.check_input_shape(input_shape)
    image = _image_input(input_tensor, input_shape)
    shape = tuple(image.shape[1:])
    config.check_input_shape(shape)
    if not include_preprocessing and "int" in image.dtype:
        raise ValueError(
            f"input_tensor is {image.dtype}, and without preprocessing the network takes floating-point images: cast "
            "and rescale it first, or leave include_preprocessing on."
        )
    layers = [preprocessing_layer(config.preprocessing, shape[-1], dtype)] if include_preprocessing else []
    layers += config.feature_layers(shape, dtype)
    for layer in layers:
        parts.restore(layer, (changes or {}).get(layer.name, {}))
    features = common.chain(layers, image)
    inputs = image if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
    return keras.Model(inputs, features, name=f"{config.name}_backbone")


def _pooling_layers(pooling: str | None, dtype: Any) -> list[keras.layers.Layer]:
    if pooling is None:
        return []
    pool = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}[pooling]
    return [pool(data_format="channels_last", dtype=dtype, name="head_pool")]


def _image_input(input_tensor: Any, input_shape: ImageShape | None) -> Any:
    if input_tensor is None:
        shape = (DEFAULT_SIZE, DEFAULT_SIZE, 3) if input_shape is None else tuple(input_shape)
        return keras.Input(shape, name="image")
    if not keras.utils.is_keras_tensor(input_tensor):
        raise ValueError(f"input_tensor must be a Keras tensor, as keras.Input returns; got {type(input_tensor)}.")
    if input_shape is not None and tuple(input_tensor.shape[1:]) != tuple(input_shape):
        raise ValueError(
            f"input_shape {tuple(input_shape)} and the shape {tuple(input_tensor.shape[1:])} of input_tensor "
            "disagree: leave input_shape out, or make them equal."
        )
    return input_tensor


def warn_of_changes(loaded: Loaded, name: str) -> None:
    """Warns of what was resized, adapted or begun anew."""
    if loaded.resized or loaded.reset or loaded.adapted:
        warnings.warn(f"{name}: {loaded}.", stacklevel=3)


def make_factory(function_name: str, config: Network, summary: str) -> Callable[..., keras.Model]:
    """A function that builds one configuration, with the signature of `keras.applications` and of `build_model`."""

    def factory(*args: Any, **kwargs: Any) -> keras.Model:
        arguments = signature.bind(*args, **kwargs).arguments
        options = arguments.pop("options", {})
        return build_model(config, **{"name": default_name, **arguments, **options})

    default_name = function_name.lower()
    signature = inspect.signature(build_model, eval_str=True)
    parameters = [
        parameter.replace(default=default_name) if parameter.name == "name" else parameter
        for parameter in signature.parameters.values()
        if parameter.name != "config"
    ]
    signature = signature.replace(parameters=parameters)
    factory.__signature__ = signature  # type: ignore[attr-defined]
    factory.__name__ = factory.__qualname__ = function_name
    factory.__doc__ = f"{summary}\n\n    The arguments are those of `CoAtNet`, which documents them, without `config`."
    return factory
