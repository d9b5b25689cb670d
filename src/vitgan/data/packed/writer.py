"""Packing a source into a folder, which `vitgan data pack` does: in one form, by several processes.

Whatever interrupts a packing, the same command resumes it. Shapes: C channels, R resolution.
"""

import contextlib
import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from vitgan.data.packed.index import (
    INDEX,
    MAX_SHARDS,
    MAX_SIDE,
    Damaged,
    Plan,
    read_checked,
    read_plan,
)
from vitgan.data.packed.reader import PACKING, open_packed
from vitgan.data.packed.shards import (
    PLAN,
    Chunk,
    Left,
    ShardWriter,
    converted,
    finish,
    whole_shards,
)
from vitgan.data.reading import white_of
from vitgan.data.sources import Source
from vitgan.data.sources.labels import as_hashed
from vitgan.data.transforms import WHITE
from vitgan.errors import UserError
from vitgan.io import try_lock

LOCK = ".lock"
Progress = Callable[[int], None]  # is called with the number of images of the source that are done


def plan_of(source: Source, name: str, *, resolution: int, channels: int, shard_mib: int) -> Plan:
    """The plan by which `source` is packed, in shards of `shard_mib` MiB or a little less.

    Raises UserError where the images would be too large, or the shards too many, for the folder to be read.
    """
    shard_images = max(1, shard_mib * 2**20 // (channels * resolution**2))
    if resolution > MAX_SIDE:
        raise UserError(f"--resolution is {resolution:,}, but must be at most {MAX_SIDE:,}.")
    if len(source) > MAX_SHARDS * shard_images:
        raise UserError(f"{name} would need more than {MAX_SHARDS:,} files: give a larger --shard-mib.")
    labels, classes = as_hashed(source.labels, source.classes)
    digest = hashlib.sha256(json.dumps([len(source), list(classes)]).encode())
    if labels is not None:
        digest.update(labels.astype("<i8").tobytes())
    for part in source.content():
        digest.update(part)
    if (white := white_of(source)) != WHITE:
        digest.update(repr(white).encode())
    return Plan(
        source=Path(name).name if Path(name).expanduser().exists() else name,
        origin=digest.hexdigest(),
        resolution=resolution,
        channels=channels,
        shard_images=shard_images,
    )


def pack(source: Source, out: Path, plan: Plan, *, workers: int, progress: Progress) -> bool:
    """Pack `source` into the folder `out`; returns False where that was already done.

    An interrupted packing is resumed after its last whole shard and ends with the same files as one that was
    not. Raises UserError where `out` holds anything else or another process packs there, where no image can
    be read, and where the disk is full.
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
    notes = list(whole_shards(out, plan))
    start = notes[-1].following if notes else 0
    progress(start)
    with contextlib.closing(converted(source, plan, start=start, workers=workers)) as chunks:
        rest = _write(chunks, ShardWriter(out, plan, notes, start), progress)
    finish(out, plan, source, notes, rest)


def _write(chunks: Iterator[Chunk], writer: ShardWriter, progress: Progress) -> list[Left]:
    """Write all chunks; returns the images that were left out after the last shard."""
    try:
        for chunk in chunks:
            writer.add(chunk)
            progress(chunk.stop)
        return writer.end()
    finally:
        writer.abandon()


def _check_out(out: Path, plan: Plan) -> None:
    """Raise UserError unless `out` is missing, is empty, or holds an unfinished packing by the same plan."""
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
    """A context within which no other process packs into `out`. Raises UserError where one does already."""
    with (out / LOCK).open("a") as lock:
        if not try_lock(lock):
            raise UserError(f"Another process is packing into {out}: wait for it, or choose another folder.")
        yield


@contextlib.contextmanager
def _told_if_full(out: Path) -> Iterator[None]:
    """A context that turns the OSError of a full disk into a UserError that says how much is kept."""
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
