"""Batches without end, in an order that is a pure function of the seed and the position in the run.

Sample k of a run, counted from 0, is image `order(seed, epoch=k // N)[k % N]`. Nothing is saved to resume.
Shapes: N images, B batch, C channels, H x W pixels.
"""

import os
import signal
from collections.abc import Generator, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vitgan.data.images import DataOptions, Fetched, ImageSet, LazyImages, MemoryImages, fetch
from vitgan.data.sources import Source

DEVICE_SHARE = 0.25  # of the accelerator's free memory, at most, for the set


class Batch(NamedTuple):
    """images: float32 (B, C, H, W) in [-1, 1]; labels: int64 (B,) or None; both on the device."""

    images: torch.Tensor
    labels: torch.Tensor | None


def batches(
    images: ImageSet, *, batch: int, seed: int, images_seen: int, device: torch.device | str
) -> Generator[Batch, None, None]:
    """Batches without end, from sample `images_seen` of the run on; close() ends the reading workers.

    The stream is the same for a set in memory and one that is not, for any number of workers, and wherever
    it is entered; a batch crosses the border of an epoch. It differs only where images are unreadable: a set
    in memory leaves them out, another replaces them by their successors. Raises UserError when no image can
    be read any more.
    """
    device = torch.device(device)
    positions = (slice(k, k + batch) for k in _count_from(images_seen, batch))
    draws = (draw(len(images), seed, at.start, at.stop) for at in positions)
    if isinstance(images, MemoryImages):
        return _from_memory(images, draws, device)
    assert isinstance(images, LazyImages)
    return _from_workers(images, draws, device)


def draw(count: int, seed: int, start: int, stop: int) -> np.ndarray:
    """Samples `start` to `stop` of a run over `count` images: int64 (2, B), indices and 0 or 1 for a flip."""
    epochs = range(start // count, (stop - 1) // count + 1)
    parts = [_epoch(count, seed, e)[:, max(start - e * count, 0) : stop - e * count] for e in epochs]
    return np.concatenate(parts, axis=1)


@lru_cache(maxsize=2)
def _epoch(count: int, seed: int, epoch: int) -> np.ndarray:
    # Raw bits and a stable sort: unlike NumPy's permutation, promised never to change between its versions.
    bits = np.random.Philox(np.random.SeedSequence((seed, epoch))).random_raw(2 * count)
    order = np.argsort(bits[:count], kind="stable")
    return np.stack([order, (bits[count:] >> np.uint64(63)).astype(np.int64)])


def _count_from(start: int, step: int) -> Iterator[int]:
    while True:
        yield start
        start += step


def _from_memory(
    images: MemoryImages, draws: Iterator[np.ndarray], device: torch.device
) -> Generator[Batch, None, None]:
    pixels = images.pixels.to(device) if _fits(images.pixels, device) else images.pixels
    labels = None if images.labels is None else images.labels.to(pixels.device)
    flip = images.options.flip
    for drawn in draws:
        indices = torch.from_numpy(drawn[0]).to(pixels.device)
        chosen = pixels.index_select(0, indices)
        if flip:
            _mirror(chosen, drawn[1])
        chosen_labels = None if labels is None else labels[indices].to(device)
        yield Batch(_to_float(chosen.to(device)), chosen_labels)


def _fits(pixels: torch.Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return device.type == "cpu"
    free, _ = torch.cuda.mem_get_info(device)
    return pixels.nbytes <= DEVICE_SHARE * free


def _mirror(pixels: torch.Tensor, flips: np.ndarray) -> None:
    rows = torch.from_numpy(np.flatnonzero(flips)).to(pixels.device)
    pixels[rows] = pixels[rows].flip(3)


def _to_float(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float().div_(127.5).sub_(1)


class _Reading(Dataset[Fetched]):
    """What a worker process does: one item is a whole batch, read for one drawing."""

    def __init__(self, source: Source, options: DataOptions) -> None:
        self.source = source
        self.options = options

    def __getitem__(self, index: Any) -> Fetched:
        indices, flips = index
        fetched = fetch(self.source, self.options, indices.tolist())
        if fetched.pixels is None or not self.options.flip:
            return fetched
        _mirror(fetched.pixels, flips)
        return fetched


def _from_workers(
    images: LazyImages, draws: Iterator[np.ndarray], device: torch.device
) -> Generator[Batch, None, None]:
    options = images.options
    loader = DataLoader(
        _Reading(images.source, options),
        batch_size=None,
        sampler=draws,  # pyright: ignore[reportArgumentType]
        num_workers=min(options.workers, _cores()),
        collate_fn=_as_it_is,
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_group,
        generator=torch.Generator(),  # else the loader takes a number from the global generator
    )
    reading = iter(loader)
    try:
        for fetched in reading:
            pixels = images.accept(fetched)
            labels = None if images.labels is None else images.labels[fetched.indices].to(device)
            yield Batch(_to_float(pixels.to(device, non_blocking=True)), labels)
    finally:
        del reading  # ends the workers, even while an error's traceback keeps this frame


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _as_it_is(fetched: Any) -> Any:
    return fetched


def _leave_group(_worker: int) -> None:
    # A signal to the whole group, as Ctrl-C sends it, must not end the readers of a trainer that still
    # finishes its step and saves. SIGTERM stays deadly: it is how the parent ends a reader that hangs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setsid"):
        os.setsid()
