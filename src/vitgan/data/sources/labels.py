"""The labels that a folder or a zip carries: a `dataset.json`, or sub-folders as classes."""

import itertools
import re
import unicodedata
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from vitgan.config import brief
from vitgan.data.sources.arrays import MOST_CLASSES
from vitgan.errors import UserError
from vitgan.io import parse_json
from vitgan.terminal import printable

LABEL_FILE = "dataset.json"
Labels = tuple[np.ndarray | None, tuple[str, ...]]
SPLITS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"))


class FolderNames(tuple[str, ...]):
    """The names of classes that are folders, in natural order, where 2 comes before 10."""

    __slots__ = ()


def natural(name: str) -> tuple[Any, ...]:
    """The key of a name by which a sort puts numbers within names in the order of their values."""
    parts = re.split("([0-9]+)", name)  # text and digits in turn
    digits = ((len(part.lstrip("0")), part.lstrip("0")) for part in parts[1::2])
    return (*itertools.chain.from_iterable(zip(parts[::2], [*digits, ()], strict=True)), name)


def as_hashed(labels: np.ndarray | None, classes: tuple[str, ...]) -> Labels:
    """Labels int64 (N,) and classes as the hashes of a set cover them.

    Class folders count in the order of their names as text, in which they were numbered before they were in
    natural order: so a set keeps its hashes, and runs go on with it.
    """
    if labels is None or not isinstance(classes, FolderNames):
        return labels, classes
    order = sorted(range(len(classes)), key=classes.__getitem__)
    return np.argsort(order)[labels], tuple(classes[number] for number in order)


def tidy(path: str) -> str:
    """A path within a set with forward slashes, without a drive, a slash or "./" at its beginning."""
    path = path.replace("\\", "/")
    if re.match(r"[A-Za-z]:/", path):
        path = path[2:]
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def same_labels(a: Labels, b: Labels) -> bool:
    """Whether two readings of a set give every image the same class, under the same names."""
    if a[0] is None or b[0] is None:
        return a[0] is b[0]
    return a[1] == b[1] and np.array_equal(a[0], b[0])


def above(paths: list[str]) -> str:
    """The deepest folder in which all images lie, as `dataset.json` or folders of classes may do."""
    # What the first and the last in the order of letters begin with, all that lie between begin with.
    ends = min(paths, default="").split("/")[:-1], max(paths, default="").split("/")[:-1]
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False))
    return "/".join(part for part, _ in shared)


def read_labels(name: str, names: list[str], text: bytes | None, place: str = "") -> Labels:
    """The labels int64 (N,) of the images `names`, or None, and the names of the classes.

    They come from `text`, the content of a `dataset.json` as StyleGAN's `dataset_tool.py` writes it, with the
    names of the classes beside the labels, its paths relative to the folder `place` ("a/") in which it lies
    or to the set. Without one they come from the sub-folders, those in the deepest folder that holds
    everything, where every image lies in exactly one and there are two or more; of "train" and "test" from
    those below. Raises UserError, naming the entry, where `text` is wrong.
    """
    if text is None:
        return _from_folders(names)
    where = f"{LABEL_FILE} of {name}"
    try:
        content = parse_json(text)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where} is not JSON ({reason}): correct or remove it.") from error
    if not isinstance(content, dict) or not isinstance(content.get("labels"), list | None):
        raise UserError(f'{where} must be {{"labels": [[path, index], ...] or null, "classes": [...]}}.')
    if content.get("labels") is None:
        return None, ()
    positions = _positions(names, place)
    return _from_entries(where, names, positions, content["labels"], content.get("classes") or [])


def _positions(names: list[str], place: str) -> dict[str, int]:
    """The number of each image by its path in the set, or below a folder of it, with letters composed too.

    Where two of these are the same path the one relative to `place` counts.
    """
    found: dict[str, int] = {}
    for prefix in (f"{above(names)}/", "", place):
        own = {name.removeprefix(prefix): number for number, name in enumerate(names)}
        found |= {unicodedata.normalize("NFC", path): number for path, number in own.items()} | own
    return found


def _from_entries(
    where: str, names: list[str], positions: dict[str, int], entries: list[Any], classes: list[Any]
) -> Labels:
    if not isinstance(classes, list):
        raise UserError(f"{where} has the classes {brief(classes)}, but they must be a list of names.")
    labels = np.full(len(names), -1, dtype=np.int64)
    for entry in entries:
        position, index = _checked_entry(where, entry, positions, len(classes))
        if labels[position] >= 0:
            raise UserError(f"{where} names {entry[0]!r} twice: leave one entry an image.")
        labels[position] = index
    if missing := np.flatnonzero(labels < 0).tolist():
        raise UserError(f"{where} has no entry for {names[missing[0]]!r}: give every image a label.")
    if not classes:
        classes = list(range(int(labels.max()) + 1))
    return labels, tuple(str(item) for item in classes)


def _checked_entry(where: str, entry: Any, positions: dict[str, int], classes: int) -> tuple[int, int]:
    match entry:
        case [str(path), int(index)] if not isinstance(index, bool):
            pass
        case _:
            raise UserError(f"{where} has the entry {brief(entry)}, but each must be [path, index].")
    if PurePosixPath(path).is_absolute() or ".." in path.replace("\\", "/").split("/"):
        raise UserError(
            f"{where} has the entry {brief(entry)}, whose path leads outside: use paths within the set."
        )
    path = path if path in positions else unicodedata.normalize("NFC", tidy(path))
    if path not in positions:
        raise UserError(f"{where} has the entry {brief(entry)}, but there is no such image.")
    if not 0 <= index < (classes or MOST_CLASSES):
        raise UserError(
            f"{where} has the entry {brief(entry)}, but there are {classes or f'at most {MOST_CLASSES:,}'} "
            "classes, counted from 0."
        )
    return positions[path], index


def _from_folders(names: list[str]) -> Labels:
    """The sub-folders as classes, in natural order.

    There are no labels where an image lies elsewhere, or there is one folder only.
    """
    return of_parts(_parts(names))


def _parts(names: list[str]) -> list[list[str]]:
    """The parts of the paths below the folder in which all images lie, or below "train" and "test" there."""
    depth = len(list(filter(None, above(names).split("/"))))
    parts = [name.split("/")[depth:] for name in names]
    split = all(len(part) == 3 and part[0].lower() in SPLITS for part in parts)
    return [part[1:] for part in parts] if split else parts


def of_parts(parts: list[list[str]]) -> Labels:
    """The classes of images whose paths have these parts; none unless each lies in one of several folders."""
    classes = FolderNames(sorted({part[0] for part in parts}, key=natural))
    if any(len(part) != 2 for part in parts) or len(classes) < 2:
        return None, ()
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[part[0]] for part in parts], dtype=np.int64), classes


def why_unlabelled(names: list[str], place: str, told: bool) -> str:
    """Why the images have no labels, as a clause; `told` where a `dataset.json` says so."""
    if told:
        return f"its {LABEL_FILE} says that there are none"
    parts = _parts(names)
    flat = [name for name, part in zip(names, parts, strict=True) if len(part) == 1]
    deep = [name for name, part in zip(names, parts, strict=True) if len(part) > 2]
    if len(flat) == len(names):
        return f"all its images lie in one folder, {printable(place)}" if place else "it has no sub-folders"
    odd, where = (flat, "beside its sub-folders") if flat else (deep, "deeper than in a sub-folder")
    more = f" and {len(odd) - 1:,} more" if len(odd) > 1 else ""
    return f"{printable(odd[0])}{more} {'lie' if more else 'lies'} {where}" if odd else "one class is none"
