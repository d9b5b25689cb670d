"""`vitgan data pack`: a source, brought to one form, as a packed folder.

While it is not finished, `OUT/.packing` holds `plan.json` and a note for every whole shard: its size and
hash, where in the source the next one begins, and which images were left out; beside it their checksums.
Shapes: n images, C channels, R resolution.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitgan.data.conversion import Chunk, converted
from vitgan.data.index import (
    CHECKSUMS,
    HEADER,
    INDEX,
    LABELS,
    MAX_SHARDS,
    MAX_SIDE,
    SKIPPED,
    Damaged,
    File,
    Index,
    Plan,
    npy_header,
    read_checked,
    read_plan,
    sha256_of,
    shard_name,
    write_checked,
    written,
)
from vitgan.data.packed import PACKING, open_packed
from vitgan.data.sources import Source
from vitgan.errors import UserError

PLAN, LOCK = "plan.json", ".lock"
Progress = Callable[[int], None]  # is told up to which image of the source it has come


Left = tuple[int, str, str]  # an image that is left out: number in the source, name, reason


@dataclass(frozen=True)
class Note:
    """A whole shard."""

    images: int
    file: File
    following: int
    """Number in the source of the first image after it."""


def plan_of(source: Source, name: str, *, resolution: int, channels: int, shard_mib: int) -> Plan:
    """How `source` is packed, in shards of `shard_mib` MiB or a little less.

    Raises UserError where its folder could not be read: the images are too large, or the shards too many.
    """
    shard_images = max(1, shard_mib * 2**20 // (channels * resolution**2))
    if resolution > MAX_SIDE:
        raise UserError(f"--resolution is {resolution:,}, but must be at most {MAX_SIDE:,}.")
    if len(source) > MAX_SHARDS * shard_images:
        raise UserError(f"{name} would need more than {MAX_SHARDS:,} files: give a larger --shard-mib.")
    digest = hashlib.sha256(json.dumps([len(source), list(source.classes)]).encode())
    if source.labels is not None:
        digest.update(source.labels.astype("<i8").tobytes())
    for part in source.content():
        digest.update(part)
    return Plan(
        source=Path(name).name if Path(name).expanduser().exists() else name,
        origin=digest.hexdigest(),
        resolution=resolution,
        channels=channels,
        shard_images=shard_images,
    )


def pack(source: Source, out: Path, plan: Plan, *, workers: int, progress: Progress) -> bool:
    """Pack `source` into the folder `out`; False where that was already done.

    An interrupted packing goes on after its last whole shard and ends with the same files. Raises UserError
    where `out` holds anything else or another process packs there, where no image can be read, and where the
    disk is full.
    """
    if not (out / INDEX).exists():
        _check_out(out, plan)
    elif not (out / PACKING).exists():
        _check_same(out, open_packed(str(out), out).index.plan, plan)
        return False
    with _told_if_full(out):
        out.mkdir(parents=True, exist_ok=True)
        with _alone(out):
            if (out / INDEX).exists():  # killed in its last moment, or packed by another process since
                _check_same(out, open_packed(str(out), out).index.plan, plan)
                shutil.rmtree(out / PACKING, ignore_errors=True)
                return False
            _pack(source, out, plan, workers, progress)
    return True


def _pack(source: Source, out: Path, plan: Plan, workers: int, progress: Progress) -> None:
    notes = list(_begin(out, plan))
    start = notes[-1].following if notes else 0
    progress(start)
    with contextlib.closing(converted(source, plan, start=start, workers=workers)) as chunks:
        rest = _write(chunks, _Writer(out, plan, notes, start), progress)
    _finish(out, plan, source, notes, rest)


def _write(chunks: Iterator[Chunk], writer: "_Writer", progress: Progress) -> list[Left]:
    try:
        for chunk in chunks:
            writer.add(chunk)
            progress(chunk.stop)
        return writer.end()
    finally:
        writer.abandon()


def _check_out(out: Path, plan: Plan) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose another folder to pack into.")
    if not out.exists():
        return
    found = {path.name for path in out.iterdir()} - {LOCK}
    if (out / PACKING / PLAN).exists():
        try:
            _check_same(out, read_plan(read_checked(out / PACKING / PLAN, "plan")), plan)
        except (Damaged, ValueError, KeyError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{out} holds a damaged packing: delete it and pack again.") from error
    elif found - {PACKING}:
        raise UserError(f"{out} is not empty: choose another folder to pack into.")


def _check_same(out: Path, found: Plan, plan: Plan) -> None:
    """Raise UserError, naming the first difference, where `out` is packed by another plan."""
    names = {"origin": "the content of the source", "shard_images": "images a shard (--shard-mib)"}
    had, wanted = asdict(found), asdict(plan)
    for key in ("origin", "resolution", "channels", "shard_images"):
        if had[key] == wanted[key]:
            continue
        values = f"{had[key]}, not {wanted[key]}"
        if key == "origin":
            values = f"that of {found.source!r} as it was, not of {plan.source!r} as it is"
        raise UserError(
            f"{out} is packed otherwise, {names.get(key, key)}: {values}; "
            "choose another folder, or delete it."
        )


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Within it no other process packs into `out`."""
    with (out / LOCK).open("a") as lock:
        try:
            import fcntl

            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows
            pass
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):  # else a file system without locks
                raise UserError(
                    f"Another process is packing into {out}: wait for it, or choose another folder."
                ) from error
        yield


