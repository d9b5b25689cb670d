"""A source that can only be read from its beginning to its end, in shards.

Shapes: N samples, S shards.
"""

import abc
import contextlib
import functools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vitgan.data.retry import Unreachable
from vitgan.data.transforms import UnreadableImage, open_image
from vitgan.io import replacing

# A window, within which samples are shuffled, holds at most so many, of so many encoded bytes on average.
WINDOW_SAMPLES, WINDOW_BYTES = 4096, 2**27


class Sample(NamedTuple):
    """A sample that is not yet decoded.

    number: its place in the set; name: for messages; data: the encoded image, or None; reason: why there is
    none.
    """

    number: int
    name: str
    data: bytes | None
    reason: str = ""

    def picture(self) -> Image.Image:
        """The image, opened. Raises UnreadableImage where there is none, or it is damaged."""
        if self.data is None:
            raise UnreadableImage(self.reason)
        return open_image(self.data)


class Stream(abc.ABC):
    """Samples in shards; also a `vitgan.data.Source`, whose pictures are fast to read in ascending order.

    counts: the number of samples of each shard; sample_bytes: the mean size of an encoded sample; labels:
    int64 (N,) or None; classes: their names.
    """

    labels: np.ndarray | None
    classes: tuple[str, ...]

    def __init__(self, counts: Sequence[int], sample_bytes: float) -> None:
        self.counts, self.sample_bytes = tuple(counts), sample_bytes
        self._cursor: _Cursor | None = None

    @abc.abstractmethod
    def read(self, shard: int, start: int) -> Iterator[Sample]:
        """The samples of a shard from its number `start` on, `counts[shard] - start` of them.

        Raises Unreachable where the source cannot be reached.
        """

    @abc.abstractmethod
    def content(self) -> Iterator[bytes]:
        """Bytes that identify the samples, the same on every machine; their hash is the fingerprint."""

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
        """How many windows an epoch has. Their numbers of samples differ by one at most."""
        most = max(1, min(WINDOW_SAMPLES, int(WINDOW_BYTES / max(self.sample_bytes, 1.0))))
        return -(-len(self) // most)

    def after(self, shards: Sequence[int], position: int) -> Iterator[Sample]:
        """The samples of these shards, in this order, without the first `position` of them.

        A shard that lies before that altogether is not read.
        """
        for shard in shards:
            if position < self.counts[shard]:
                yield from self.read(shard, position)
            position = max(0, position - self.counts[shard])

    def item(self, index: int) -> str:
        """The name of one image, for messages: its own where it was the last to be read, else its number."""
        last = None if self._cursor is None else self._cursor.last
        return last.name if last is not None and last.number == index else f"image {index}"

    def picture(self, index: int) -> Image.Image:
        """One image, opened. Raises UnreadableImage where it is damaged, Unreachable where it is gone."""
        if self._cursor is None or not self._cursor.reaches(index):
            self._cursor = _Cursor(self, index)
        try:
            return self._cursor.advance(index).picture()
        except Unreachable:
            self._cursor = None
            raise


class _Cursor:
    """A place in a stream up to which this process has read it."""

    def __init__(self, stream: Stream, start: int) -> None:
        self._stream, self._next = stream, start
        self._samples = stream.after(range(len(stream.counts)), start)
        self._owner = os.getpid()  # a process forked from it must not move the file offset that both share
        self.last: Sample | None = None

    def reaches(self, index: int) -> bool:
        """Whether the sample `index` lies ahead in the present shard, comes next, or was the last one."""
        if self._owner != os.getpid():
            return False
        if self.last is not None and index == self.last.number:
            return True
        shard = int(np.searchsorted(self._stream.offsets, self._next, side="right")) - 1
        border = int(self._stream.offsets[shard]) + self._stream.counts[shard]
        return self._next <= index < max(border, self._next + 1)

    def advance(self, index: int) -> Sample:
        """The sample `index`; those before it are passed over."""
        while self._next <= index:
            self.last = next(self._samples)
            self._next += 1
        assert self.last is not None
        return self.last


def read_count(path: Path) -> Any:
    """What `write_count` wrote to the file `path`; None where it is not there or is no JSON."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_bytes())
    return None


def write_count(path: Path, count: Any) -> None:
    """Keep what was counted in a set, as JSON; where that fails it is counted again the next time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(count), "utf-8")
