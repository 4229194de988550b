"""Options of layers and networks: dataclasses whose annotations say what is accepted, and are checked."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, TypeVar, Union

import keras
import numpy as np

from coatnet_tf.layers.parts import LayerOfLayers

Shape = tuple[Any, ...]  # None where a size is unknown


class Requirement(typing.NamedTuple):
    """What a value has to be.

    Args:
        text: In words, behind "must be".
        holds: Whether a value is it.
    """

    text: str
    holds: Callable[[Any], bool]


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_initializer(value: Any) -> bool:
    try:
        return value is None or keras.initializers.get(value) is not None
    except (ValueError, TypeError, AttributeError):
        return False


def is_positive_int(value: Any) -> bool:
    """Whether it is a positive integer of Python or NumPy."""
    return _is_integer(value) and value >= 1


PositiveInt = Annotated[int, Requirement("a positive integer", is_positive_int)]
PositiveNumber = Annotated[float, Requirement("a positive number", lambda x: _is_number(x) and x > 0)]
Rate = Annotated[float, Requirement("at least 0 and below 1", lambda x: _is_number(x) and 0 <= x < 1)]
Strides = Annotated[int, Requirement("1 or 2", lambda x: _is_integer(x) and x in (1, 2))]
Initializer = Annotated[
    Any,
    Requirement("None or a Keras initializer: its name, such as lecun_normal, config or instance", _is_initializer),
]


def check(name: str, value: Any, annotation: Any) -> None:
    """Refuses a value that its annotation does not accept.

    Args:
        name: Of the argument, as the message has it.
        value: The value.
        annotation: `bool`, `str`, a `Literal`, a dataclass, one of the annotations above, or a union or tuple of such.

    Raises:
        ValueError: In one sentence: what the argument must be, and what it is.
    """
    required = _requirement(annotation)
    if not required.holds(value):
        raise ValueError(f"{name} must be {required.text}; got {value!r}.")


def _requirement(annotation: Any) -> Requirement:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return arguments[1]
    if origin is Literal:
        return Requirement(f"one of {', '.join(arguments)}", lambda x: isinstance(x, str) and x in arguments)
    if origin in (Union, types.UnionType):
        parts = [_requirement(part) for part in arguments]
        return Requirement(" or ".join(part.text for part in parts), lambda x: any(part.holds(x) for part in parts))
    if origin is tuple:
        of = _requirement(arguments[0])
        return Requirement(f"a tuple, each {of.text}", lambda x: isinstance(x, tuple) and all(map(of.holds, x)))
    if annotation is bool:
        return Requirement("True or False", lambda x: isinstance(x, bool))
    if annotation is type(None):
        return Requirement("None", lambda x: x is None)
    return Requirement(f"a {annotation.__name__}", lambda x: isinstance(x, annotation))


def _read_annotations(options: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(options, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(options)}


_annotations: Callable[[Any], dict[str, Any]] = functools.cache(_read_annotations)  # by class


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of dataclasses whose fields are checked by their annotations.

    A field that is a dataclass of options too can be given as a dictionary of its fields, and a tuple as a list, as
    they come out of JSON.

    Raises:
        ValueError: If a field is not what its annotation says.
    """

    def __post_init__(self) -> None:
        for name, annotation in _annotations(type(self)).items():
            value = getattr(self, name)
            if isinstance(value, list | np.ndarray):
                value = tuple(value)
            if isinstance(value, np.integer):  # which Keras' layers do not take
                value = int(value)
            if isinstance(value, tuple):
                value = tuple(int(x) if isinstance(x, np.integer) else x for x in value)
            if is_options(annotation) and isinstance(value, dict):
                value = annotation(**value)
            if typing.get_origin(annotation) is tuple and is_options(typing.get_args(annotation)[0]):
                of = typing.get_args(annotation)[0]
                value = tuple(of(**x) if isinstance(x, dict) else x for x in value)
            object.__setattr__(self, name, value)
            check(f"{self._where()}{name}", value, annotation)

    def _where(self) -> str:
        """What stands before a field's name in messages."""
        return ""


AnyOptions = TypeVar("AnyOptions", bound=Options)


def is_options(annotation: Any) -> bool:
    """Whether a field's annotation is a dataclass of options, whose fields are options of their own."""
    return isinstance(annotation, type) and issubclass(annotation, Options)


def paths(options: type[Options]) -> Iterator[tuple[str, ...]]:
    """The path of every field, nested ones behind theirs: `("mbconv",)`, `("mbconv", "padding")`, ..."""
    for name, annotation in _annotations(options).items():
        yield (name,)
        if is_options(annotation):
            yield from ((name, *path) for path in paths(annotation))