@contextlib.contextmanager
def _told_if_full(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        kept = len(list((out / PACKING).glob("[0-9]*.json")))
        raise UserError(
            f"The disk of {out} is full: delete what you do not need there and give the same command again; "
            f"{kept} whole shards are kept."
        ) from error


def _begin(out: Path, plan: Plan) -> Iterator[Note]:
    """The notes of the shards that are whole; what else an interrupted packing left is deleted."""
    (out / PACKING).mkdir(exist_ok=True)
    if not (out / PACKING / PLAN).exists():
        write_checked(out / PACKING / PLAN, "plan", asdict(plan))
    number = 0
    for number in itertools.count():
        note = _note(out, number)
        if note is None:
            break
        yield note
    for path in [*out.glob("images-*.npy"), *out.glob("*.tmp")]:
        if path.suffix == ".tmp" or path.name >= shard_name(number):
            path.unlink()
    for path in (out / PACKING).glob("[0-9]*"):
        if path.name >= f"{number:05d}":
            path.unlink()


def _note(out: Path, number: int) -> Note | None:
    """The note of a shard that is whole."""
    try:
        body = read_checked(out / PACKING / f"{number:05d}.json", "note")
        file, checksums = File(**body["file"]), out / PACKING / f"{number:05d}.checksums"
        whole = (out / shard_name(number)).stat().st_size == file.bytes
        whole = whole and sha256_of(checksums) == body["checksums"]
        return Note(body["images"], file, body["following"]) if whole else None
    except (Damaged, OSError, KeyError, TypeError):
        return None


class _Writer:
    """Writes the shards, one after the other, and a note when each is whole."""

    def __init__(self, out: Path, plan: Plan, notes: list[Note], start: int) -> None:
        self.out, self.plan, self.notes = out, plan, notes
        self._following = start
        self._checksums, self._left = bytearray(), list[Left]()
        self._file: Any = None

    def add(self, chunk: Chunk) -> None:
        """Write what a chunk has, in the order of the source."""
        rows, failed = iter(chunk.pixels), {left[0]: left for left in chunk.skipped}
        for number in range(chunk.start, chunk.stop):
            self._following = number + 1
            if number in failed:
                self._left.append(failed[number])
                continue
            self._write(next(rows))
            if len(self._checksums) == 4 * self.plan.shard_images:
                self._close()

    def end(self) -> list[Left]:
        """Close the last shard; gives the images left out after it."""
        if self._checksums:
            self._close()
        return self._left

    def abandon(self) -> None:
        """Delete what is not whole."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # of a full disk, once more
                self._file.close()
            self._temporary.unlink(missing_ok=True)

    @property
    def _temporary(self) -> Path:
        return self.out / f".{shard_name(len(self.notes))}.tmp"

    def _write(self, pixels: np.ndarray) -> None:
        if self._file is None:
            self._file = self._temporary.open("wb")
            self._file.write(b"\0" * HEADER)
        self._file.write(pixels.data)
        self._checksums += zlib.crc32(pixels.data).to_bytes(4, "little")

    def _close(self) -> None:
        images, number = len(self._checksums) // 4, len(self.notes)
        self._file.seek(0)
        self._file.write(self.plan.header(images))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        file = File(bytes=self._temporary.stat().st_size, sha256=sha256_of(self._temporary))
        self._temporary.rename(self.out / shard_name(number))
        self._note(number, Note(images, file, self._following))
        self._checksums, self._left = bytearray(), []

    def _note(self, number: int, note: Note) -> None:
        checksums = self.out / PACKING / f"{number:05d}.checksums"
        sha256 = written(checksums, [bytes(self._checksums)]).sha256
        body = {**asdict(note), "checksums": sha256, "skipped": self._left}
        write_checked(self.out / PACKING / f"{number:05d}.json", "note", body)
        self.notes.append(note)


def _finish(out: Path, plan: Plan, source: Source, notes: list[Note], rest: list[Left]) -> None:
    """Write the arrays and the index, the index last."""
    count = sum(note.images for note in notes)
    if not count:
        shutil.rmtree(out / PACKING)
        first = rest[0]
        raise UserError(f"{plan.source} has no readable image (the first, {first[1]}: {first[2]}).")
    skipped = _Count(itertools.chain(_left_in(out, notes), rest))
    arrays = {SKIPPED: written(out / SKIPPED, (_line(left) for left in skipped))}
    header = npy_header("<u4", (count,))
    arrays[CHECKSUMS] = written(out / CHECKSUMS, itertools.chain([header], _checksums(out, notes)))
    if source.labels is not None:
        header = npy_header("<i8", (count,))
        arrays[LABELS] = written(out / LABELS, itertools.chain([header], _labels(out, notes, source.labels)))
    index = Index(
        plan=plan,
        count=count,
        classes=source.classes if source.labels is not None else (),
        labels=source.labels is not None,
        skipped=skipped.count,
        shards=tuple((shard_name(n), note.images, note.file) for n, note in enumerate(notes)),
        arrays=arrays,
    )
    write_checked(out / INDEX, "packed", index.body())
    shutil.rmtree(out / PACKING)


class _Count:
    """Counts what passes through."""

    def __init__(self, items: Iterator[Left]) -> None:
        self.items, self.count = items, 0

    def __iter__(self) -> Iterator[Left]:
        for item in self.items:
            self.count += 1
            yield item


def _line(left: Left) -> bytes:
    return json.dumps({"name": left[1], "reason": left[2]}).encode() + b"\n"


def _checksums(out: Path, notes: list[Note]) -> Iterator[bytes]:
    return ((out / PACKING / f"{number:05d}.checksums").read_bytes() for number in range(len(notes)))


def _left_in(out: Path, notes: list[Note]) -> Iterator[Left]:
    return (left for number in range(len(notes)) for left in _skipped(out, number))


def _skipped(out: Path, number: int) -> list[Left]:
    found = read_checked(out / PACKING / f"{number:05d}.json", "note")["skipped"]
    return [(place, name, reason) for place, name, reason in found]


def _labels(out: Path, notes: list[Note], labels: np.ndarray) -> Iterator[bytes]:
    start = 0
    for number, note in enumerate(notes):
        left = [place for place, _, _ in _skipped(out, number)]
        kept = np.setdiff1d(np.arange(start, note.following), left)
        yield labels[kept].astype("<i8").tobytes()
        start = note.following
