"""Converting the images of a source, and writing them: shards and notes first, the arrays and the index last.

While a packing is not finished, `OUT/.packing` holds `plan.json` and, for every whole shard, a note with its
size and hash, the place in the source at which the next one begins and the images that were left out, and
beside the note the checksums of its images. Shapes: n images, C channels, R resolution.
"""

import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
import zlib
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitgan.compat import terminate_workers
from vitgan.data.packed.index import (
    CHECKSUMS,
    HEADER,
    INDEX,
    LABELS,
    SKIPPED,
    Damaged,
    File,
    Index,
    Plan,
    npy_header,
    read_checked,
    shard_name,
    write_checked,
    written,
)
from vitgan.data.packed.reader import PACKING
from vitgan.data.reading import Skipped, quiet_decoding, read_image, white_of
from vitgan.data.retry import Patience, Unreachable
from vitgan.data.sources import Source, SourceModules, sending
from vitgan.data.sources.streams import Sample, Stream
from vitgan.data.transforms import reason, to_pixels
from vitgan.errors import UserError
from vitgan.io import sha256_of

# --- Converting

CHUNK_IMAGES, CHUNK_BYTES = 256, 2**24  # that a process converts in one task, at most


class Chunk(NamedTuple):
    """The images `start` to `stop` of a source, converted.

    pixels: those that can be read, uint8 (n, C, R, R); skipped: number, name and reason of the others.
    """

    start: int
    stop: int
    pixels: np.ndarray
    skipped: list[tuple[int, str, str]]


class _Job(NamedTuple):
    """The images `start` to `stop`, to be converted: a stream's samples, or None to read them by number."""

    start: int
    stop: int
    samples: list[Sample] | None


Result = Chunk | tuple[str, str]  # the tuple: place and reason, where the source cannot be reached
_convert_here: "_Converter | None" = None  # what a process of the pool converts with


