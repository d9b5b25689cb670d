"""A source that is read from its beginning to its end, in shards.

Shapes: N samples, S shards.
"""

import abc
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vitgan.data.retry import Unreachable
from vitgan.data.transforms import UnreadableImage, open_image

WINDOW_SAMPLES = 4096
WINDOW_BYTES = 2**27  # of encoded samples, on average


class Sample(NamedTuple):
    """A sample not yet decoded: number in the set, name, and its content or the reason why there is none."""

    number: int
    name: str
    data: bytes | None
    reason: str = ""

    def picture(self) -> Image.Image:
        """The image, opened. Raises UnreadableImage."""
        if self.data is None:
            raise UnreadableImage(self.reason)
        return open_image(self.data)


class Stream(abc.ABC):
    """Samples in shards. As a Source it gives pictures by number, fast where the numbers ascend.

    counts: samples of each shard; sample_bytes: mean size of an encoded sample; labels: int64 (N,) or None.
    """

    labels: np.ndarray | None
    classes: tuple[str, ...]

    def __init__(self, counts: Sequence[int], sample_bytes: float) -> None:
        self.counts, self.sample_bytes = tuple(counts), sample_bytes
        self._cursor: _Cursor | None = None

    @abc.abstractmethod
    def read(self, shard: int, start: int) -> Iterator[Sample]:
        """The samples of a shard from number `start` on: its count less `start`. Raises Unreachable."""

    @abc.abstractmethod
    def content(self) -> Iterator[bytes]:
        """What tells this set from any other, the same on every machine."""

    def __len__(self) -> int:
        return sum(self.counts)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cursor": None}

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """The number of the first sample of each shard, int64 (S,)."""
        return np.cumsum([0, *self.counts])[:-1]

    @property
    def windows(self) -> int:
        """How many there are in an epoch. They differ by one sample at most."""
        most = max(1, min(WINDOW_SAMPLES, int(WINDOW_BYTES / max(self.sample_bytes, 1.0))))
        return -(-len(self) // most)

    def after(self, shards: Sequence[int], position: int) -> Iterator[Sample]:
        """The samples of these shards, in this order, from `position` on; whole ones are passed over."""
        for shard in shards:
            if position < self.counts[shard]:
                yield from self.read(shard, position)
            position = max(0, position - self.counts[shard])

    def item(self, index: int) -> str:
        """The name of one image, for messages: in the set where it was the last to be read."""
        last = None if self._cursor is None else self._cursor.last
        return last.name if last is not None and last.number == index else f"image {index}"

    def picture(self, index: int) -> Image.Image:
        """One image, opened; errors as any source's."""
        if self._cursor is None or not self._cursor.reaches(index):
            self._cursor = _Cursor(self, index)
        try:
            return self._cursor.advance(index).picture()
        except Unreachable:
            self._cursor = None
            raise


class _Cursor:
    """A place in a stream, of one process."""

    def __init__(self, stream: Stream, start: int) -> None:
        self._stream, self._next = stream, start
        self._samples = stream.after(range(len(stream.counts)), start)
        self._owner = os.getpid()  # a forked process shares the file offset
        self.last: Sample | None = None

    def reaches(self, index: int) -> bool:
        """Whether that sample lies ahead in the present shard, comes next, or was the last one."""
        if self._owner != os.getpid():
            return False
        if self.last is not None and index == self.last.number:
            return True
        shard = int(np.searchsorted(self._stream.offsets, self._next, side="right")) - 1
        border = int(self._stream.offsets[shard]) + self._stream.counts[shard]
        return self._next <= index < max(border, self._next + 1)

    def advance(self, index: int) -> Sample:
        """That sample."""
        while self._next <= index:
            self.last = next(self._samples)
            self._next += 1
        assert self.last is not None
        return self.last