def replace(options: AnyOptions, **changes: Any) -> AnyOptions:
    """Options with other values, found by their names at any depth.

    Args:
        options: The options.
        **changes: New values by name of the field. A field of nested options takes a dictionary of changes too, or
            such options, of which fields that are named beside them are replaced.

    Returns:
        New options of the same class.

    Raises:
        ValueError: If a name is unknown, or stands in two nested classes of options, or a value is refused.

    Example:
    >>> from coatnet_tf.layers.options import replace
    >>> from coatnet_tf.layers.transformer import TransformerConfig
    >>> replace(TransformerConfig(), head_size=64, ffn={"ffn_bias": False}).attention.head_size
    64
    """
    return _apply(options, _tree(type(options), changes))


def make(options: type[AnyOptions], **values: Any) -> AnyOptions:
    """New options of a class, whose fields are found by their names at any depth, as `replace` finds them."""
    tree = _tree(options, values)
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    return options(**{name: _applied(defaults[name], value) for name, value in tree.items()})


def _tree(options: type[Options], changes: dict[str, Any]) -> dict[str, Any]:
    """The changes by the path of their field: all of them are made at once, as one alone might not fit the others."""
    tree: dict[str, Any] = {}
    found = {name: _find(options, name) for name in changes}
    # Whole options first, the outer ones before the inner: a field that is named counts more, wherever it stands.
    for name in sorted(changes, key=lambda name: (not is_options(_annotation(options, found[name])), len(found[name]))):
        (*parents, last), value = found[name], changes[name]
        node, of = tree, options
        for parent in parents:
            node, of = node.setdefault(parent, {}), _annotations(of)[parent]
        nested = _annotations(of)[last]
        if not is_options(nested):
            node[last] = value
            continue
        if isinstance(value, nested):
            value = {field.name: getattr(value, field.name) for field in dataclasses.fields(nested)}
        if isinstance(value, dict):
            node.setdefault(last, {}).update(_tree(nested, value))
        else:
            node[last] = value
    return tree


def _annotation(options: type[Options], path: tuple[str, ...]) -> Any:
    return functools.reduce(lambda of, name: _annotations(of)[name], path, options)


def _apply(options: AnyOptions, tree: dict[str, Any]) -> AnyOptions:
    return dataclasses.replace(options, **{name: _applied(getattr(options, name), x) for name, x in tree.items()})


def _applied(value: Any, change: Any) -> Any:
    return _apply(value, change) if isinstance(value, Options) and isinstance(change, dict) else change


def _find(options: type[Options], name: str) -> tuple[str, ...]:
    known = list(paths(options))
    found = [path for path in known if path[-1] == name]
    found = [path for path in found if len(path) == 1] or found
    if len(found) > 1:
        *others, last = [f"{'.'.join(path[:-1])}={{{name!r}: ...}}" for path in found]
        raise ValueError(f"{name} is a field in several places; say which one: {', '.join(others)} or {last}.")
    if not found:
        names = sorted({path[-1] for path in known})
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"the nearest are {', '.join(near)}" if near else f"its fields are {', '.join(names)}"
        raise ValueError(f"{options.__name__} has no field {name!r}; {hint}.")
    return found[0]


class ConfiguredLayer(LayerOfLayers):
    """A layer whose options are a dataclass, `config_class`; its `get_config` has the fields of that.

    Args:
        kernel_initializer: Initializer of the kernels; normal(0.02) by default.
        config: The options; the defaults of `config_class` if there are none.
        **kwargs: Fields of the options to replace, by name, and arguments of `LayerOfLayers`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    config_class: type[Any]

    def __init__(self, kernel_initializer: Any = None, config: Any = None, **kwargs: Any) -> None:
        names = {path[-1] for path in paths(self.config_class)}
        changes = {name: kwargs.pop(name) for name in list(kwargs) if name in names}
        super().__init__(**kwargs)
        check("kernel_initializer", kernel_initializer, Initializer)
        config = self.config_class() if config is None else config
        check("config", config, self.config_class)
        self.kernel_initializer = kernel_initializer
        self.config = replace(config, **changes)

    def named(self, name: str) -> dict[str, Any]:
        """Name and dtype of a layer in this one."""
        return {"name": f"{self.name}_{name}", "dtype": self.dtype_policy}

    def get_config(self) -> dict[str, Any]:
        initializer = self.kernel_initializer
        if callable(initializer):  # names and configs stay as they are
            initializer = keras.initializers.serialize(initializer)
        return {**super().get_config(), **dataclasses.asdict(self.config), "kernel_initializer": initializer}