def converted(source: Source, plan: Plan, *, start: int, workers: int) -> Generator[Chunk, None, None]:
    """The images from number `start` on, converted by `workers` processes, or by this one where that is 0.

    close() ends the processes. Raises UserError where the source stays out of reach, where it cannot be sent
    to the processes, and where one of them is killed.
    """
    patience, size = Patience(), max(1, min(CHUNK_IMAGES, CHUNK_BYTES // plan.image_bytes))
    jobs = _stream_jobs(source, start, size, patience) if isinstance(source, Stream) else None
    if jobs is None:
        starts = range(start, len(source), size)
        jobs = (_Job(at, min(at + size, len(source)), None) for at in starts)
    convert = _Converter(source, plan)
    pairs = _in_processes(convert, jobs, workers) if workers else ((job, convert(job)) for job in jobs)
    for job, result in pairs:
        if isinstance(result, Chunk):
            yield result
        else:
            yield patience(lambda job=job: convert.reached(job))


class _Converter:
    """Brings the images of a job to the form of a plan."""

    def __init__(self, source: Source, plan: Plan) -> None:
        self.source, self.plan = source, plan

    def __getstate__(self) -> dict[str, Any]:
        return {"modules": SourceModules(), **self.__dict__}

    def __call__(self, job: _Job) -> Result:
        rows, skipped = [], []
        try:
            with quiet_decoding():
                for place, number in enumerate(range(job.start, job.stop)):
                    found = self._one(number, None if job.samples is None else job.samples[place])
                    if isinstance(found, Skipped):
                        skipped.append((number, found.name, found.reason))
                    else:
                        rows.append(found)
        except Unreachable as loss:
            return loss.place, loss.reason
        side = self.plan.resolution
        pixels = np.array(rows, dtype=np.uint8).reshape(len(rows), self.plan.channels, side, side)
        return Chunk(job.start, job.stop, pixels, skipped)

    def reached(self, job: _Job) -> Chunk:
        """The chunk of a job. Raises Unreachable where the source cannot be reached."""
        result = self(job)
        if not isinstance(result, Chunk):
            raise Unreachable(*result)
        return result

    def _one(self, number: int, sample: Sample | None) -> np.ndarray | Skipped:
        if sample is None:
            return read_image(self.source, number, self.plan)
        try:
            white = white_of(self.source)
            return to_pixels(sample.picture(), self.plan.resolution, self.plan.channels, white)
        except Exception as error:  # decoders raise almost anything on damaged data
            return Skipped(sample.name, reason(error))


def _stream_jobs(stream: Stream, start: int, size: int, patience: Patience) -> Iterator[_Job]:
    """The samples of a stream from number `start` on, read in this process, `size` of them a job."""
    samples: Iterator[Sample] | None = None

    def read() -> list[Sample]:
        nonlocal samples
        try:
            samples = samples or stream.after(range(len(stream.counts)), start)
            return list(itertools.islice(samples, size))
        except Unreachable:
            samples = None
            raise

    while found := patience(read):
        yield _Job(start, start + len(found), found)
        start += len(found)


def _in_processes(
    convert: _Converter, jobs: Iterator[_Job], workers: int
) -> Generator[tuple[_Job, Result], None, None]:
    """Jobs and their results, in order; memory is bounded, for at most 2 * workers + 1 jobs are in flight."""
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context(method), initializer=_prepare, initargs=(convert, os.getpid())
    )
    waiting: deque[tuple[_Job, Future[Result]]] = deque()
    try:
        for job in jobs:
            with sending("--workers 0"):
                waiting.append((job, pool.submit(_convert, job)))
            if len(waiting) > 2 * workers:
                yield _result(waiting)
        while waiting:
            yield _result(waiting)
        pool.shutdown()
    except BrokenProcessPool as error:
        raise UserError(
            "A process that converted images was killed, perhaps for want of memory: give the same command "
            "again with fewer --workers; what is whole is kept."
        ) from error
    finally:
        terminate_workers(pool)


def _result(waiting: "deque[tuple[_Job, Future[Result]]]") -> tuple[_Job, Result]:
    job, future = waiting.popleft()
    return job, future.result()


def _prepare(convert: _Converter, parent: int) -> None:
    """Set up a process of the pool, as its `initializer`; it ends when the process `parent` has ended."""
    global _convert_here
    _convert_here = convert
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all processes, of which the parent ends these
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, even if it was killed and could not say so."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _convert(job: _Job) -> Result:
    assert _convert_here is not None
    return _convert_here(job)


# --- Writing

PLAN = "plan.json"
Left = tuple[int, str, str]  # an image that is left out: number in the source, name, reason


@dataclass(frozen=True)
class Note:
    """What is known of a shard that is whole.

    images: their number; file: its size and hash; following: the number in the source of the first image
    after it.
    """

    images: int
    file: File
    following: int


def whole_shards(out: Path, plan: Plan) -> Iterator[Note]:
    """The notes of the shards that are whole; deletes what else an interrupted packing has left."""
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
    """The note of a shard; None where the shard, its note or its checksums are not whole."""
    try:
        body = read_checked(out / PACKING / f"{number:05d}.json", "note")
        file, checksums = File(**body["file"]), out / PACKING / f"{number:05d}.checksums"
        whole = (out / shard_name(number)).stat().st_size == file.bytes
        whole = whole and sha256_of(checksums) == body["checksums"]
        return Note(body["images"], file, body["following"]) if whole else None
    except (Damaged, OSError, KeyError, TypeError):
        return None


class ShardWriter:
    """Writes the shards, one after another, and for each that is whole a note.

    notes: those of the shards that are there already, to which it adds; start: the number in the source of
    the first image that comes.
    """

    def __init__(self, out: Path, plan: Plan, notes: list[Note], start: int) -> None:
        self.out, self.plan, self.notes = out, plan, notes
        self._following = start
        self._checksums, self._left = bytearray(), list[Left]()
        self._file: Any = None

    def add(self, chunk: Chunk) -> None:
        """Write the images of a chunk; chunks come in the order of the source."""
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
        """Close the last shard; returns the images that were left out after it."""
        if self._checksums:
            self._close()
        return self._left

    def abandon(self) -> None:
        """Delete the shard that is not whole, if there is one."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # closing writes what is left to a disk that may be full
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


def finish(out: Path, plan: Plan, source: Source, notes: list[Note], rest: list[Left]) -> None:
    """Write the arrays and the index, the index last. Raises UserError where no image could be read."""
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
    """An iterable that counts its items as they are taken; `count` is their number."""

    def __init__(self, items: Iterator[Left]) -> None:
        self.items, self.count = items, 0

    def __iter__(self) -> Iterator[Left]:
        for item in self.items:
            self.count += 1
            yield item


def _line(left: Left) -> bytes:
    """The line of `skipped.jsonl` that names an image."""
    return json.dumps({"name": left[1], "reason": left[2]}).encode() + b"\n"


def _checksums(out: Path, notes: list[Note]) -> Iterator[bytes]:
    """The checksums of all images, uint32, shard by shard."""
    return ((out / PACKING / f"{number:05d}.checksums").read_bytes() for number in range(len(notes)))


def _left_in(out: Path, notes: list[Note]) -> Iterator[Left]:
    """The images that were left out before the end of the last shard."""
    return (left for number in range(len(notes)) for left in _skipped(out, number))


def _skipped(out: Path, number: int) -> list[Left]:
    found = read_checked(out / PACKING / f"{number:05d}.json", "note")["skipped"]
    return [(place, name, reason) for place, name, reason in found]


def _labels(out: Path, notes: list[Note], labels: np.ndarray) -> Iterator[bytes]:
    """The labels of the images that are packed, int64, shard by shard."""
    start = 0
    for number, note in enumerate(notes):
        left = [place for place, _, _ in _skipped(out, number)]
        kept = np.setdiff1d(np.arange(start, note.following), left)
        yield labels[kept].astype("<i8").tobytes()
        start = note.following
