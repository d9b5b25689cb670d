"""Pictures of a source brought to one form in several processes, in order and in constant memory.

Shapes: n images, C channels, R resolution.
"""

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np

from vitgan.data.index import Plan
from vitgan.data.reach import Patience, Unreachable
from vitgan.data.reading import Skipped, quiet_decoding, read_image
from vitgan.data.sources import Source
from vitgan.data.stream_source import Sample, Stream
from vitgan.data.transforms import reason, to_pixels
from vitgan.errors import UserError

CHUNK_IMAGES, CHUNK_BYTES = 256, 2**24  # at most, of one task


class Chunk(NamedTuple):
    """Images `start` to `stop` of a source.

    pixels: uint8 (n, C, R, R) of those that can be read; skipped: number, name and reason of the others.
    """

    start: int
    stop: int
    pixels: np.ndarray
    skipped: list[tuple[int, str, str]]


class _Job(NamedTuple):
    """The images to convert; of a stream their samples, else they are read by their numbers."""

    start: int
    stop: int
    samples: list[Sample] | None


Result = Chunk | tuple[str, str]  # or place and reason, where the source cannot be reached


def converted(source: Source, plan: Plan, *, start: int, workers: int) -> Generator[Chunk, None, None]:
    """The images from number `start` on; close() ends the processes. With no workers all is done here.

    Raises UserError where the source stays out of reach, or a process is killed.
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
    """Converts a job."""

    def __init__(self, source: Source, plan: Plan) -> None:
        self.source, self.plan = source, plan

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
        """The chunk. Raises Unreachable."""
        result = self(job)
        if not isinstance(result, Chunk):
            raise Unreachable(*result)
        return result

    def _one(self, number: int, sample: Sample | None) -> np.ndarray | Skipped:
        if sample is None:
            return read_image(self.source, number, self.plan)
        try:
            return to_pixels(sample.picture(), self.plan.resolution, self.plan.channels)
        except Exception as error:  # decoders raise almost anything on damaged data
            return Skipped(sample.name, reason(error))


def _stream_jobs(stream: Stream, start: int, size: int, patience: Patience) -> Iterator[_Job]:
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
    """Jobs and results in order, a bounded number of them in flight."""
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context(method), initializer=_prepare, initargs=(convert, os.getpid())
    )
    waiting: deque[tuple[_Job, Future[Result]]] = deque()
    try:
        for job in jobs:
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
        for process in list((pool._processes or {}).values()):  # none is left where all went well
            process.terminate()
        pool.shutdown(cancel_futures=True)


def _result(waiting: "deque[tuple[_Job, Future[Result]]]") -> tuple[_Job, Result]:
    job, future = waiting.popleft()
    return job, future.result()


_convert_here: Callable[[_Job], Result] | None = None  # in a process of the pool


def _prepare(convert: _Converter, parent: int) -> None:
    global _convert_here
    _convert_here = convert
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all: the packer ends its processes
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _convert(job: _Job) -> Result:
    assert _convert_here is not None
    return _convert_here(job)
