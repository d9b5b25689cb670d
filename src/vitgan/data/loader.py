"""Batches without end, in an order that is a pure function of the seed and the position in the run.

Shapes: N images, B batch, C channels, H x W pixels.
"""

import functools
import itertools
from collections.abc import Generator, Iterator
from typing import NamedTuple

import numpy as np
import torch

from vitgan.data.images import DataOptions, ImageSet, LazyImages, MemoryImages
from vitgan.data.order import draw
from vitgan.data.readers import Readers
from vitgan.data.reading import Fetched, fetch, mirror
from vitgan.data.sources import Source
from vitgan.data.stream_source import Stream
from vitgan.data.streams import StreamReader

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
