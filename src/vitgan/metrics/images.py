"""The real images: which of a set, their hash, and whether their size is the one asked for.

Shapes: N images of a set, B batch, C channels, R resolution.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from vitgan.data import ImageSet, open_source
from vitgan.errors import UserError
from vitgan.metrics.protocol import MOST
from vitgan.metrics.statistics import chosen

READ = 256  # images at once
GREY = ("1", "L", "LA", "I", "F")  # Pillow's modes


class RealImages:
    """All images of a set up to 50,000, else 50,000 chosen by the seed; read anew each time."""

    def __init__(self, images: ImageSet, seed: int) -> None:
        self.images = images
        self.indices = chosen(len(images), MOST, seed)

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self) -> Iterator[Tensor]:
        """The images in order, uint8 (B, C, R, R)."""
        return (self.images.get(part.tolist()) for part in self.indices.split(READ))

    @cached_property
    def sha(self) -> str:
        """SHA-256 of the shape and the pixels."""
        options = self.images.options
        shape = (len(self), options.channels, options.resolution, options.resolution)
        digest = hashlib.sha256(repr(shape).encode())
        for batch in self.batches():
            digest.update(batch.contiguous().numpy().data)
        return digest.hexdigest()

    def classes(self) -> tuple[str, ...]:
        """Names of the source's classes. Raises UserError where it has none."""
        if not self.images.class_counts:
            raise UserError(
                f"--features classifier needs labels, and {self.images.name} has none: sort its images into "
                "one sub-folder a class, add a dataset.json, or use --features inception."
            )
        return tuple(self.images.class_counts)

    def labels(self) -> Tensor:
        """The source's labels int64 (N,), whether or not the set was opened with them."""
        labels = self.images.labels
        if labels is None and self.images.skipped:  # which images were left out, only a new set tells
            labels = replace(self.images.options, labels=True).build().labels
        elif labels is None:
            found = open_source(self.images.name).labels
            labels = None if found is None else torch.from_numpy(found)
        assert labels is not None, "classes() has been asked"
        return labels[self.indices]


class Survey(NamedTuple):
    """The first two sizes (width, height) among the pictures of a source, and whether all are grey."""

    sizes: tuple[tuple[int, int], ...]
    grey: bool

    def side(self, source: str) -> int:
        """The side of all pictures. Raises UserError where they are not square, or of several sizes."""
        first, *others = self.sizes
        if others:
            raise UserError(
                f"{source} has pictures of several sizes ({shown(first)} and {shown(others[0])} pixels): "
                "bring them to one size first."
            )
        if first[0] != first[1]:
            raise UserError(
                f"{source} has pictures of {shown(first)} pixels, and only square ones can be compared: "
                "crop them first."
            )
        return first[0]


def survey(source: str) -> Survey:
    """Read the header of every picture of a source; unreadable ones are left out here as everywhere.

    Raises UserError where the source cannot be opened, or none can be read.
    """
    opened = open_source(source)
    sizes: dict[tuple[int, int], None] = {}
    grey = True
    for index in range(len(opened)):
        with contextlib.suppress(Exception):  # decoders raise almost anything on damaged data
            picture = opened.picture(index)
            sizes[picture.size] = None
            grey = grey and (picture.mode in GREY or picture.mode.startswith("I;16"))
    if not sizes:
        raise UserError(f"{source} has no readable image: pass images that open in a viewer.")
    return Survey(tuple(sizes)[:2], grey)


def shown(size: tuple[int, int]) -> str:
    """8 x 8."""
    return f"{size[0]} x {size[1]}"
