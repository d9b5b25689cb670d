"""Batches without end, in an order that is a pure function of the seed and the position in the run.

Processes may read ahead; when one of them is lost, all are started again at the same sample.
Shapes: N images, n of a window, B batch, C channels, H x W pixels.
"""

import functools
import itertools
import logging
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from functools import lru_cache
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vitgan.compat import forget_data_worker, usable_cores
from vitgan.data.dataset import ImageSet, LazyImages, MemoryImages
from vitgan.data.reading import Fetched, Form, Skipped, fetch, mirror, quiet_decoding, white_of
from vitgan.data.retry import Patience, Unreachable
from vitgan.data.sources import Source, SourceModules, sending
from vitgan.data.sources.streams import Sample, Stream
from vitgan.data.transforms import reason, to_pixels
from vitgan.errors import UserError
from vitgan.models.base import from_uint8

SORTED = 65_536  # up to this many images an epoch's order is a sort of random numbers, held in memory
ROUNDS = 8  # of the Feistel network
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def draw(count: int, seed: int, start: int, stop: int) -> np.ndarray:
    """Samples `start` to `stop` of a run over `count` images, int64 (2, B): indices, and 1 where flipped.

    Epoch e, the samples from e * count up to (e + 1) * count, has a permutation of its own. Above 65,536
    images the memory that this takes does not depend on their number.
    """
    epochs = range(start // count, (stop - 1) // count + 1)
    part = _sorted_part if count <= SORTED else _keyed_part
    parts = [part(count, seed, e, max(start - e * count, 0), min(stop - e * count, count)) for e in epochs]
    return np.concatenate(parts, axis=1)


def random_bits(count: int, *seeds: int) -> np.ndarray:
    """Random uint64 (count,) out of the seeds: raw bits of Philox, which NumPy promises never to change."""
    return np.random.Philox(np.random.SeedSequence(seeds)).random_raw(count)


def top_bit(bits: np.ndarray) -> np.ndarray:
    """The highest bit, 0 or 1, of each of uint64 (B,), as int64 (B,)."""
    return (bits >> np.uint64(63)).astype(np.int64)


def _sorted_part(count: int, seed: int, epoch: int, start: int, stop: int) -> np.ndarray:
    return _epoch(count, seed, epoch)[:, start:stop]


@lru_cache(maxsize=2)
def _epoch(count: int, seed: int, epoch: int) -> np.ndarray:
    bits = random_bits(2 * count, seed, epoch)
    # A stable sort has one result only, where NumPy may change how its `permutation` shuffles.
    order = np.argsort(bits[:count], kind="stable")
    return np.stack([order, top_bit(bits[count:])])


def _keyed_part(count: int, seed: int, epoch: int, start: int, stop: int) -> np.ndarray:
    keys = _keys(seed, epoch)
    positions = np.arange(start, stop, dtype=np.uint64)
    order = permuted(positions, count, keys[:ROUNDS])
    flips = top_bit(_mixed(positions * _GOLDEN + keys[ROUNDS]))
    return np.stack([order.astype(np.int64), flips])


@lru_cache(maxsize=4)
def _keys(seed: int, epoch: int) -> np.ndarray:
    return random_bits(ROUNDS + 1, seed, epoch)


def permuted(positions: np.ndarray, count: int, keys: np.ndarray) -> np.ndarray:
    """The images, uint64 (B,), at `positions`, uint64 (B,), of the keyed permutation of 0 to count - 1.

    A balanced Feistel network over the smallest domain of an even number of bits that holds `count`, applied
    again where it leads outside (cycle walking; Black and Rogaway, "Ciphers with arbitrary finite domains",
    2002). The domain is less than four times the count, so it takes fewer than four rounds on average.
    """
    half = max(((count - 1).bit_length() + 1) // 2, 1)
    values = _feistel(positions, half, keys)
    while (outside := np.flatnonzero(values >= count)).size:
        values[outside] = _feistel(values[outside], half, keys)
    return values


def _feistel(values: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        # The high bits of the hash are used, which its last multiplication has mixed best.
        left, right = right, left ^ (_mixed(right ^ key) >> np.uint64(64 - half))
    return left << shift | right


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, a bijection of uint64 each of whose output bits depends on every input bit.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, with the constants
    of David Stafford's variant 13.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


logger = logging.getLogger("vitgan")


# --- Batches

DEVICE_SHARE = 0.25  # of the accelerator's free memory that the pixels of a set may take, at most


class Batch(NamedTuple):
    """One batch on the device: images float32 (B, C, H, W) in [-1, 1], labels int64 (B,) or None."""

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

    `batch` is the number of images of all `ranks` processes together: process `rank` gets the samples from
    rank * batch // ranks up to (rank + 1) * batch // ranks of each batch, so all of them together get the
    same for any number of them. The samples are the same for a set in memory and one that is not, for any
    number of workers, and wherever the run is resumed; a batch may hold the end of one epoch and the
    beginning of the next. They differ only where images are unreadable: a set in memory leaves them out, any
    other has the next readable image in their place. Raises UserError where no image can be read any more.
    """
    assert 0 <= rank < ranks <= batch
    start, stop = rank * batch // ranks, (rank + 1) * batch // ranks
    place = _Place(seed, first=images_seen + start, step=batch, size=stop - start)
    if isinstance(images, MemoryImages):
        return _from_memory(images, place, torch.device(device))
    assert isinstance(images, LazyImages)
    return _from_readers(images, place, torch.device(device))


class _Place(NamedTuple):
    """The samples that one process reads: `size` out of every `step`, from sample `first` of the run on."""

    seed: int
    first: int
    step: int
    size: int

    def samples(self, batch: int = 0) -> Iterator[tuple[int, int]]:
        """The first sample of each batch, and the one after its last, from batch number `batch` on."""
        starts = itertools.count(self.first + batch * self.step, self.step)
        return ((start, start + self.size) for start in starts)

    def draws(self, count: int, batch: int = 0) -> Iterator[np.ndarray]:
        """What `order.draw` gives, int64 (2, B), for each batch out of a set of `count` images."""
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
        yield Batch(from_uint8(chosen.to(device)), chosen_labels)


def _fits(pixels: torch.Tensor, device: torch.device) -> bool:
    """Whether all pixels of a set should lie on the device: on a CPU, and on a CUDA GPU that has room."""
    if device.type != "cuda":
        return device.type == "cpu"
    free, _ = torch.cuda.mem_get_info(device)
    return pixels.nbytes <= DEVICE_SHARE * free


def _from_readers(images: LazyImages, place: _Place, device: torch.device) -> Generator[Batch, None, None]:
    options = images.options
    if isinstance(images.source, Stream):
        read, requests = StreamReader(images.source, options, options.flip, place.seed), place.samples
    else:
        read = _DrawnReader(images.source, options, options.flip)
        requests = functools.partial(place.draws, len(images))
    size = place.size * options.channels * options.resolution**2
    pinned = device.type == "cuda"
    readers = Readers(read, requests, images.patience, workers=options.workers, pinned=pinned, size=size)
    try:
        while True:
            fetched = readers.take()
            pixels = images.accept(fetched)
            labels = None if images.labels is None else images.labels[fetched.indices].to(device)
            yield Batch(from_uint8(pixels.to(device, non_blocking=True)), labels)
    finally:
        readers.close()  # even while an error's traceback keeps this frame


# --- Processes that read ahead

RESTARTS = 3  # of lost workers, one after another without a batch between them
PREFETCH = 2  # results that each worker reads ahead


class Readers:
    """The results of `read` for one request after another, which worker processes read ahead.

    read: is pickled to the workers where they are not forked; requests(k): an iterator of the requests from
    number k on; patience: waits for a source that is out of reach; workers: none where it is 0, then `read`
    is called here; pinned: put the tensors into page-locked memory, from which copies to a GPU need not be
    waited for.
    """

    def __init__(
        self,
        read: Callable[[Any], Fetched],
        requests: Callable[[int], Iterator[Any]],
        patience: Patience,
        *,
        workers: int,
        pinned: bool,
        size: int,
    ) -> None:
        self._read, self._requests, self._patience = read, requests, patience
        self._workers, self._pinned = min(workers, usable_cores()), pinned
        self._shared = self._workers == 0 or _room_to_share(size * (PREFETCH * self._workers + 2))
        self._reading: Iterator[_Sent] | None = None
        self._next = 0

    def take(self) -> Fetched:
        """The next result. Raises UserError where the source stays out of reach or the workers keep dying."""
        fetched = self._from_workers() if self._workers else self._read(next(self._requests(self._next)))
        if fetched.lost is not None:
            self.close()
            fetched = self._patience(self._read_here)
        self._next += 1
        return fetched

    def close(self) -> None:
        """End the worker processes."""
        self._reading = None

    def _read_here(self) -> Fetched:
        fetched = self._read(next(self._requests(self._next)))
        if fetched.lost is not None:
            raise Unreachable(*fetched.lost)
        return fetched

    def _from_workers(self) -> Fetched:
        said = ""
        for attempt in range(RESTARTS + 1):
            try:
                if self._reading is None:
                    self._reading = self._started()
                return next(self._reading).fetched()
            except (
                RuntimeError,
                OSError,
                EOFError,
            ) as error:  # of a lost worker: `read` itself raises nothing
                said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            self.close()
            self._shared = False  # perhaps it was full: where it is, torch 2.9 ends the process that writes
            if attempt < RESTARTS:
                logger.warning("A data worker was lost (%s): starting the workers again.", said)
        raise UserError(
            f"The data workers ended {RESTARTS + 1} times in a row ({said}): memory may be short, or "
            "/dev/shm (docker run --shm-size gives a container more), so lower --data.workers; 0 reads in "
            "the process itself."
        )

    def _started(self) -> "Iterator[_Sent]":
        """The results of new workers, from the present request on.

        Raises UserError where the source cannot be sent to them.
        """
        loader = DataLoader(
            _Reading(self._read, self._shared),
            batch_size=None,
            sampler=self._requests(self._next),  # pyright: ignore[reportArgumentType]
            num_workers=self._workers,
            prefetch_factor=PREFETCH,
            collate_fn=_as_it_is,
            pin_memory=self._pinned,
            worker_init_fn=_prepare,
            generator=torch.Generator(),  # else the loader takes a number from the global generator
        )
        with sending("--data.workers 0"):
            if threading.current_thread() is not threading.main_thread():
                return iter(loader)
            before = signal.getsignal(signal.SIGCHLD)
            reading = iter(loader)
        # torch's own handler would raise in the midst of a training step; take() notices a lost worker within
        # 5 seconds without it.
        signal.signal(signal.SIGCHLD, before)
        return reading


SHARED_MEMORY = "/dev/shm"


def _room_to_share(size: int) -> bool:
    """Whether shared memory has room for twice `size` bytes of each process of this machine; warns if not.

    True where the system does not say (macOS, Windows).
    """
    try:
        found = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):
        return True
    free = found.f_bavail * found.f_frsize
    if free >= 2 * size * int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
        return True
    logger.warning(
        "%s has %d MiB free, too few for batches of this size: the data workers send them through pipes, "
        "which is slower (docker run --shm-size gives a container more).",
        SHARED_MEMORY,
        free // 2**20,
    )
    return False


class _Sent:
    """What a worker has read, as bytes of `pickle`: where it is shared, they name the shared memory.

    The worker pickles it itself. The thread by which `multiprocessing` sends drops what it cannot pickle, as
    where shared memory or file descriptors are used up, and the process that waits for it waits for ever.
    """

    def __init__(self, read: Fetched, shared: bool) -> None:
        self._shared, self._value = False, b""
        if shared:
            with suppress(RuntimeError, OSError):
                self._value = bytes(ForkingPickler.dumps(read))
                self._shared = True
        if not self._shared:
            pixels = None if read.pixels is None else read.pixels.numpy()
            self._value = pickle.dumps((pixels, read.indices.numpy(), *read[2:]), pickle.HIGHEST_PROTOCOL)
        self._fetched: Fetched | None = None

    def pin_memory(self) -> "_Sent":
        """Put the tensors into page-locked memory, as a DataLoader's thread asks of what it hands over."""
        fetched = self.fetched()
        pixels = None if fetched.pixels is None else fetched.pixels.pin_memory()
        self._fetched = fetched._replace(pixels=pixels)
        return self

    def fetched(self) -> Fetched:
        """What was read. Raises OSError or EOFError where the worker that shared it is gone."""
        if self._fetched is not None:
            return self._fetched
        value = pickle.loads(self._value)
        if self._shared:
            return value
        pixels = None if value[0] is None else torch.from_numpy(value[0])
        return Fetched(pixels, torch.from_numpy(value[1]), *value[2:])


class _Reading(Dataset[_Sent]):
    """What a worker process reads; its items, in torch's sense, are whole batches."""

    def __init__(self, read: Callable[[Any], Fetched], shared: bool) -> None:
        self._read, self._shared = read, shared

    def __getitem__(self, index: Any) -> _Sent:
        return _Sent(self._read(index), self._shared)

    def __getstate__(self) -> dict[str, Any]:
        return {"modules": SourceModules(), **self.__dict__}


def _as_it_is(sent: Any) -> Any:
    """The `collate_fn` of a DataLoader whose items are whole batches."""
    return sent


def _prepare(_worker: int) -> None:
    """Set up a worker process, as the DataLoader's `worker_init_fn`: its signals and its process group."""
    # Ctrl-C reaches every process of the terminal, but must not end the workers of a training that still
    # finishes its step and saves. SIGTERM does end them: by it the parent ends a worker that hangs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setsid"):
        os.setsid()
    forget_data_worker()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this worker when its parent is gone, even while it writes into a pipe that nobody reads any more.

    The other workers hold that pipe open, and all of them the lock of the run's folder.
    """
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


# --- What a process does for one batch


class _DrawnReader:
    """Reads the images that `order.draw` gave, int64 (2, B), of a source that can be read in any order."""

    def __init__(self, source: Source, form: Form, flip: bool) -> None:
        self.source, self.form, self.flip = source, form, flip

    def __call__(self, drawn: np.ndarray) -> Fetched:
        fetched = fetch(self.source, self.form, drawn[0].tolist())
        if fetched.pixels is not None and self.flip:
            mirror(fetched.pixels, drawn[1])
        return fetched


_SHARDS, _WINDOWS = 1, 2  # tell the random numbers of an epoch's shards from those of its windows


class _Window(NamedTuple):
    """n encoded samples, the order in which they are drawn, int64 (n,), and 1 where one is flipped, (n,)."""

    samples: list[Sample]
    order: np.ndarray
    flips: np.ndarray


class StreamReader:
    """Reads the samples of a run out of a stream, in an order that is a pure function of the seed.

    Every epoch has its own order of the shards. One after another their samples fill windows of up to 4,096
    samples, and of up to 128 MiB on average, within which they are permuted; one window of encoded samples is
    held in memory. In place of an unreadable image comes the next readable one of the window.
    """

    def __init__(self, stream: Stream, form: Form, flip: bool, seed: int) -> None:
        self.stream, self.form, self.flip, self.seed = stream, form, flip, seed
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {"stream": self.stream, "form": self.form, "flip": self.flip, "seed": self.seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def __call__(self, span: tuple[int, int]) -> Fetched:
        """Read the samples of the run from number span[0] up to span[1]."""
        if self._owner != os.getpid():
            self._forget()
        skipped: list[Skipped] = []
        try:
            with quiet_decoding():
                found = [self._sample(number, skipped) for number in range(*span)]
        except Unreachable as loss:
            self._forget()
            return Fetched.nothing(skipped, loss)
        whole = [one for one in found if one is not None]
        if len(whole) < len(found):
            return Fetched.nothing(skipped)
        pixels = torch.from_numpy(np.stack([pixels for _, pixels, _ in whole]))
        if self.flip:
            mirror(pixels, np.array([flip for _, _, flip in whole]))
        return Fetched(pixels, torch.tensor([index for index, _, _ in whole]), skipped)

    def _forget(self) -> None:
        """Drop the window and the open stream, whose file offset a forked process shares with its parent."""
        self._owner = os.getpid()
        self._samples, self._next = (
            None,
            (-1, -1),
        )  # an iterator, and the (epoch, position) that it comes to next
        self._window, self._at = None, (-1, -1)  # the window in memory, and its (epoch, number)

    def _sample(self, number: int, skipped: list[Skipped]) -> tuple[int, np.ndarray, int] | None:
        """Index in the set, pixels uint8 (C, R, R) and flip of sample `number` of the run.

        None where no sample of the epoch can be read.
        """
        epoch, position = divmod(number, len(self.stream))
        window = ((position + 1) * self.stream.windows - 1) // len(self.stream)
        held = self._hold(epoch, window)
        slot = position - self._start(window)
        found = self._readable(self._from(held, int(held.order[slot]), epoch, window), skipped)
        return None if found is None else (*found, int(held.flips[slot]))

    def _start(self, window: int) -> int:
        """The position in the epoch of the first sample of a window."""
        return window * len(self.stream) // self.stream.windows

    def _hold(self, epoch: int, window: int) -> _Window:
        """A window, read unless it is the one in memory."""
        if self._window is None or self._at != (epoch, window):
            self._window = None  # it leaves the memory before the next one comes
            start, stop = self._start(window), self._start(window + 1)
            if self._samples is None or self._next != (epoch, start):
                self._samples = self.stream.after(self._shards(epoch), start)
            samples = list(itertools.islice(self._samples, stop - start))
            self._next = (epoch, stop)
            bits = random_bits(2 * len(samples), self.seed, epoch, _WINDOWS, window)
            order = np.argsort(bits[: len(samples)], kind="stable")
            self._window, self._at = _Window(samples, order, top_bit(bits[len(samples) :])), (epoch, window)
        return self._window

    def _shards(self, epoch: int) -> list[int]:
        """The order of the shards in an epoch."""
        bits = random_bits(len(self.stream.counts), self.seed, epoch, _SHARDS)
        return np.argsort(bits, kind="stable").tolist()

    def _from(self, held: _Window, first: int, epoch: int, window: int) -> Iterator[Sample]:
        """The samples of a window from `first` on, cyclically, then those of the rest of the epoch."""
        yield from itertools.chain(held.samples[first:], held.samples[:first])
        yield from self.stream.after(self._shards(epoch), self._start(window + 1))
        before = self.stream.after(self._shards(epoch), 0)
        yield from itertools.islice(before, self._start(window))

    def _readable(self, samples: Iterator[Sample], skipped: list[Skipped]) -> tuple[int, np.ndarray] | None:
        """Number and pixels of the first readable sample; adds those before it to `skipped`."""
        for sample in samples:
            try:
                white = white_of(self.stream)
                pixels = to_pixels(sample.picture(), self.form.resolution, self.form.channels, white)
            except Exception as error:  # decoders raise almost anything on damaged data
                skipped.append(Skipped(sample.name, reason(error)))
            else:
                return sample.number, pixels
        return None
