"""The registry of parts, by name: the package's own, and those that users write in files of their own.

A part is a class of options, a frozen keyword-only dataclass, with `@vitgan.register` over it. Its name on
the command line is the class's in lower case with hyphens, `LeastSquares` is `least-squares`. Nothing here
imports torch, and nothing is imported that the user has not named or installed.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from vitgan.compat import is_frozen
from vitgan.errors import UserError, did_you_mean

Kind = typing.Literal["generator", "discriminator", "loss", "augment", "term", "source", "metric", "logger"]
KINDS: tuple[Kind, ...] = typing.get_args(Kind)
ENTRY_POINTS = "vitgan.parts"
"""The group under which an installed package announces modules that register parts."""

# Where the package's own parts of each kind are: a new file in one of these is found without being listed.
PLACES: dict[Kind, str] = {
    "generator": "vitgan.models",
    "discriminator": "vitgan.models",
    "loss": "vitgan.adversarial",
    "augment": "vitgan.adversarial",
    "term": "vitgan.adversarial",
    "source": "vitgan.data.sources",
    "metric": "vitgan.metrics.statistics",
    "logger": "vitgan.engine.loggers",
}
Class = TypeVar("Class", bound=type)


@dataclasses.dataclass(frozen=True)
class Part:
    """A registered class, which recipes and the command line can pick by its name."""

    kinds: tuple[Kind, ...]
    """What the class can be used as: one kind, or both networks where its `build` does not say which."""
    name: str
    """The name by which the command line picks it."""
    cls: type
    """The class itself, a dataclass whose fields are the options of the part."""
    module: str | None
    """The file or module that `--use` takes to register it; None for the package's own."""

    @property
    def summary(self) -> str:
        """The first line of the class's docstring, empty where it has none."""
        text = inspect.getdoc(self.cls) or ""
        return "" if text.startswith(f"{self.cls.__name__}(") else text.partition("\n")[0]


_parts: list[Part] = []
_loaded: set[str] = set()
_using: list[str] = []  # the words of `--use` that are being imported


@typing.overload
def register(cls: Class) -> Class: ...
@typing.overload
def register(*, kind: Kind | None = None, name: str | None = None) -> Callable[[Class], Class]: ...
def register(cls: Any = None, *, kind: Kind | None = None, name: str | None = None) -> Any:
    """Register a class as a part that recipes and the command line know by name.

    The decorator is put over a frozen, keyword-only dataclass, bare or called with a `kind` and a `name`.
    Without `kind` it is found from what the class defines: a loss `discriminator(real, fake)` and
    `generator(real, fake)`; a term `losses(seen)`; a network `build(*, resolution, channels, classes)`; an
    augmentation `__call__(images, rng)`; a source `open()`; a metric `measure(real, fake)`; a logger
    `start(folder, ...)`. A class of the same name and module that was registered before is replaced, as when
    a notebook's cell is run again. Raises UserError where the class is no such dataclass, its kind cannot be
    told, or the name is one of the package's own.
    """
    if cls is None:
        return lambda given: _register(given, kind, name)
    return _register(cls, kind, name)


def _register(cls: type, kind: Kind | None, name: str | None) -> type:
    own = cls.__module__.split(".")[0] == "vitgan"
    if not is_frozen(cls):
        raise UserError(
            f"{cls.__name__} must be a frozen, keyword-only dataclass to be registered: put "
            "@dataclass(frozen=True, kw_only=True) below @vitgan.register."
        )
    if any(field.init and not field.kw_only for field in dataclasses.fields(cls)):
        raise UserError(f"{cls.__name__} must be keyword-only: @dataclass(frozen=True, kw_only=True).")
    kinds = (kind,) if kind is not None else _kinds_of(cls)
    part = Part(kinds, name or name_of(cls), cls, None if own else (_using or [cls.__module__])[-1])
    for other in [one for one in _parts if set(one.kinds) & set(kinds)]:
        if other.module == part.module and other.cls.__name__ == cls.__name__:
            _parts.remove(other)
        elif _plain(other.name) == _plain(part.name):
            # The package's own may be imported later than the file that took its name.
            kept, refused = (part, other) if own else (other, part)
            raise UserError(
                f"There is a {kinds[0]} {kept.name} already, of {kept.module or 'vitgan'}: name "
                f"{refused.cls.__name__} otherwise, @vitgan.register(name=...)."
            )
    _parts.append(part)
    return cls


def name_of(cls: type) -> str:
    """The class's name in lower case with hyphens, without a closing `Options`."""
    words = re.findall(
        r"[A-Z]+(?![a-z])[0-9]*|[A-Z]?[a-z]+[0-9]*|[0-9]+", cls.__name__.removesuffix("Options")
    )
    return "-".join(words).lower() or cls.__name__.lower()


def _kinds_of(cls: type) -> tuple[Kind, ...]:
    """The kinds of a class, found from its methods. Raises UserError where they tell none."""
    has = lambda *names: all(callable(getattr(cls, name, None)) for name in names)  # noqa: E731
    if has("discriminator", "generator"):
        return ("loss",)
    for method, kind in (("losses", "term"), ("measure", "metric"), ("start", "logger"), ("open", "source")):
        if has(method):
            return (typing.cast("Kind", kind),)
    if has("build"):
        return _networks(cls)
    if has("__call__"):
        return ("augment",)
    raise UserError(
        f"What kind of part {cls.__name__} is cannot be told from its methods: say it, "
        f"@vitgan.register(kind=...), one of {', '.join(KINDS)}."
    )


