"""Options as frozen dataclasses with bounds: to JSON and back, from a command line's words, and differences.

A part's options are a frozen, keyword-only dataclass. In JSON each is an object whose "type" names the class,
so a recipe read from a checkpoint is the recipe that was written, or an error. A field that is missing has
its default, which is what was done before the field was there.
"""

import contextlib
import dataclasses
import functools
import math
import reprlib
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass
from itertools import zip_longest
from typing import Any

from vitgan import registry
from vitgan.errors import UserError
from vitgan.registry import Kind

# Far beyond what anyone trains; these bounds keep a damaged or hostile recipe from asking for a network of
# more layers than there is time to make, or of sizes whose product no number holds.
MOST_LAYERS, MOST_SIZE, MOST_RESOLUTION = 1000, 2**16, 2**12
MOST = 2**63 - 1  # the largest whole number that a field may hold
MOST_ITEMS = 1000  # of a field that is a list


# --- Fields


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The numbers that a field may hold; a number must be finite in any case."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def wrong(self, number: int | float) -> str | None:
        """What `number` must be and is not, as "at least 1"; None where it is within the bounds."""
        whole = isinstance(number, int)
        if self.above is not None and number <= self.above:
            return f"greater than {self.above:g}"
        both = self.above is not None and self.least is not None and self.most is not None
        if both and not self.least <= number <= self.most:  # type: ignore[operator]
            return f"from {self.least:g} to {self.most:g}"
        if self.least is not None and not number >= self.least:  # true for NaN, too
            return f"at least {self.least:g}" + ("" if whole else ", and finite")
        if not whole and not math.isfinite(number):
            return "finite" if self.least is None else f"at least {self.least:g}, and finite"
        if self.below is not None and number >= self.below:
            return f"below {self.below:g}"
        if self.most is not None and number > self.most:
            return f"at most {self.most:.9g}"
        return f"at most {MOST}" if whole and abs(number) > MOST else None


