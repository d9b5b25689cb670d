"""Batches without end, in an order that is a pure function of the seed and the position in the run.

Processes that read ahead are started again at the same sample when one of them is lost.
Shapes: N images, B batch, C channels, H x W pixels.
"""

import functools
import itertools
import logging
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils.data._utils.worker as torch_worker
from torch.utils.data import DataLoader, Dataset

from vitgan.data.dataset import DataOptions, ImageSet, LazyImages, MemoryImages, StreamReader
from vitgan.data.order import draw
from vitgan.data.reading import Fetched, fetch, mirror
from vitgan.data.retry import Patience, Unreachable
from vitgan.data.sources import Source
from vitgan.data.sources.streams import Stream
from vitgan.errors import UserError

logger = logging.getLogger("vitgan")
RESTARTS = 3  # one after another without a batch between them


class Readers:
    """Results of `read`, a function that goes to other processes, for the requests one after another.

    requests(k) gives those from number k on. With no workers everything is read here.
    """

    def __init__(
        self,
        read: Callable[[Any], Fetched],
        requests: Callable[[int], Iterator[Any]],
        patience: Patience,
        *,
        workers: int,
        pinned: bool,
    ) -> None:
        self._read, self._requests, self._patience = read, requests, patience
        self._workers, self._pinned = min(workers, _cores()), pinned
        self._reading: Iterator[Fetched] | None = None
        self._next = 0

    def take(self) -> Fetched:
        """The next result. Raises UserError where the source stays out of reach, or readers keep dying."""
        fetched = self._from_workers() if self._workers else self._read(next(self._requests(self._next)))
        if fetched.lost is not None:
            self.close()
            fetched = self._patience(self._read_here)
        self._next += 1
        return fetched

    def close(self) -> None:
        """End the processes."""
        self._reading = None

    def _read_here(self) -> Fetched:
        fetched = self._read(next(self._requests(self._next)))
        if fetched.lost is not None:
            raise Unreachable(*fetched.lost)
        return fetched

    def _from_workers(self) -> Fetched:
        reason = ""
        for attempt in range(RESTARTS + 1):
            try:
                if self._reading is None:
                    self._reading = self._started()
                return next(self._reading)
            except (RuntimeError, OSError, EOFError) as error:  # a reader raises nothing itself
                reason = _first_line(error)
            self.close()
            if attempt < RESTARTS:
                logger.warning("A data worker was lost (%s): starting the workers again.", reason)
        raise UserError(
            f"The data workers ended {RESTARTS + 1} times in a row ({reason}): memory may be short, "
            "so lower --data.workers; 0 reads in the process itself."
        )

    def _started(self) -> Iterator[Fetched]:
        loader = DataLoader(
            _Reading(self._read),
            batch_size=None,
            sampler=self._requests(self._next),  # pyright: ignore[reportArgumentType]
            num_workers=self._workers,
            collate_fn=_as_it_is,
            pin_memory=self._pinned,
            worker_init_fn=_prepare,
            generator=torch.Generator(),  # else the loader takes a number from the global generator
        )
        if threading.current_thread() is not threading.main_thread():
            return iter(loader)
        before = signal.getsignal(signal.SIGCHLD)
        reading = iter(loader)
        # torch's handler would raise in the midst of a training step. take() finds out within 5 seconds.
        signal.signal(signal.SIGCHLD, before)
        return reading


class _Reading(Dataset[Fetched]):
    """What a worker process does: one item is a whole batch."""

    def __init__(self, read: Callable[[Any], Fetched]) -> None:
        self._read = read

    def __getitem__(self, index: Any) -> Fetched:
        return self._read(index)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _as_it_is(fetched: Any) -> Any:
    return fetched


def _prepare(_worker: int) -> None:
    # A signal to the whole group, as Ctrl-C sends it, must not end the readers of a trainer that still
    # finishes its step and saves. SIGTERM stays deadly: it is how the parent ends a reader that hangs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setsid"):
        os.setsid()
    # `datasets` would give every worker a part of the stream; here each of them reads all of it.
    torch_worker._worker_info = None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


DEVICE_SHARE = 0.25  # of the accelerator's free memory, at most, for the set


