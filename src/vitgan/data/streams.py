"""The set of images of a stream, and its shuffled order.

Shapes: N samples of the set, n of a window, B batch, C channels, R resolution.
"""

import itertools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from vitgan.data.images import LazyImages
from vitgan.data.order import random_bits, top_bit
from vitgan.data.reach import Unreachable
from vitgan.data.reading import Fetched, Form, Skipped, mirror, quiet_decoding
from vitgan.data.stream_source import Sample, Stream
from vitgan.data.transforms import reason, to_pixels

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