def option(
    default: Any = MISSING,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> Any:
    """A field whose number, or each of whose numbers, has bounds: `width: int = option(384, least=1)`.

    `least` and `most` are allowed themselves, `above` and `below` are not. The bounds are checked where
    options are read, set from the command line or built; None is no number.
    """
    bounds = Bounds(least=least, above=above, most=most, below=below)
    return dataclasses.field(default=default, metadata={"bounds": bounds})


def factor(default: float) -> Any:
    """A field that multiplies something: greater than 0, and from 1e-6 to 1e6."""
    return option(default, above=0, least=1e-6, most=1e6)


def part(kind: Kind, default: Any = MISSING, *, factory: Callable[[], Any] | Any = MISSING) -> Any:
    """A field that holds a registered part of that kind, or a tuple of them."""
    if factory is not MISSING:
        return dataclasses.field(default_factory=factory, metadata={"part": kind})
    return dataclasses.field(default=default, metadata={"part": kind})


@dataclass(frozen=True, kw_only=True)
class MissingPart:
    """A registered part of a user's own, read from JSON where its class is not registered, kept as it was."""

    kind: Kind
    value: dict[str, Any]

    active = True

    def refusal(self) -> UserError:
        """The error whose sentence says which `--use` is missing."""
        module, name = self.value.get("module"), self.value.get("type")
        if module == "__main__":
            return UserError(
                f"The {self.kind} {name} was defined in a notebook or script: define and register it there "
                "again, or put it into a file and give --use FILE.py."
            )
        return UserError(f"The {self.kind} {name} is a part of {module}: give --use {module}.")

    def build(self, **sizes: Any) -> Any:  # noqa: ARG002
        """Raise UserError, because the class that could build the part is not here."""
        raise self.refusal()


def missing_parts(options: Any) -> Iterator[MissingPart]:
    """Every `MissingPart` in `options`, a dataclass or a tuple of dataclasses."""
    if isinstance(options, MissingPart):
        yield options
    elif isinstance(options, tuple):
        for item in options:
            yield from missing_parts(item)
    elif dataclasses.is_dataclass(options):
        for field in dataclasses.fields(options):
            yield from missing_parts(getattr(options, field.name))


# --- To JSON and back


def to_dict(options: Any) -> Any:
    """A JSON-ready value: dataclasses become objects with a "type", tuples become lists.

    A part that is not the package's own has its "module" beside the "type", by which `--use` finds it.
    """
    if isinstance(options, MissingPart):
        return dict(options.value)
    if dataclasses.is_dataclass(options) and not isinstance(options, type):
        fields = {f.name: to_dict(getattr(options, f.name)) for f in dataclasses.fields(options)}
        return {"type": type(options).__name__, **_module(type(options)), **fields}
    if isinstance(options, (tuple, list)):
        return [to_dict(item) for item in options]
    return options


def _module(cls: type) -> dict[str, str]:
    """{"module": what `--use` takes} for a class that is not the package's own, be it registered or not.

    The class counts and not its name: one that derives from a part of the package may be called as that is.
    """
    known = registry.of(cls)
    if known is None and cls.__module__.split(".")[0] != "vitgan":
        return {"module": cls.__module__}
    return {} if known is None or known.module is None else {"module": known.module}


@functools.cache
def _annotations(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def from_dict(value: Any, expected: Any, where: str = "recipe", field: Any = None) -> Any:
    """The inverse of `to_dict`, checked against the annotation `expected` and the bounds of `field`.

    A part that is not the package's own and not registered is a `MissingPart`. Raises UserError, naming the
    place, on an unknown field, one that is missing and has no default, a value of another type, or a number
    out of bounds.
    """
    if field is not None and "part" in field.metadata:
        return _parts_from_dict(value, field.metadata["part"], where, expected)
    if dataclasses.is_dataclass(expected):
        return _dataclass_from_dict(value, [expected], where)
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin is typing.Literal:
        same = [argument for argument in arguments if argument == value and type(argument) is type(value)]
        return _checked(bool(same), value, where, f"one of {', '.join(map(str, arguments))}")
    if origin in (types.UnionType, typing.Union):
        return _union_from_dict(value, arguments, where, field)
    if origin is tuple:
        items = _list(value, where)
        return tuple(from_dict(item, arguments[0], f"{where}[{i}]", field) for i, item in enumerate(items))
    if expected is float and type(value) is int:
        return float(_bounded(value, where, field))
    _checked(type(value) is expected, value, where, expected.__name__)
    return _bounded(value, where, field)


def check(options: Any, where: str) -> None:
    """Raise UserError, naming the place, where a field holds what its annotation or bounds do not allow."""
    for field in dataclasses.fields(options):
        value, place = getattr(options, field.name), f"{where}.{field.name}"
        if "part" in field.metadata:
            for number, item in enumerate(value if isinstance(value, tuple) else (value,)):
                _check_part(
                    item, field.metadata["part"], f"{place}[{number}]" if value is not item else place
                )
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            _check_class(value, _annotations(type(options))[field.name], place)
            check(value, place)
        else:
            from_dict(to_dict(value), _annotations(type(options))[field.name], place, field)


def _check_class(value: Any, annotation: Any, where: str) -> None:
    """Raise UserError where `value` is of none of the annotation's classes: it would be read as one."""
    classes = [cls for cls in (annotation, *typing.get_args(annotation)) if dataclasses.is_dataclass(cls)]
    names = " or ".join(getattr(cls, "__qualname__", str(cls)) for cls in classes)
    if classes and type(value) not in classes:
        cls = type(value)
        raise UserError(
            f"{where} is of the class {cls.__module__}.{cls.__qualname__}, but must be of {names} itself."
        )


def check_kinds(options: Any, where: str) -> None:
    """Raise UserError where a field for other options, or for parts, holds no dataclass or no tuple of them.

    It is for `__post_init__`, before anything asks what the fields should hold; `check` sees the rest.
    """
    for field in dataclasses.fields(options):
        value, annotation = getattr(options, field.name), _annotations(type(options))[field.name]
        many = "part" in field.metadata and typing.get_origin(annotation) is tuple
        if many:
            _checked(isinstance(value, tuple), value, f"{where}.{field.name}", "a tuple of parts")
        if many or "part" in field.metadata or dataclasses.is_dataclass(annotation):
            for item in value if many else (value,):
                options_itself = dataclasses.is_dataclass(item) and not isinstance(item, type)
                name = getattr(annotation, "__name__", "options")
                wanted = f"a {field.metadata['part']}" if "part" in field.metadata else name
                _checked(options_itself, item, f"{where}.{field.name}", wanted)


def _check_part(value: Any, kind: Kind, where: str) -> None:
    """Raise UserError where `value` is no registered part of that kind, or a field of it is wrong."""
    if isinstance(value, MissingPart):
        raise value.refusal()
    known = registry.of(type(value))
    if known is None:
        raise UserError(
            f"{where} is {brief(value)}, whose class {type(value).__name__} is no registered {kind}: put "
            "@vitgan.register over it."
        )
    _checked(kind in known.kinds, value, where, f"a {kind}")
    check(value, where)


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


def _list(value: Any, where: str) -> Sequence[Any]:
    several = isinstance(value, (list, tuple)) and len(value) <= MOST_ITEMS
    return _checked(several, value, where, f"a list of at most {MOST_ITEMS}")


# The settings that have a flag of their own on the command line.
FLAGS = {
    "data.source": "data",
    "training.images": "images",
    "training.minutes": "minutes",
    "training.seed": "seed",
    "training.precision": "precision",
    "training.on_nan": "on_nan",
}


def flag(where: str) -> str:
    """The option of the command line that sets the field at `where`, `recipe.generator.width`."""
    place = where.removeprefix("recipe.")
    return "--" + FLAGS.get(place, place).replace("_", "-")


def _bounded(value: Any, where: str, field: Any) -> Any:
    """`value`; raises UserError where it is a number that is out of bounds."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return value
    bounds = Bounds() if field is None else field.metadata.get("bounds", Bounds())
    if wrong := bounds.wrong(value):
        raise UserError(f"{flag(where.partition('[')[0])} must be {wrong}, not {brief(value)}.")
    return value


def _union_from_dict(value: Any, members: tuple[Any, ...], where: str, field: Any) -> Any:
    if value is None and type(None) in members:
        return None
    classes = [member for member in members if dataclasses.is_dataclass(member)]
    if classes:
        return _dataclass_from_dict(value, classes, where)
    plain = [member for member in members if member is not type(None)]
    if type(value) in plain:
        return _bounded(value, where, field)
    return from_dict(value, plain[0], where, field)


def _parts_from_dict(value: Any, kind: Kind, where: str, expected: Any) -> Any:
    if typing.get_origin(expected) is not tuple:
        return _part_from_dict(value, kind, where)
    return tuple(_part_from_dict(item, kind, f"{where}[{i}]") for i, item in enumerate(_list(value, where)))


def _part_from_dict(value: Any, kind: Kind, where: str) -> Any:
    """The part, or a `MissingPart` where it is somebody's own and not registered."""
    _checked(isinstance(value, dict), value, where, "an object")
    name, module = value.get("type"), value.get("module")
    own = [entry.cls.__name__ for entry in registry.parts(kind) if entry.module is None]
    known = isinstance(name, str) and (isinstance(module, str) or (module is None and name in own))
    _checked(known, name, f"{where}.type", f"one of {', '.join(own)}")
    cls = registry.find(kind, name, module)
    if cls is None:
        return MissingPart(kind=kind, value=value)
    return _made(cls, {key: item for key, item in value.items() if key not in ("type", "module")}, where)


def _dataclass_from_dict(value: Any, classes: list[Any], where: str) -> Any:
    by_name = {cls.__name__: cls for cls in classes}
    _checked(isinstance(value, dict), value, where, "an object")
    name = value.get("type")
    _checked(isinstance(name, str) and name in by_name, name, f"{where}.type", f"one of {', '.join(by_name)}")
    fields = {field.name for field in dataclasses.fields(by_name[name])}
    own = {key: item for key, item in value.items() if key in fields or key not in ("type", "module")}
    return _made(by_name[name], own, where)


def _made(cls: Any, given: dict[str, Any], where: str) -> Any:
    """An instance of the fields that were given, each checked; the others have their defaults."""
    annotations = _annotations(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    name = cls.__name__
    if unknown := sorted(given.keys() - fields.keys()):
        raise UserError(f"{where} has no field {brief(unknown[0])}; {name} has {', '.join(sorted(fields))}.")
    needed = {key for key, f in fields.items() if f.default is MISSING and f.default_factory is MISSING}
    if missing := sorted(needed - given.keys()):
        raise UserError(f"{where} lacks the field {missing[0]!r} of {name}.")
    values = {
        key: from_dict(item, annotations[key], f"{where}.{key}", fields[key]) for key, item in given.items()
    }
    return cls(**values)


# --- From the words of a command line


def leaves(options: Any, where: str = "") -> Iterator[tuple[str, Any, Any, Any]]:
    """Every field below `options` that holds no dataclass: its dotted path, value, annotation and field."""
    annotations = _annotations(type(options))
    for field in dataclasses.fields(options):
        value, place = getattr(options, field.name), f"{where}.{field.name}".removeprefix(".")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from leaves(value, place)
        elif "part" not in field.metadata:
            yield place, value, annotations[field.name], field


def with_word(options: Any, path: Sequence[str], word: str, where: str) -> Any:
    """`options` with the field at `path` set to what `word` says for its annotation.

    `where` is the path as the user knows it. A field of options that is None becomes their defaults first.
    Raises KeyError where there is no such field, UserError where the word is none of its values.
    """
    fields = {field.name: field for field in dataclasses.fields(options)}
    field = fields[path[0].replace("-", "_")]
    annotation = _annotations(type(options))[field.name]
    value = getattr(options, field.name)
    if len(path) == 1 and not dataclasses.is_dataclass(value):
        new = parse(word, annotation, where)
        return dataclasses.replace(options, **{field.name: from_dict(new, annotation, where, field)})
    if value is None:
        made = [cls for cls in typing.get_args(annotation) if dataclasses.is_dataclass(cls)]
        value = made[0]() if made else None  # type: ignore[operator]
    if len(path) == 1 or not dataclasses.is_dataclass(value):
        raise KeyError(where)
    return dataclasses.replace(options, **{field.name: with_word(value, path[1:], word, where)})


def defaults(cls: type) -> Any:
    """An instance of the class's defaults. Raises UserError where a field has none."""
    lacking = [
        f.name for f in dataclasses.fields(cls) if f.default is MISSING and f.default_factory is MISSING
    ]
    if lacking:
        raise UserError(
            f"{cls.__name__} has no default for {lacking[0]!r}: give its field one to pick it by name."
        )
    return cls()


def named(kind: Kind, name: str, words: str, where: str) -> Any:
    """The part `name` of a kind with the options that `words` give, "field=value,field=value".

    `where` is what messages put before a field. Raises UserError for an unknown option, or a wrong value.
    """
    cls = registry.get(kind, name)
    known = {field.name: field for field in dataclasses.fields(cls)}
    annotations, values = typing.get_type_hints(cls), dict[str, Any]()
    for word in filter(None, words.split(",")):
        key, _, value = word.partition("=")
        key = key.strip().replace("-", "_")
        if key not in known:
            options = ", ".join(known) or "none"
            raise UserError(f"The {kind} {name} has no option {key!r}; it has {options}.")
        place = f"{where}.{key}"
        said = parse(value.strip(), annotations[key], place)
        values[key] = from_dict(said, annotations[key], place, known[key])
    none = dataclasses.MISSING
    needed = [key for key, field in known.items() if field.default is none and field.default_factory is none]
    if lacking := [key for key in needed if key not in values]:
        raise UserError(f"The {kind} {name} needs {lacking[0]}: write {name}:{lacking[0]}=VALUE.")
    return cls(**values)


def parse(word: str, annotation: Any, where: str) -> Any:
    """The value that `word` stands for, of an annotation of int, float, bool, str, Literal, None or tuples.

    Raises UserError, which names the field at `where`, for any other word.
    """
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    kinds = typing.get_args(annotation) if union else (annotation,)
    kinds = sorted(kinds, key=lambda kind: (kind is str, kind is not type(None)))  # text is anything
    for kind in kinds:
        with contextlib.suppress(ValueError):
            return _said(word, kind)
    choices = [
        choice for kind in kinds if typing.get_origin(kind) is typing.Literal for choice in kind.__args__
    ]
    if choices:
        words = ["None"] * (type(None) in kinds) + list(map(str, choices))
        raise UserError(f"{flag(where)} must be one of {', '.join(words)}, not {brief(word)}.")
    raise UserError(f"{flag(where)} must be {' or '.join(map(_kind_name, kinds))}, not {brief(word)}.")


def _said(word: str, kind: Any) -> Any:
    """The value that `word` stands for, of one kind. Raises ValueError where it stands for none."""
    if typing.get_origin(kind) is tuple:
        items = word.strip("()[] ").replace(" ", ",").split(",")
        return tuple(_said(item, typing.get_args(kind)[0]) for item in items if item)
    if kind in (int, float, str):
        return kind(word)
    words: dict[str, Any] = {}
    if typing.get_origin(kind) is typing.Literal:
        words = {str(choice): choice for choice in typing.get_args(kind)}
    elif kind is bool:
        words = {"True": True, "true": True, "False": False, "false": False}
    elif kind is type(None):
        words = {"None": None, "none": None}
    if word not in words:
        raise ValueError(word)
    return words[word]


def _kind_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", type(None): "None", bool: "True or False", str: "text"}
    if typing.get_origin(kind) is tuple:
        return f"{names.get(typing.get_args(kind)[0], 'values')} each, with commas between"
    return names.get(kind, getattr(kind, "__name__", str(kind)))