class Batch(NamedTuple):
    """images: float32 (B, C, H, W) in [-1, 1]; labels: int64 (B,) or None; both on the device."""

    images: torch.Tensor
    labels: torch.Tensor | None


def batches(
    images: ImageSet,
    *,
    batch: int,
    seed: int,
    images_seen: int,
    device: torch.device | str,
    rank: int = 0,
    ranks: int = 1,
) -> Generator[Batch, None, None]:
    """Batches without end, from sample `images_seen` of the run on; close() ends the reading workers.

    `batch` is that of all `ranks` processes together, which share it: process `rank` gets the samples from
    rank batch // ranks up to (rank + 1) batch // ranks, so what all get is the same for any number of them.
    The stream is the same for a set in memory and one that is not, for any number of workers, and wherever
    it is entered; a batch crosses the border of an epoch. It differs only where images are unreadable: a set
    in memory leaves them out, another replaces them by their successors. Raises UserError when no image can
    be read any more.
    """
    assert 0 <= rank < ranks <= batch
    start, stop = rank * batch // ranks, (rank + 1) * batch // ranks
    place = _Place(seed, first=images_seen + start, step=batch, size=stop - start)
    if isinstance(images, MemoryImages):
        return _from_memory(images, place, torch.device(device))
    assert isinstance(images, LazyImages)
    return _from_readers(images, place, torch.device(device))


class _Place(NamedTuple):
    """Which samples one process reads: `size` of every `step`, from sample `first` of the run on."""

    seed: int
    first: int
    step: int
    size: int

    def samples(self, batch: int = 0) -> Iterator[tuple[int, int]]:
        """Start and stop of the batches from number `batch` on."""
        starts = itertools.count(self.first + batch * self.step, self.step)
        return ((start, start + self.size) for start in starts)

    def draws(self, count: int, batch: int = 0) -> Iterator[np.ndarray]:
        """The same batches of a set of `count` images, int64 (2, B) as of `draw`."""
        return (draw(count, self.seed, start, stop) for start, stop in self.samples(batch))


def _from_memory(images: MemoryImages, place: _Place, device: torch.device) -> Generator[Batch, None, None]:
    pixels = images.pixels.to(device) if _fits(images.pixels, device) else images.pixels
    labels = None if images.labels is None else images.labels.to(pixels.device)
    flip = images.options.flip
    for drawn in place.draws(len(images)):
        indices = torch.from_numpy(drawn[0]).to(pixels.device)
        chosen = pixels.index_select(0, indices)
        if flip:
            mirror(chosen, drawn[1])
        chosen_labels = None if labels is None else labels[indices].to(device)
        yield Batch(_to_float(chosen.to(device)), chosen_labels)


def _fits(pixels: torch.Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return device.type == "cpu"
    free, _ = torch.cuda.mem_get_info(device)
    return pixels.nbytes <= DEVICE_SHARE * free


def _to_float(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float().div_(127.5).sub_(1)


def _from_readers(images: LazyImages, place: _Place, device: torch.device) -> Generator[Batch, None, None]:
    options = images.options
    if isinstance(images.source, Stream):
        read, requests = StreamReader(images.source, options, options.flip, place.seed), place.samples
    else:
        read = _DrawnReader(images.source, options)
        requests = functools.partial(place.draws, len(images))
    readers = Readers(read, requests, images.patience, workers=options.workers, pinned=device.type == "cuda")
    try:
        while True:
            fetched = readers.take()
            pixels = images.accept(fetched)
            labels = None if images.labels is None else images.labels[fetched.indices].to(device)
            yield Batch(_to_float(pixels.to(device, non_blocking=True)), labels)
    finally:
        readers.close()  # even while an error's traceback keeps this frame


class _DrawnReader:
    """Reads the images of one drawing."""

    def __init__(self, source: Source, options: DataOptions) -> None:
        self.source = source
        self.options = options

    def __call__(self, drawn: np.ndarray) -> Fetched:
        fetched = fetch(self.source, self.options, drawn[0].tolist())
        if fetched.pixels is not None and self.options.flip:
            mirror(fetched.pixels, drawn[1])
        return fetched
