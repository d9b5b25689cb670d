"""Frozen dataclasses of options: to JSON and back, strictly, and what differs between two of them.

A part's options are a frozen, keyword-only dataclass. In JSON each is an object whose "type" names the
class, so a recipe read from a checkpoint is the recipe that was written, or an error.
"""

import dataclasses
import types
import typing
from itertools import zip_longest
from typing import Any

from vitgan.errors import UserError


def to_dict(options: Any) -> Any:
    """A JSON-ready value: dataclasses become objects with a "type", tuples become lists."""
    if dataclasses.is_dataclass(options) and not isinstance(options, type):
        fields = {f.name: to_dict(getattr(options, f.name)) for f in dataclasses.fields(options)}
        return {"type": type(options).__name__, **fields}
    if isinstance(options, (tuple, list)):
        return [to_dict(item) for item in options]
    return options


def from_dict(value: Any, expected: Any, where: str = "recipe") -> Any:
    """The inverse of `to_dict`, checked against the annotation `expected`.

    Raises UserError, naming the place, on an unknown or missing field, or a value of another type.
    """
    if dataclasses.is_dataclass(expected):
        return _dataclass_from_dict(value, [expected], where)
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin is typing.Literal:
        same = [argument for argument in arguments if argument == value and type(argument) is type(value)]
        return _checked(bool(same), value, where, f"one of {', '.join(map(str, arguments))}")
    if origin in (types.UnionType, typing.Union):
        return _union_from_dict(value, arguments, where)
    if origin is tuple:
        _checked(isinstance(value, (list, tuple)), value, where, "a list")
        return tuple(from_dict(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value))
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _checked(type(value) is expected, value, where, expected.__name__)


def check(options: Any, where: str) -> None:
    """Raise UserError, naming the place, where a field holds what its annotation does not allow."""
    from_dict(to_dict(options), type(options), where)


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """One 'field: old -> new' for every leaf in which two values of `to_dict` differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        pairs = [(f"{where}.{key}" if where else key, old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list):
        pairs = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip_longest(old, new))]
    else:
        return [] if old == new else [f"{where}: {_shown(old)} -> {_shown(new)}"]
    return [line for place, a, b in pairs for line in differences(a, b, place)]


def _shown(value: Any) -> Any:
    return value["type"] if isinstance(value, dict) and "type" in value else value


def _checked(passed: bool, value: Any, where: str, wanted: str) -> Any:
    if not passed:
        raise UserError(f"{where} is {value!r}, but must be {wanted}.")
    return value


def _union_from_dict(value: Any, members: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in members:
        return None
    classes = [member for member in members if dataclasses.is_dataclass(member)]
    if classes:
        return _dataclass_from_dict(value, classes, where)
    plain = [member for member in members if member is not type(None)]
    if type(value) in plain:
        return value
    return from_dict(value, plain[0], where)


def _dataclass_from_dict(value: Any, classes: list[Any], where: str) -> Any:
    by_name = {cls.__name__: cls for cls in classes}
    _checked(isinstance(value, dict), value, where, "an object")
    name = value.get("type")
    _checked(isinstance(name, str) and name in by_name, name, f"{where}.type", f"one of {', '.join(by_name)}")
    cls = by_name[name]
    annotations = typing.get_type_hints(cls)
    fields = {field.name for field in dataclasses.fields(cls)}
    given = {key: item for key, item in value.items() if key != "type"}
    if unknown := sorted(given.keys() - fields):
        raise UserError(f"{where} has no field {unknown[0]!r}; {name} has {', '.join(sorted(fields))}.")
    if missing := sorted(fields - given.keys()):
        raise UserError(f"{where} lacks the field {missing[0]!r} of {name}.")
    return cls(**{key: from_dict(item, annotations[key], f"{where}.{key}") for key, item in given.items()})