def _networks(cls: Any) -> tuple[Kind, ...]:
    """The kind of a network, by the class that its `build` is annotated to return; both kinds without one."""
    try:
        made = typing.get_type_hints(cls.build).get("return")
    except NameError:  # the annotation names a class that is defined further down
        module = sys.modules.get(cls.__module__)
        made = getattr(module, str(cls.build.__annotations__.get("return", "")), None)
    names = {
        base.__name__ for base in getattr(made, "__mro__", ()) if base.__module__ == "vitgan.models.base"
    }
    found = tuple(k for k in ("generator", "discriminator") if k.title() in names)
    return found or ("generator", "discriminator")  # type: ignore[return-value]


def parts(kind: Kind, *, installed: bool = False) -> list[Part]:
    """All parts of a kind that are known: the package's own, then others; sorted by name.

    With `installed` those that installed packages announce are imported first.
    """
    _load(kind)
    if installed:
        _announced()
    own = [part for part in _parts if kind in part.kinds]
    return sorted(own, key=lambda part: (part.module is not None, part.name))


def names(kind: Kind) -> list[str]:
    """The names of all registered parts of a kind, in the order of `parts`."""
    return [part.name for part in parts(kind)]


def get(kind: Kind, name: str) -> type:
    """The class of the part called `name`, whatever its hyphens and case.

    Raises UserError, with the names that there are, where none is called so.
    """
    found = _named(kind, name)
    if found is None and _announced():
        found = _named(kind, name)
    if found is None:
        raise UserError(
            f"There is no {kind} {name!r}: choose one of {', '.join(names(kind))}, or name the file or "
            f"module of your own with --use.{did_you_mean(name, names(kind))}"
        )
    return found.cls


def has(kind: Kind, name: str) -> bool:
    """Whether there is a part of exactly that name, among what installed packages announce too."""
    return name in names(kind) or (_announced() and name in names(kind))


def find(kind: Kind, type_name: str, module: str | None) -> type | None:
    """The class of a part that JSON names by its class and module; `module` is None for the package's own.

    A class of the same name from another file or module of --use is taken where that one has none. None where
    there is neither.
    """
    for attempt in range(2):
        same = [
            p for p in parts(kind) if p.cls.__name__ == type_name and (p.module is None) == (module is None)
        ]
        exact = [part for part in same if part.module == module]
        if exact or same:
            return (exact or same)[0].cls
        if attempt or module is None or not _announced():
            break
    return None


def of(cls: type) -> Part | None:
    """The part that a class was registered as; None where it was not."""
    return next((part for part in _parts if part.cls is cls), None)


def use(word: str) -> None:
    """Import a file `*.py` or a module that registers parts, once.

    Raises UserError, in one sentence with the line, where it cannot be imported or registers nothing.
    """
    before = len(_parts)
    known = [part for part in _parts if part.module in (word, Path(word).name)]
    try:
        with _named_as(Path(word).name if word.endswith(".py") else word):
            _import_file(Path(word).expanduser()) if word.endswith(".py") else _import_module(word)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--use {word} cannot be imported ({_where(error)}).") from error
    if len(_parts) == before and not known:
        raise UserError(f"--use {word} registers no part: put @vitgan.register over a class in it.")


def _named(kind: Kind, name: str) -> Part | None:
    return next((part for part in parts(kind) if _plain(part.name) == _plain(name)), None)


def _plain(name: str) -> str:
    return re.sub(r"[-_]", "", name).lower()


def _load(kind: Kind) -> None:
    """Import the modules of the package in which parts of that kind are defined."""
    place = PLACES[kind]
    if place in _loaded:
        return
    _loaded.add(place)
    package = importlib.import_module(place)
    for module in pkgutil.iter_modules(getattr(package, "__path__", ())):
        importlib.import_module(f"{place}.{module.name}")


def _announced() -> bool:
    """Import the modules that installed packages announce, once; returns whether there were any."""
    if ENTRY_POINTS in _loaded:
        return False
    _loaded.add(ENTRY_POINTS)
    found = entry_points(group=ENTRY_POINTS)
    for point in found:
        try:
            with _named_as(point.module):
                point.load()
        except Exception as error:
            raise UserError(
                f"The parts that an installed package announces as {point.value} cannot be imported "
                f"({_where(error)}): mend or remove that package."
            ) from error
    return bool(found)


@contextmanager
def _named_as(word: str) -> Iterator[None]:
    """A context within which classes are registered as parts that `--use WORD` gives."""
    _using.append(word)
    try:
        yield
    finally:
        _using.pop()


def _import_module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    return importlib.import_module(name)


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"There is no file {path} for --use.")
    path = path.resolve()
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return
    if known is not None or not name.isidentifier():
        name = f"vitgan_use_{re.sub(r'[^0-9A-Za-z_]', '_', name)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up, and what is sent to a process names it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _where(error: Exception) -> str:
    """An error as a clause, with the line of the user's file that it was raised in."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300].rstrip(".")
    if isinstance(error, SyntaxError):
        return f"{text}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{text}, line {frame.lineno} of {Path(frame.filename).name}"
