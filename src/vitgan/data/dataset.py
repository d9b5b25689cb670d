"""A set of images of one size: in memory, read as it is needed, or streamed; and what tells it from others.

Shapes: N images, n of a window, B batch, C channels, R resolution.
"""

import abc
import contextlib
import hashlib
import itertools
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from vitgan.config import MOST_RESOLUTION, option
from vitgan.data.order import random_bits, top_bit
from vitgan.data.reading import Fetched, Form, Skipped, fetch, mirror, quiet_decoding, read_image
from vitgan.data.retry import Patience, Unreachable
from vitgan.data.sources import Source, open_source
from vitgan.data.sources.files import SUFFIXES
from vitgan.data.sources.streams import Sample, Stream
from vitgan.data.transforms import reason, to_pixels
from vitgan.errors import UserError

MOST_BLOCKS = 64
MOST_TEXT = 80  # characters of one part in a message
DIGITS = 32  # of a hash


@dataclass(frozen=True)
class Identity:
    """The hash of a set, and of the blocks of its content, few enough for every checkpoint.

    fingerprint: of everything; labels: of the classes and labels; block_parts: how many parts of the content
    each block has; blocks: (first part as text, hash) of each.
    """

    fingerprint: str
    labels: str
    block_parts: int
    blocks: tuple[tuple[str, str], ...]

    def facts(self) -> dict[str, Any]:
        """It, for JSON."""
        blocks = [list(block) for block in self.blocks]
        return {
            "fingerprint": self.fingerprint,
            "labels": self.labels,
            "block_parts": self.block_parts,
            "blocks": blocks,
        }


def identify(
    head: Sequence[Any],
    labels: np.ndarray | None,
    classes: Sequence[str],
    content: Iterable[bytes],
) -> Identity:
    """The identity of N images whose content comes in parts, with labels int64 (N,) or None."""
    whole, blocks = hashlib.sha256(json.dumps(head).encode()), _Blocks()
    of_labels = hashlib.sha256(json.dumps(list(classes)).encode())
    if labels is not None:
        of_labels.update(labels.astype("<i8").tobytes())
    whole.update(of_labels.digest())
    for part in content:
        whole.update(part)
        blocks.add(part)
    found = blocks.finished()
    return Identity(
        fingerprint=whole.hexdigest()[:DIGITS],
        labels=of_labels.hexdigest()[:DIGITS],
        block_parts=blocks.parts,
        blocks=found,
    )


def difference(then: dict[str, Any], now: Identity, count: int) -> str:
    """How a set of `count` readable images differs from the one whose `facts` and count `then` holds."""
    if then["images"] != count:
        return f"{then['images']:,} then, {count:,} now"
    if then.get("labels") != now.labels:
        return f"as many, {count:,}, but with other classes or labels"
    blocks, parts = [tuple(block) for block in then.get("blocks", [])], then.get("block_parts")
    if parts == now.block_parts:
        for before, after in zip(blocks, now.blocks, strict=False):
            if before != after:
                return f"as many, {count:,}, but {_first_difference(before[0], after[0], now.block_parts)}"
    return f"as many, {count:,}, but of other content"


def _first_difference(before: str, after: str, parts: int) -> str:
    if parts == 1:
        return f"the first that differs was {before!r} and is {after!r}"
    if before != after:
        return f"they differ from {before!r} on, which is {after!r} now"
    return f"one of {parts:,} from {after!r} on is another"


class _Blocks:
    """Hashes of a sequence of parts in blocks of equal size, which double rather than become too many."""

    def __init__(self) -> None:
        self.parts = 1
        self._whole: list[tuple[str, str]] = []
        self._first, self._hash, self._number = "", hashlib.sha256(), 0

    def add(self, part: bytes) -> None:
        if self._number == self.parts:
            self._end()
        if not self._number:
            self._first = " ".join(part.decode(errors="replace").split())[:MOST_TEXT]
        self._hash.update(hashlib.sha256(part).digest())
        self._number += 1

    def finished(self) -> tuple[tuple[str, str], ...]:
        if self._number:
            self._end()
        return tuple(self._whole)

    def _end(self) -> None:
        self._whole.append((self._first, self._hash.hexdigest()[:DIGITS]))
        self._first, self._hash, self._number = "", hashlib.sha256(), 0
        if len(self._whole) == MOST_BLOCKS:
            halves = zip(self._whole[::2], self._whole[1::2], strict=True)
            self._whole = [(first, _joined(a, b)) for (first, a), (_, b) in halves]
            self.parts *= 2


