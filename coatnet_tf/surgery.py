"""Other models from a trained one: its feature maps, its vector of an image, other classes, another input size."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras

from coatnet_tf.builder import warn_of_changes
from coatnet_tf.freezing import last_of
from coatnet_tf.graph import as_functional, call_of, inlined, is_functional
from coatnet_tf.layers import ResidualBlock
from coatnet_tf.layers.options import PositiveInt, check, is_positive_int
from coatnet_tf.model import CoAtNetBackbone
from coatnet_tf.rivals.vit import TokenEmbedding
from coatnet_tf.weights import Loaded, resize_table
from coatnet_tf.weights.resizing import is_other_table

_OF_NETWORK = re.compile(r"(stem|patch|encoder|final|resnet)_|map_grid|.*block\d|head_norm")  # names of layers
_OF_A_SIZE = (keras.layers.Resizing, keras.layers.CenterCrop, keras.layers.RandomCrop)
_VECTORS = ("head_pool", "head_token")  # the layers that make one vector of an image


def features(model: keras.Model, names: Sequence[str]) -> keras.Model:
    """The model of the feature maps inside another, whose layers and weights it shares.

    Args:
        model: A functional or sequential model, a CoAtNet, one of its rivals or a `CoAtNetBackbone`.
        names: Stages (`"s2"`: what its last block gives), `"stem"`, or layers (`"s3_block02"`, `"head_hidden"`).

    Returns:
        A functional model that gives a dictionary of these outputs, by the names that were asked for.

    Raises:
        ValueError: If there is no such stage or layer, or the network is a model inside `model`.

    Example:
    >>> import numpy as np
    >>> import coatnet_tf
    >>> config = coatnet_tf.make_config("tiny", (1, 1, 1, 1, 1), (8, 16, 16, 32, 64))
    >>> model = coatnet_tf.CoAtNet(config, input_shape=(64, 96, 3), classes=10)
    >>> maps = coatnet_tf.features(model, ["s2", "s4"])(np.zeros((1, 64, 96, 3), "float32"))
    >>> {name: tuple(x.shape) for name, x in maps.items()}
    {'s2': (1, 8, 12, 16), 's4': (1, 2, 3, 64)}
    """
    _check_functional(model, "features")
    if isinstance(names, str) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f'features takes a list of stages or layers, such as ["s2", "s4"]; got {names!r}.')
    for inner in model.layers:
        if is_functional(inner):
            raise ValueError(
                f"{inner.name} is a model inside {model.name}; take the features of that, "
                f"features({model.name}.get_layer({inner.name!r}), ...)."
            )
    view = as_functional(model)
    outputs = {name: call_of(view, model.layers[last_of(model, model.layers, name)])[1] for name in names}
    return keras.Model(view.input, outputs, name=f"{model.name}_features")


def embeddings(model: keras.Model) -> keras.Model:
    """The model of one vector for each image: the mean of the last feature map, as the head pools it.

    With a head that norms before it pools (`"norm_pool"`), the norm is in it; of a vision transformer it is the class
    token.

    Args:
        model: A CoAtNet, one of its rivals or a `CoAtNetBackbone`; the layers and weights are shared.

    Returns:
        A functional model that gives `[batch, width]`.

    Raises:
        ValueError: If the model ends in neither a head of this package nor a feature map, or the network is a model
            inside it.

    Example:
    >>> import coatnet_tf
    >>> config = coatnet_tf.make_config("tiny", (1, 1, 1, 1, 1), (8, 16, 16, 32, 64))
    >>> model = coatnet_tf.CoAtNet(config, input_shape=(64, 96, 3), classes=10)
    >>> coatnet_tf.embeddings(model).output_shape
    (None, 64)
    """
    _check_functional(model, "embeddings")
    view = as_functional(model)
    pools = [call_of(view, layer)[1] for layer in model.layers if layer.name in _VECTORS]
    if not pools and len(model.outputs) == 1 and _is_feature_map(model.outputs[0]):
        pools = [keras.layers.GlobalAveragePooling2D(data_format="channels_last", name=_VECTORS[0])(model.outputs[0])]
    if not pools:
        raise ValueError(
            f"{model.name} has neither a head of this package, with a layer {' or '.join(_VECTORS)}, nor a feature map "
            "as its output; name the layer whose output you mean with features(model, [LAYER])."
        )
    return keras.Model(view.input, pools[-1], name=f"{model.name}_embeddings")


def _is_feature_map(output: Any) -> bool:
    """Whether it is what a network finds, and not what somebody makes of it."""
    return len(output.shape) == 4 and bool(_OF_NETWORK.match(output._keras_history.operation.name))


def reset_classifier(model: keras.Model, classes: int) -> keras.Model:
    """A copy of a model for other classes: the last Dense layer begins anew, everything before it has the same weights.

    Args:
        model: A functional or sequential model that ends in a Dense layer, as CoAtNet and its rivals do, or in an
            activation behind one. It is not changed.
        classes: Number of classes of the copy.

    Returns:
        A functional model of the same name, not compiled, with weights of its own.

    Raises:
        ValueError: If the model does not end in a Dense layer, alone, or `classes` is no positive integer.

    Example:
    >>> import coatnet_tf
    >>> config = coatnet_tf.make_config("tiny", (1, 1, 1, 1, 1), (8, 16, 16, 32, 64))
    >>> model = coatnet_tf.CoAtNet(config, input_shape=(64, 96, 3), classes=1000)
    >>> coatnet_tf.reset_classifier(model, 6).output_shape, model.output_shape
    ((None, 6), (None, 1000))
    """
    _check_functional(model, "reset_classifier")
    check("classes", classes, PositiveInt)
    if len(model.outputs) != 1:
        raise ValueError(
            f"reset_classifier takes a model with one output; {model.name} has {len(model.outputs)}. Take the model of "
            "one of them, and build the others around that again."
        )
    classifier = model.outputs[0]._keras_history.operation
    while isinstance(classifier, keras.layers.Activation | keras.layers.Softmax):
        classifier = classifier.input._keras_history.operation
    if not isinstance(classifier, keras.layers.Dense):
        raise ValueError(
            f"{model.name} ends in {classifier.name}, which is no Dense layer, so that there is no classifier to begin "
            "anew."
        )
    if classifier.quantization_mode:
        raise ValueError(f"{classifier.name} of {model.name} is quantised; reset the classifier of the model before.")

    def copied(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if layer is classifier:  # a new one learns, whatever is frozen before it
            config = {key: value for key, value in config.items() if not key.startswith("lora_")}
            config |= {"units": int(classes), "trainable": True}
        return type(layer).from_config(config)

    copy, pairs = _clone(model, copied)
    for old, new in pairs:
        if old is not classifier:
            new.set_weights(old.get_weights())
    return copy


def resize(model: keras.Model, size: tuple[int, int]) -> keras.Model:
    """A copy of a model for images of another size, whose relative position bias tables are interpolated.

    As where weights are loaded at another size (`coatnet_tf.weights.resize_table`); a warning names the tables.

    Args:
        model: A functional or sequential model with a CoAtNet in it. It is not changed; models inside it are taken
            apart into their layers.
        size: Height and width, divisible by the network's total stride.

    Returns:
        A functional model (of a `CoAtNetBackbone`, another one) of the same name, not compiled, with weights of its
        own.

    Raises:
        ValueError: If the network cannot take the size, or a weight that is no bias table depends on it, as position
            embeddings and a Dense layer behind a Flatten do.

    Example:
    >>> import warnings
    >>> import coatnet_tf
    >>> config = coatnet_tf.make_config("tiny", (1, 1, 1, 1, 1), (8, 16, 16, 32, 64))
    >>> model = coatnet_tf.CoAtNet(config, input_shape=(64, 96, 3), classes=10)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     larger = coatnet_tf.resize(model, (96, 96))
    >>> larger.input_shape, tuple(larger.get_layer("s4_block01").attention.relative_bias.table.shape)
    ((None, 96, 96, 3), (2, 5, 5))
    """
    _check_functional(model, "resize")
    if not isinstance(size, tuple | list) or len(size) != 2 or not all(map(is_positive_int, size)):
        raise ValueError(f"size must be (height, width), two positive integers; got {size!r}.")
    if len(model.inputs) != 1:
        raise ValueError(
            f"resize takes a model of one image; {model.name} has {len(model.inputs)} inputs. Resize the network in "
            "it, and build the model around that again."
        )
    height, width = size
    channels = model.input_shape[-1]
    if isinstance(model, CoAtNetBackbone):
        config = model.get_config()
        copy = type(model).from_config({**config, "input_shape": (height, width, channels)})
        pairs: list[Any] = list(zip(model.layers, copy.layers, strict=True))
    else:
        model = inlined(model)
        _check_size(model, (height, width))
        image = keras.Input((height, width, channels), name=model.inputs[0].name, dtype=model.inputs[0].dtype)
        try:
            copy, pairs = _clone(model, lambda layer: type(layer).from_config(layer.get_config()), image)
        except ValueError as error:
            raise ValueError(f"{model.name} cannot take images of {height} x {width}: {error}") from error
    values, resized, misfits = [], [], []
    for old, new in pairs:
        for variable, wanted in zip(old.weights, new.weights, strict=True):
            value, path = keras.ops.convert_to_numpy(variable), variable.path
            shape, stored = tuple(wanted.shape), tuple(variable.shape)
            if is_other_table(path, shape, stored):
                value = resize_table(value, (shape[1], shape[2]))
                resized.append(f"{path} from {stored} to {shape}")
            elif shape != stored:
                misfits.append(f"{path} from {stored} to {shape}")
            values.append((wanted, value))
    if misfits:
        raise ValueError(
            f"{model.name} has weights that depend on the input size and cannot be interpolated, as relative position "
            f"bias tables can: {', '.join(misfits)}."
        )
    for wanted, value in values:
        wanted.assign(value)
    warn_of_changes(Loaded(resized=tuple(resized)), model.name)
    return copy


def _clone(
    model: keras.Model, copied: Callable[[keras.layers.Layer], keras.layers.Layer], image: Any = None
) -> tuple[keras.Model, list[tuple[keras.layers.Layer, keras.layers.Layer]]]:
    """A copy of a model that is not compiled, of copies of its layers, and all layers with their copies."""
    pairs = []

    def pair(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            return layer
        pairs.append((layer, copied(layer)))
        return pairs[-1][1]

    view = keras.Model(as_functional(model).input, as_functional(model).output, name=model.name)
    tensors = None if image is None else keras.tree.map_structure(lambda _: image, view.input)
    return keras.models.clone_model(view, input_tensors=tensors, clone_function=pair), pairs


def _check_functional(model: Any, function: str) -> None:
    if not is_functional(model) or not model.built:
        raise ValueError(
            f"{function} takes a functional keras.Model, as CoAtNet0() and load_model return, or a sequential one that "
            f"is built; got {model!r}."
        )


def _check_size(model: keras.Model, size: tuple[int, int]) -> None:
    blocks = [layer for layer in model.layers if isinstance(layer, ResidualBlock)]
    if not blocks or any(isinstance(layer, TokenEmbedding) for layer in model.layers):
        raise ValueError(
            f"{model.name} cannot be resized: it has position embeddings, is folded (resize the model it came from), "
            "or is no CoAtNet."
        )
    fixed = [layer.name for layer in model.layers if isinstance(layer, _OF_A_SIZE)]
    if fixed or None in model.input_shape[1:3]:
        why = f"its layer {fixed[0]} fixes the size that the network sees" if fixed else "its input has no size"
        raise ValueError(
            f"{model.name} cannot be resized: {why}. Resize the network alone, and put the layer before it."
        )
    last = blocks[-1].output.shape
    for axis, now, positions, wanted in zip(("height", "width"), model.input_shape[1:3], last[1:3], size, strict=True):
        stride = now // positions
        if wanted % stride:
            below = wanted // stride * stride
            near = " or ".join(str(n) for n in (below, below + stride) if n)
            raise ValueError(
                f"{model.name} cannot take images of {axis} {wanted}: choose a multiple of {stride}, such as {near}."
            )
