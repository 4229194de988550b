"""Which tensor of somebody else's file is which variables of a model: one list, read for loading and for writing."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from coatnet_tf.layers import TransformerBlock
from coatnet_tf.pretrained.conversions import Conversion
from coatnet_tf.weights import Loaded, adapt_channels, resize_table
from coatnet_tf.weights.keras_file import enumerate_names
from coatnet_tf.weights.resizing import describe_adapted, is_of_other_channels, is_other_table

Tensors = dict[str, np.ndarray]
_BLOCK = re.compile(r"s(\d+)_block(\d+)")
_NUMBERED = re.compile(r"(.*?)(\d*)")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor and what it is here.

    Args:
        name: Of the tensor.
        variables: The variables that it holds; none if no network needs it, which may then be missing in a file.
        conversion: Between the two.
    """

    name: str
    variables: tuple[Any, ...]
    conversion: Conversion


@dataclasses.dataclass(frozen=True)
class Naming:
    """How somebody names the tensors of a CoAtNet.

    Args:
        head: What names of the head's tensors begin with.
        layers: From a model to the names of what stands outside the blocks: by the name of our layer without its
            number, for which `{}` stands.
        block: From stage and block, both counted from 1, to what the names of a block's tensors begin with.
        mbconv, transformer: From a block to the names of its parts, by attribute of the block.
        weights: From a layer, which may be an attention, and its name to its entries.
    """

    head: tuple[str, ...]
    layers: Callable[[keras.Model], Mapping[str, str]]
    block: Callable[[int, int], str]
    mbconv: Callable[[Any], Mapping[str, str]]
    transformer: Callable[[Any], Mapping[str, str]]
    weights: Callable[[keras.layers.Layer, str], Iterable[Entry]]

    def entries(self, model: keras.Model) -> Iterator[Entry]:
        """The entries of all layers of a model that `CoAtNet` built."""
        names = self.layers(model)
        for layer in model.layers:
            if match := _BLOCK.fullmatch(layer.name):
                prefix = self.block(int(match[1]), int(match[2]))
                parts = self.transformer(layer) if isinstance(layer, TransformerBlock) else self.mbconv(layer)
                for attribute, name in parts.items():
                    part = operator.attrgetter(attribute)(layer)
                    if part is not None:
                        yield from self.weights(part, prefix + name)
            elif (match := _NUMBERED.fullmatch(layer.name)) and match[1] in names:
                yield from self.weights(layer, names[match[1]].format(match[2].lstrip("0")))


def load_tensors(
    model: keras.Model,
    entries: Iterable[Entry],
    tensors: Mapping[str, np.ndarray],
    source: str,
    keep: Sequence[Any] = (),
    leave_aside: tuple[str, ...] = (),
) -> Loaded:
    """Loads each tensor exactly once into a model, or refuses and changes nothing.

    Bias tables of another input size are resized (`resize_table`), and the first kernel is adapted to other channels
    than those of RGB images (`adapt_channels`).

    Args:
        model: A built model.
        entries: Those of the model.
        tensors: Tensors of the file by name.
        source: What to call the file in messages.
        keep: Variables that stay as they are; their tensors are not looked at.
        leave_aside: What names of tensors begin with that the model has no place for.

    Returns:
        A `Loaded`, which names what was resized, adapted and kept.

    Raises:
        ValueError: If a tensor is missing, left over or of another shape, or a variable gets none; the message names
            it.
    """
    left = {name: tensor for name, tensor in tensors.items() if not (leave_aside and name.startswith(leave_aside))}
    given = {variable.path for variable in keep}
    values: list[tuple[Any, np.ndarray]] = []
    problems: list[str] = []
    resized: list[str] = []
    adapted: list[str] = []
    for entry in entries:
        tensor = left.pop(entry.name, None)
        if all(variable.path in given for variable in entry.variables):
            continue  # kept, or no variable at all
        given.update(variable.path for variable in entry.variables)
        if tensor is None:
            problems.append(f"{entry.name} is missing in the file")
            continue
        try:
            parts = entry.conversion.to_ours(tensor)
        except ValueError as error:
            problems.append(f"{entry.name} {tensor.shape}: {error}")
            continue
        for variable, value in zip(entry.variables, parts, strict=True):
            shape = tuple(variable.shape)
            if is_other_table(variable.path, shape, value.shape):
                resized.append(f"{variable.path} from {value.shape} to {shape}")
                value = resize_table(value, (shape[1], shape[2]))
            elif is_of_other_channels(variable.path, shape, value.shape):
                adapted.append(describe_adapted(variable.path, shape[2]))
                value = adapt_channels(value, shape[2])
            if value.shape != shape:
                problems.append(f"{entry.name} makes {value.shape}, and {variable.path} of the model is {shape}")
            values.append((variable, value))
    problems += [f"{name} {tensor.shape} is used by no layer" for name, tensor in left.items()]
    problems += [f"{v.path} gets no tensor" for v in model.weights if v.path not in given]
    if problems:
        raise ValueError(
            f"The weights in {source} do not fit {model.name}: {enumerate_names(problems, '; ')}. "
            "Nothing was loaded; build the model with the configuration and classes that they were trained with."
        )
    for variable, value in values:
        variable.assign(value)
    return Loaded(tuple(resized), tuple(variable.path for variable in keep), adapted=tuple(adapted))


def load_named(
    model: keras.Model, naming: Naming, tensors: Mapping[str, np.ndarray], source: str, reset_head: bool = False
) -> Loaded:
    """Loads the tensors of a CoAtNet into one of ours, each exactly once, or refuses and changes nothing.

    Args:
        model: A model that `CoAtNet` built; without the top the tensors of the head are left aside.
        naming: Whose names they have.
        tensors: Tensors by name.
        source: What to call the file in messages.
        reset_head: Whether to leave the classifier (the layer `predictions`) as it is, for other classes.

    Returns:
        A `Loaded`, which names what was resized and reset.

    Raises:
        ValueError: As `load_tensors` raises it.
    """
    classifier = [variable for layer in model.layers if layer.name == "predictions" for variable in layer.weights]
    return load_tensors(
        model,
        naming.entries(model),
        tensors,
        source,
        keep=classifier if reset_head else (),
        leave_aside=() if classifier else naming.head,
    )


def make_tensors(model: keras.Model, naming: Naming) -> Tensors:
    """The weights of a CoAtNet as tensors with somebody's names and shapes: what `load_named` loads.

    Args:
        model: A model that `CoAtNet` built from the configuration of one of their networks.
        naming: Whose names to give.

    Returns:
        NumPy arrays by name, float32 but for counters, which are 0.

    Raises:
        ValueError: If the model has a weight that no tensor holds, as of LoRA or of quantisation.
    """
    tensors = {}
    entries = list(naming.entries(model))
    held = {id(variable) for entry in entries for variable in entry.variables}
    left = [variable.path for variable in model.weights if id(variable) not in held]
    if left:
        raise ValueError(f"{model.name} has weights that no tensor of theirs holds: {enumerate_names(left)}.")
    for entry in entries:
        values = [keras.ops.convert_to_numpy(variable).astype("float32") for variable in entry.variables]
        tensors[entry.name] = np.array(entry.conversion.to_theirs(values), order="C")
    return tensors
