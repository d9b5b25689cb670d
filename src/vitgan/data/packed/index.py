"""The files of a packed folder: `index.json`, and the arrays whose sizes and hashes it holds.

`index.json` is sealed (`vitgan.io.sealed`): {"packed": body, "sha256": hash of the body}. The images are in
`images-00000.npy` and so on, uint8 (n, C, R, R); `checksums.npy`, uint32 (N,), has the CRC-32 of each image;
`labels.npy`, int64 (N,), is there if there are labels; `skipped.jsonl` names the images that were left out.
Shapes: N images, n of one shard, C channels, R resolution.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from vitgan.errors import UserError
from vitgan.io import BrokenSeal, replacing, sealed, unsealed

FORMAT = 1
INDEX, CHECKSUMS, LABELS, SKIPPED = "index.json", "checksums.npy", "labels.npy", "skipped.jsonl"
SHARD_NAME = re.compile(r"images-\d{5}\.npy")
HEADER = 128  # bytes of a `.npy` file before its values
MAX_SIDE = 2**16
MAX_SHARDS = 100_000  # five digits number them
Value = TypeVar("Value")


class Damaged(Exception):
    """A file of a packed folder is not as it was written; the text is a clause that says in what way."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the folder: its size in bytes and its SHA-256, in hexadecimal."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is packed, and in which form: two packings by the same plan give the same files."""

    source: str
    """The name of the source, or the last part of its path."""
    origin: str
    """The SHA-256 of the source's number of images, classes, labels and content."""
    resolution: int
    channels: int
    shard_images: int
    """The number of images in every shard but the last, which has no more."""

    @property
    def image_bytes(self) -> int:
        """The size of one image in bytes, C x R x R."""
        return self.channels * self.resolution**2

    def header(self, images: int) -> bytes:
        """The first 128 bytes of the file of a shard of `images` images."""
        return npy_header("|u1", (images, self.channels, self.resolution, self.resolution))


@dataclass(frozen=True, kw_only=True)
class Index:
    """The body of `index.json`.

    plan: what was packed; count: N; classes: their names; labels: whether there are any; skipped: the number
    of images that were left out; shards: file name, number of images and file of each; arrays: the other
    files.
    """

    plan: Plan
    count: int
    classes: tuple[str, ...]
    labels: bool
    skipped: int
    shards: tuple[tuple[str, int, File], ...]
    arrays: Mapping[str, File]

    def body(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        shards = [{"file": name, "images": n, **asdict(file)} for name, n, file in self.shards]
        return {
            "format": FORMAT,
            **asdict(self.plan),
            "count": self.count,
            "classes": list(self.classes),
            "labels": self.labels,
            "skipped": self.skipped,
            "shards": shards,
            "arrays": {name: asdict(file) for name, file in self.arrays.items()},
        }


def shard_name(number: int) -> str:
    """The file name of a shard, counted from 0."""
    return f"images-{number:05d}.npy"


def npy_header(kind: str, shape: tuple[int, ...]) -> bytes:
    """The first 128 bytes of a `.npy` file of version 1.0, C order; `kind` is NumPy's, as "<i8"."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    start = b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little")
    return start + text.ljust(HEADER - 11) + b"\n"


def written(path: Path, parts: Iterable[bytes]) -> File:
    """Write `parts`, one after another, to the file `path`, atomically; returns the file's size and hash."""
    digest, size = hashlib.sha256(), 0
    with replacing(path) as temporary, temporary.open("wb") as file:
        for part in parts:
            size += file.write(part)
            digest.update(part)
        file.flush()
        os.fsync(file.fileno())
    return File(bytes=size, sha256=digest.hexdigest())


def write_checked(path: Path, key: str, body: Any) -> None:
    """Write `sealed(key, body)` to the file `path`, whole or not at all."""
    written(path, [json.dumps(sealed(key, body), indent=1).encode() + b"\n"])


def read_checked(path: Path, key: str) -> Any:
    """The body that `write_checked` wrote. Raises Damaged, and OSError where the file cannot be read.

    It is not held to the size and characters of `vitgan.io.read_json`: a million images may have been left
    out, and the names of files need not be text.
    """
    try:
        return unsealed(json.loads(path.read_bytes()), key)
    except BrokenSeal as error:
        raise Damaged(f"{path.name} does not match its checksum") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path.name} is not as it was written") from error


def read_index(folder: Path) -> Index:
    """The index of a packed folder, whose numbers were found to agree with each other.

    Raises Damaged where they do not, UserError where a newer version wrote it, OSError where it cannot be
    read.
    """
    body = read_checked(folder / INDEX, "packed")
    try:
        version = _get(body, "format", int)
        if version > FORMAT:
            raise UserError(
                f"{folder} was packed by a newer vitgan (format {version}): "
                "upgrade with `pip install --upgrade vitgan`."
            )
        index = _parsed(body)
        _check(index)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{INDEX} has no valid {' '.join(str(error).split())[:80]}") from error
    return index


def _parsed(body: dict[str, Any]) -> Index:
    shards = [
        (_get(one, "file", str), _get(one, "images", int), _file(one)) for one in _get(body, "shards", list)
    ]
    classes = _get(body, "classes", list)
    if not all(isinstance(name, str) for name in classes):
        raise ValueError("classes")
    return Index(
        plan=read_plan(body),
        count=_get(body, "count", int),
        classes=tuple(classes),
        labels=_get(body, "labels", bool),
        skipped=_get(body, "skipped", int),
        shards=tuple(shards),
        arrays={name: _file(one) for name, one in _get(body, "arrays", dict).items()},
    )


def read_plan(body: dict[str, Any]) -> Plan:
    """The plan in the body of `index.json` or `plan.json`.

    Raises ValueError, KeyError or TypeError where there is none.
    """
    plan = Plan(
        source=_get(body, "source", str),
        origin=_get(body, "origin", str),
        resolution=_get(body, "resolution", int),
        channels=_get(body, "channels", int),
        shard_images=_get(body, "shard_images", int),
    )
    _require(0 < plan.resolution <= MAX_SIDE, "resolution")
    _require(plan.channels in (1, 3), "channels")
    _require(plan.shard_images > 0, "shard_images")
    return plan


def _check(index: Index) -> None:
    """Raise ValueError, naming the field, where the numbers of an index do not agree with each other."""
    plan, sizes = index.plan, [images for _, images, _ in index.shards]
    _require(index.count > 0 and sum(sizes) == index.count, "count")
    _require(all(size == plan.shard_images for size in sizes[:-1]), "shards")
    _require(0 < sizes[-1] <= plan.shard_images, "shards")
    for number, (name, images, file) in enumerate(index.shards):
        _require(SHARD_NAME.fullmatch(name) is not None and name == shard_name(number), "file name")
        _require(file.bytes == HEADER + images * plan.image_bytes, "size of a shard")
    arrays = {CHECKSUMS: 4, SKIPPED: None} | ({LABELS: 8} if index.labels else {})
    _require(set(index.arrays) == set(arrays), "arrays")
    for name, width in arrays.items():
        size = index.arrays[name].bytes
        _require(size >= 0 if width is None else size == HEADER + width * index.count, f"size of {name}")
    _require(index.skipped >= 0, "skipped")
    _require(bool(index.classes) or not index.labels, "classes")


def _get(body: Any, key: str, kind: type[Value]) -> Value:
    """The value of a key. Raises KeyError where it is missing, ValueError where it is of another type."""
    value = body[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(key)
    return value


def _file(body: Any) -> File:
    return File(bytes=_get(body, "bytes", int), sha256=_get(body, "sha256", str))


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)