def _joined(a: str, b: str) -> str:
    return hashlib.sha256((a + b).encode()).hexdigest()[:DIGITS]


__all__ = ["DataOptions", "ImageSet", "LazyImages", "MemoryImages", "describe", "fetch"]

logger = logging.getLogger("vitgan")
CHUNK = 64  # images that one thread decodes before it reports
TRANSFORM_VERSION = "1"  # a part of the fingerprint: raise it when the same file gives other pixels


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which images, and in which form."""

    source: str = "digits"
    """digits, cifar10, celeba, lsun-bedroom; a (packed) folder, .zip, .npy or .npz; wds:TARS; hf:NAME."""
    resolution: int = option(32, least=1, most=MOST_RESOLUTION)
    """Side of the square images, pixels."""
    channels: Literal[1, 3] = 3
    """1: grey, 3: RGB."""
    labels: bool = False
    """Train with the classes of the set."""
    flip: bool = False
    """Mirror each image with probability 1/2 as it is drawn."""
    memory_mib: int = option(4096, least=0)
    """A set that fits is decoded once and held in memory."""
    workers: int = option(2, least=0)
    """Processes that read ahead for a set that does not fit; never more than there are cores."""

    def build(self) -> "ImageSet":
        """Open the source; raises UserError where it cannot be opened, or lacks readable images or labels."""
        _check_positive(self)
        source = open_source(self.source)
        if self.labels and source.labels is None:
            raise UserError(
                f"{self.source} has no labels: sort its images into one sub-folder a class, "
                "add a dataset.json, or train a recipe without labels (--data.labels False)."
            )
        if isinstance(source, Stream):
            from vitgan.data.dataset import StreamImages

            return StreamImages(self, source)
        size = len(source) * self.channels * self.resolution**2
        kind = MemoryImages if size <= self.memory_mib * 2**20 else LazyImages
        return kind(self, source)


class ImageSet(abc.ABC):
    """Images of one size; len() is their number N.

    Attributes
        options: what it was built from.
        name: the source as given.
        labels: int64 (N,), or None unless `options.labels`.
        classes: names of the classes; empty unless `options.labels`.
        class_counts: number of images of each class, whether or not the labels are used.
        identity, fingerprint: facts, and a hash, of its content, labels, resolution and channels; the same in
            memory or not.
        skipped: images that could not be read.
    """

    def __init__(self, options: DataOptions, source: Source) -> None:
        self.options = options
        self.name = options.source
        self.classes = source.classes if options.labels else ()
        self.skipped: list[Skipped] = []
        self.identity = _identity(options, source)
        self._set_labels(source)

    def _set_labels(self, source: Source, kept: np.ndarray | None = None) -> None:
        labels = source.labels if source.labels is None or kept is None else source.labels[kept]
        self.class_counts: dict[str, int] = {}
        if labels is not None:
            counts = np.bincount(labels, minlength=len(source.classes)).tolist()
            self.class_counts = dict(zip(source.classes, counts, strict=True))
        self.labels = torch.from_numpy(labels) if labels is not None and self.options.labels else None

    @property
    def fingerprint(self) -> str:
        return self.identity.fingerprint

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def get(self, indices: Sequence[int]) -> torch.Tensor:
        """The images `indices`, uint8 (B, C, R, R)."""


class MemoryImages(ImageSet):
    """A set whose pixels, uint8 (N, C, R, R), are in memory; unreadable images are left out of N."""

    def __init__(self, options: DataOptions, source: Source) -> None:
        super().__init__(options, source)
        self.pixels, failed = _decode(source, options)
        if failed:
            kept = np.setdiff1d(np.arange(len(source)), list(failed))
            for row, index in enumerate(kept):  # in place: a second copy of the set might not fit
                self.pixels[row] = self.pixels[int(index)]
            self.pixels = self.pixels[: len(kept)]
            self._set_labels(source, kept)
            self._tell_skipped([failed[index] for index in sorted(failed)], len(source))

    def __len__(self) -> int:
        return len(self.pixels)

    def get(self, indices: Sequence[int]) -> torch.Tensor:
        """The images `indices`, uint8 (B, C, R, R)."""
        return self.pixels[torch.as_tensor(indices, dtype=torch.int64)]

    def _tell_skipped(self, skipped: list[Skipped], total: int) -> None:
        self.skipped = skipped
        if len(skipped) == total:
            raise _no_readable(self.name, skipped[0])
        for item in skipped:
            logger.warning("%s of %s was left out: %s.", item.name, self.name, item.reason)
        verb = "was" if len(skipped) == 1 else "were"
        logger.warning("%d of the %d images of %s %s left out.", len(skipped), total, self.name, verb)


class LazyImages(ImageSet):
    """A set that is read as it is needed; an unreadable image is replaced by the next readable one."""

    def __init__(self, options: DataOptions, source: Source) -> None:
        super().__init__(options, source)
        self.source = source
        self.patience = Patience()
        self.get([0])  # fails now if nothing at all can be read

    def __len__(self) -> int:
        return len(self.source)

    def get(self, indices: Sequence[int]) -> torch.Tensor:
        """The images `indices`, uint8 (B, C, R, R), each unreadable one replaced by the next readable one."""
        return self.patience(lambda: self.accept(fetch(self.source, self.options, indices)))

    def accept(self, fetched: Fetched) -> torch.Tensor:
        """The pixels of `fetched`; notes the images that failed, in this process, and warns of each once.

        Raises Unreachable where the source could not be reached.
        """
        if fetched.lost is not None:
            raise Unreachable(*fetched.lost)
        known = {item.name for item in self.skipped}
        for item in fetched.skipped:
            if item.name not in known:
                known.add(item.name)
                self.skipped.append(item)
                number = len(self.skipped)
                logger.warning(
                    "%s of %s cannot be read (%s): skipped, %d so far.",
                    item.name,
                    self.name,
                    item.reason,
                    number,
                )
        if fetched.pixels is None:
            raise _no_readable(self.name, fetched.skipped[0])
        return fetched.pixels


def describe(images: ImageSet) -> dict[str, Any]:
    """What there is to say about a set, ready for JSON."""
    return {
        "source": images.name,
        "count": len(images),
        "resolution": images.options.resolution,
        "channels": images.options.channels,
        "classes": images.class_counts,
        "in_memory": isinstance(images, MemoryImages),
        "skipped": [{"name": item.name, "reason": item.reason} for item in images.skipped],
        "fingerprint": images.fingerprint,
    }


def _check_positive(options: DataOptions) -> None:
    for field, least in (("resolution", 1), ("memory_mib", 0), ("workers", 0)):
        if getattr(options, field) < least:
            raise UserError(f"data.{field} is {getattr(options, field)}, but must be at least {least}.")


def _identity(options: DataOptions, source: Source) -> Identity:
    head = [TRANSFORM_VERSION, len(source), options.resolution, options.channels]
    return identify(head, source.labels, source.classes, source.content())


def _decode(source: Source, options: DataOptions) -> tuple[torch.Tensor, dict[int, Skipped]]:
    """All pixels, uint8 (N, C, R, R), and the failures by index."""
    from tqdm import tqdm

    pixels = np.zeros((len(source), options.channels, options.resolution, options.resolution), dtype=np.uint8)
    failed: dict[int, Skipped] = {}
    patience = Patience()

    def decode_chunk(start: int) -> int:
        stop = min(start + CHUNK, len(source))
        for index in range(start, stop):
            result = patience(lambda at=index: read_image(source, at, options))
            if isinstance(result, Skipped):
                failed[index] = result
            else:
                pixels[index] = result
        return stop - start

    pool = ThreadPoolExecutor(_threads(source))
    try:
        with quiet_decoding(), tqdm(total=len(source), unit=" images", delay=2, disable=None) as bar:
            for done in pool.map(decode_chunk, range(0, len(source), CHUNK)):
                bar.update(done)
    finally:
        pool.shutdown(cancel_futures=True)
    return torch.from_numpy(pixels), failed


def _threads(source: Source) -> int:
    # Measured: below about 128 x 128 pixels, threads spend more on the interpreter's lock than they gain.
    with contextlib.suppress(Exception):
        if math.prod(source.picture(0).size) < 128**2:
            return 1
    return os.cpu_count() or 1


def _no_readable(name: str, first: Skipped) -> UserError:
    return UserError(
        f"{name} has no readable image (the first, {first.name}: {first.reason}): "
        f"pass images that end in {', '.join(SUFFIXES)} and open in a viewer."
    )


_SHARDS, _WINDOWS = 1, 2  # which random numbers are meant


class StreamImages(LazyImages):
    """A set that is read from its beginning to its end, and shuffled within windows; see `StreamReader`.

    get() takes the images in their natural order; it is fast where the indices ascend.
    """


class _Window(NamedTuple):
    """Encoded samples, the order in which they are drawn (n,), and 0 or 1 for a flip (n,)."""

    samples: list[Sample]
    order: np.ndarray
    flips: np.ndarray


class StreamReader:
    """Samples `start` to `stop` of a run, as a pure function of the seed and those numbers.

    The shards are in an order of each epoch's own; the samples of every window of up to 4,096 of them, and of
    128 MiB on average, are permuted. One window of encoded samples is held in memory. An unreadable image is
    replaced by the next readable one of the window.
    """

    def __init__(self, stream: Stream, form: Form, flip: bool, seed: int) -> None:
        self.stream, self.form, self.flip, self.seed = stream, form, flip, seed
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {"stream": self.stream, "form": self.form, "flip": self.flip, "seed": self.seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def __call__(self, span: tuple[int, int]) -> Fetched:
        """The batch of the samples from span[0] to span[1]."""
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
        self._owner = os.getpid()
        self._samples, self._next = None, (-1, -1)  # the samples that follow, from (epoch, position) on
        self._window, self._at = None, (-1, -1)  # the window held, (epoch, number)

    def _sample(self, number: int, skipped: list[Skipped]) -> tuple[int, np.ndarray, int] | None:
        """Index, pixels uint8 (C, R, R) and flip of a sample of the run."""
        epoch, position = divmod(number, len(self.stream))
        window = ((position + 1) * self.stream.windows - 1) // len(self.stream)
        held = self._hold(epoch, window)
        slot = position - self._start(window)
        found = self._readable(self._from(held, int(held.order[slot]), epoch, window), skipped)
        return None if found is None else (*found, int(held.flips[slot]))

    def _start(self, window: int) -> int:
        return window * len(self.stream) // self.stream.windows

    def _hold(self, epoch: int, window: int) -> _Window:
        if self._window is None or self._at != (epoch, window):
            self._window = None  # before the next one comes into memory
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
        bits = random_bits(len(self.stream.counts), self.seed, epoch, _SHARDS)
        return np.argsort(bits, kind="stable").tolist()

    def _from(self, held: _Window, first: int, epoch: int, window: int) -> Iterator[Sample]:
        """That sample of the window, those after it round its end, and then the rest of the epoch."""
        yield from itertools.chain(held.samples[first:], held.samples[:first])
        yield from self.stream.after(self._shards(epoch), self._start(window + 1))
        before = self.stream.after(self._shards(epoch), 0)
        yield from itertools.islice(before, self._start(window))

    def _readable(self, samples: Iterator[Sample], skipped: list[Skipped]) -> tuple[int, np.ndarray] | None:
        for sample in samples:
            try:
                pixels = to_pixels(sample.picture(), self.form.resolution, self.form.channels)
            except Exception as error:  # decoders raise almost anything on damaged data
                skipped.append(Skipped(sample.name, reason(error)))
            else:
                return sample.number, pixels
        return None
