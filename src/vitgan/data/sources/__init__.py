"""What a source of images is, what each is called, and how `--data SOURCE` opens it.

A source has a name, as `digits`, and is then a registered part (`vitgan.registry`, kind "source"): those of
the package are in `vitgan.data.sources.named`, others in files that `--use` names. Or it is a path or begins
with `hf:` or `wds:`; each of these kinds has a module here.
"""

import contextlib
import dataclasses
import difflib
import importlib
import importlib.util
import os
import pickle
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vitgan import registry
from vitgan.config import from_dict, parse
from vitgan.data.packed.reader import is_packed, open_packed
from vitgan.data.sources.arrays import check_source, open_array_file
from vitgan.data.sources.files import open_folder, open_zip
from vitgan.data.sources.hub import open_hub
from vitgan.data.sources.tars import open_tars
from vitgan.errors import UserError, did_you_mean


class Source(Protocol):
    """N images by number, as pictures of any size that are not yet transformed.

    With `--data.workers` or `vitgan data pack --workers` a source is sent to other processes, so `pickle`
    must be able to write it: an open file, for example, is opened again there. `vitgan.data.ArraySource` is
    one of images that are in memory.
    """

    labels: np.ndarray | None
    """int64 (N,), each from 0 to len(classes) - 1; None where there are none."""
    classes: tuple[str, ...]
    """The names of the classes, empty where there are no labels."""

    def __len__(self) -> int: ...

    def item(self, index: int) -> str:
        """The name of one image, for messages."""
        ...

    def picture(self, index: int) -> Image.Image:
        """One image, opened; an exception of any type says that it is damaged, and another is taken instead."""
        ...

    def content(self) -> Iterator[bytes]:
        """Parts whose sequence differs where the images differ, the same on every machine: they are hashed."""
        ...


def open_source(source: str) -> Source:
    """Open a source by its name or path: `digits`, `my-source:count=100,seed=1`, `FOLDER`, `hf:NAME`.

    A name comes before a path that is called the same; `./digits` is always a path. After the name of a
    registered part stand values for the fields of its dataclass. Raises UserError, in one sentence, where the
    source cannot be opened.
    """
    path = Path(source).expanduser()
    name, colon, words = source.partition(":")
    part = next((part.cls for part in registry.parts("source") if part.name == name), None)
    if part is not None and not (colon and path.exists()):
        return _open_part(part, name, words if colon else None)
    if source.startswith("wds:"):
        return open_tars(source, data_root())
    if source.startswith("hf:"):
        return open_hub(source, data_root())
    if path.exists():
        return _open_path(source, path)
    if (part := _announced(name)) is not None:
        return _open_part(part, name, words if colon else None)
    raise _unknown(source, name)


def data_root() -> Path:
    """The folder of downloaded sets and caches: the environment variable VITGAN_DATA, else ~/.cache/vitgan."""
    return Path(os.environ.get("VITGAN_DATA") or "~/.cache/vitgan").expanduser()


def _open_path(source: str, path: Path) -> Source:
    suffix = path.suffix.lower()
    if path.is_dir():
        return open_packed(source, path) if is_packed(path) else open_folder(source, path)
    if path.is_file() and suffix == ".zip":
        return open_zip(source, path)
    if path.is_file() and suffix in (".npy", ".npz"):
        return open_array_file(source, path)
    raise _unknown(source, source)


def _announced(name: str) -> type | None:
    """The source of that very name, parts that installed packages announce included."""
    try:
        cls = registry.get("source", name)
    except UserError:
        if name in registry.names("source"):
            raise
        return None
    part = registry.of(cls)
    return cls if part is not None and part.name == name else None


def _unknown(source: str, name: str) -> UserError:
    names = registry.names("source")
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    guess = f" (did you mean {near[0]}?)" if near else ""
    return UserError(
        f"There is no image source {source!r}{guess}: pass {', '.join(names)}, "
        "the path of a folder or .zip of images, of a packed folder, or of a .npy or .npz file, "
        "wds: and tar files, or hf: and the name of a data set; a source of your own needs "
        "--use FILE.py before it."
    )


# --- Registered parts


def _open_part(part: Any, name: str, words: str | None) -> Source:
    """What the part opens, with the values that `words`, "field=value,field=value", gives its fields.

    Raises UserError where `words` does not fit, or a part that is not the package's own opens no `Source`.
    """
    values = {} if words is None else _values(part, name, words)
    fields = [field for field in dataclasses.fields(part) if field.init]
    missing = dataclasses.MISSING
    needed = [f.name for f in fields if f.default is missing and f.default_factory is missing]
    if lacking := [field for field in needed if field not in values]:
        raise UserError(f"The source {name} needs {lacking[0]}: write {name}:{lacking[0]}=VALUE.")
    opened = part(**values).open()
    known = registry.of(part)
    if known is not None and known.module is not None:
        check_source(name, opened)
    return opened


def _values(part: Any, name: str, words: str) -> dict[str, Any]:
    """The values that "field=value,field=value" says, each of its field's type and within its bounds."""
    fields = {field.name: field for field in dataclasses.fields(part) if field.init}
    annotations, values = typing.get_type_hints(part), dict[str, Any]()
    for word in re.split(r",(?=\s*[A-Za-z_][\w-]*=)", words):  # a comma may stand in a value, too
        key, equals, value = word.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise UserError(f"{name}:{words} is no source: after {name}: stands FIELD=VALUE,FIELD=VALUE.")
        if key not in fields:
            options = f"has {', '.join(fields)}" if fields else "has none"
            raise UserError(
                f"The source {name} has no option {key!r}: it {options}.{did_you_mean(key, fields)}"
            )
        if key in values:
            raise UserError(f"{name}:{words} gives {key} twice: leave one of them.")
        place = f"data {name}:{key}"  # in a message it stands after two hyphens, as a flag and its value
        values[key] = from_dict(parse(value, annotations[key], place), annotations[key], place, fields[key])
    return values


# --- Sources in other processes


class SourceModules:
    """Pickled before a source, it has the process that unpickles it import the modules of the user's own sources.

    A process that is started by spawn or forkserver, as on Windows and macOS, has imported nothing of what
    `--use` named here. Unpickled it is None. A dictionary is unpickled in its order, so
    `{"modules": SourceModules(), "source": source}` first imports, and then looks the source's class up.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        names = {part.cls.__module__ for part in registry.parts("source") if part.module is not None}
        found = {name: sys.modules.get(name) for name in names - {"__main__", "__mp_main__"}}
        return _import_modules, ({name: getattr(module, "__file__", None) for name, module in found.items()},)


def _import_modules(files: dict[str, str | None]) -> None:
    """Import modules by name or, where that would find another file or nothing, from their files."""
    for name, file in files.items():
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec(name)
        if file is None or "." in name or (spec is not None and spec.origin == file):
            importlib.import_module(name)
            continue
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


@contextlib.contextmanager
def sending(without: str) -> Iterator[None]:
    """Within it processes are started; UserError, naming the option `without` any, where a source cannot be pickled."""
    try:
        yield
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"The source of images cannot be sent to other processes ({' '.join(str(error).split())[:200]}): "
            f"write it so that pickle can, or give {without}."
        ) from error
