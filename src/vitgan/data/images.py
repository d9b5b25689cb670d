"""A set of images of one size, in memory or read as it is needed.

Shapes: N images, B batch, C channels, R resolution.
"""

import abc
import contextlib
import logging
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from vitgan.data.files import SUFFIXES
from vitgan.data.identity import Identity, identify
from vitgan.data.reach import Patience, Unreachable
from vitgan.data.reading import Fetched, Skipped, fetch, quiet_decoding, read_image
from vitgan.data.sources import Source, open_source
from vitgan.data.stream_source import Stream
from vitgan.errors import UserError

__all__ = ["DataOptions", "ImageSet", "LazyImages", "MemoryImages", "describe", "fetch"]

logger = logging.getLogger("vitgan")
CHUNK = 64  # images that one thread decodes before it reports
TRANSFORM_VERSION = "1"  # a part of the fingerprint: raise it when the same file gives other pixels


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which images, and in which form."""

    source: str = "digits"
    """digits, cifar10, celeba, lsun-bedroom; a (packed) folder, .zip, .npy or .npz; wds:TARS; hf:NAME."""
    resolution: int = 32
    """Side of the square images, pixels."""
    channels: Literal[1, 3] = 3
    """1: grey, 3: RGB."""
    labels: bool = False
    """Train with the classes of the set."""
    flip: bool = False
    """Mirror each image with probability 1/2 as it is drawn."""
    memory_mib: int = 4096
    """A set that fits is decoded once and held in memory."""
    workers: int = 2
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
            from vitgan.data.streams import StreamImages

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
