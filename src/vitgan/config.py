"""Options as frozen dataclasses: to JSON and back, strictly, within bounds, and what differs between two.

A part's options are a frozen, keyword-only dataclass. In JSON each is an object whose "type" names the
class, so a recipe read from a checkpoint is the recipe that was written, or an error.
"""

import dataclasses
import math
import reprlib
import types
import typing
from itertools import zip_longest
from typing import Any

from vitgan.errors import UserError

MOST_ITEMS = 1000  # of a list


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

    Raises UserError, naming the place, on an unknown or missing field, a value of another type, or a number
    out of range.
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
        several = isinstance(value, (list, tuple)) and len(value) <= MOST_ITEMS
        _checked(several, value, where, f"a list of at most {MOST_ITEMS}")
        return tuple(from_dict(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value))
    if expected is float and type(value) is int:
        return float(_in_range(value, where))
    _checked(type(value) is expected, value, where, expected.__name__)
    return _in_range(value, where)


def check(options: Any, where: str) -> None:
    """Raise UserError, naming the place, where a field holds what its annotation or range does not allow."""
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


def brief(value: Any) -> str:
    """`repr`, cut to a length that a message can hold."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 3, 120, 120
    try:
        return short.repr(value)
    except ValueError:  # of Python's, for a number of thousands of digits
        return "a number of very many digits"


def _checked(passed: bool, value: Any, where: str, wanted: str) -> Any:
    if not passed:
        raise UserError(f"{where} is {brief(value)}, but must be {wanted}.")
    return value


def _in_range(value: Any, where: str) -> Any:
    """`value`; raises UserError for a number that its field, the last word of `where`, does not take."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return value
    if wrong := out_of_range(where.rpartition(".")[2].partition("[")[0], value):
        flag = where.removeprefix("recipe.").replace("_", "-")
        raise UserError(f"--{flag} must be {wrong}, not {brief(value)}.")
    return value


def _union_from_dict(value: Any, members: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in members:
        return None
    classes = [member for member in members if dataclasses.is_dataclass(member)]
    if classes:
        return _dataclass_from_dict(value, classes, where)
    plain = [member for member in members if member is not type(None)]
    if type(value) in plain:
        return _in_range(value, where)
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
        raise UserError(f"{where} has no field {brief(unknown[0])}; {name} has {', '.join(sorted(fields))}.")
    if missing := sorted(fields - given.keys()):
        raise UserError(f"{where} lacks the field {missing[0]!r} of {name}.")
    return cls(**{key: from_dict(item, annotations[key], f"{where}.{key}") for key, item in given.items()})


# No number is negative; these are 1 at least, these more than 0, these 1 at most, these below 1.
AT_LEAST_1 = {
    *("patch", "depth", "width", "heads", "perceptron_width", "implicit_width", "latent_dim"),
    *("mapping_depth", "blocks", "stages", "widest", "hidden", "projection", "window", "group"),
    *("perceptron_ratio", "channel_base", "channel_max", "grid", "shrink"),
    *("resolution", "batch", "keep", "keep_every", "sample_count", "log_every", "sample_every"),
    *("checkpoint_every", "every", "decay_half_life", "threads", "count", "features", "epochs", "updates"),
}
FACTORS = {"gain", "modulation_gain", "omega_0", "implicit_bandwidth", "mapping_learning_rate", "aspect"}
LEAST_FACTOR, MOST_FACTOR = 1e-6, 1e6
AT_MOST_1 = {
    *("translation", "colour", "cutout", "scaling", "flip", "shift", "hole"),
    *("probability", "mixing", "crop", "smallest", "grey", "decay"),
}
BELOW_1 = {"beta1", "beta2"}
LAYERS = {"depth", "depths", "mapping_depth", "blocks", "stages", "levels"}
SIZES = {
    *("patch", "overlap", "width", "heads", "perceptron_width", "implicit_width", "latent_dim", "widest"),
    *("hidden", "projection", "window", "perceptron_ratio", "shared_embedding", "features"),
}
MOST_LAYERS, MOST_SIZE, MOST_RESOLUTION = 1000, 2**16, 2**12
MOST = 2**63 - 1  # of a whole number


def out_of_range(name: str, number: int | float) -> str | None:
    """What the field `name` must be and `number` is not, as "at least 1, and finite"; None where it is."""
    if name in FACTORS and number <= 0:
        return "greater than 0"
    least = 1 if name in AT_LEAST_1 else 0
    if not least <= number < math.inf:  # false for NaN, too
        return f"at least {least}, and finite"
    if name in FACTORS and not LEAST_FACTOR <= number <= MOST_FACTOR:
        return f"from {LEAST_FACTOR:g} to {MOST_FACTOR:g}"
    if name in AT_MOST_1 and number > 1:
        return "at most 1"
    if name in BELOW_1 and number >= 1:
        return "below 1"
    most = MOST_LAYERS if name in LAYERS else MOST_SIZE if name in SIZES else MOST
    most = MOST_RESOLUTION if name == "resolution" else most
    return f"at most {most}" if isinstance(number, int) and number > most else None
