"""A part of a set of images, and the part that is held out.

Shapes: N images of the set, M of the part, C channels, R resolution.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitgan.data import ImageSet
from vitgan.data.dataset import LazyImages, MemoryImages
from vitgan.data.reading import fetch
from vitgan.data.sources import Source
from vitgan.errors import UserError


def split(labels: Tensor, *, share: float, most: int) -> tuple[Tensor, Tensor]:
    """Indices of the images to train on and of those held out, both ascending, of labels (N,).

    The same share of every class, at least one image of each that has two; which ones is hashed from their
    number in the set, so a run's seed does not change it, and its continuation holds out the same.
    Raises UserError where no class has two images.
    """
    bits = np.random.Philox(np.random.SeedSequence(0)).random_raw(len(labels))
    share = min(share, most / len(labels))
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        order = torch.from_numpy(np.argsort(bits[members.numpy()], kind="stable"))
        count = min(len(members) - 1, max(1, round(share * len(members))))
        held[members[order[:count]]] = True
    if not held.any():
        raise UserError("No class has two images, one to learn from and one to hold out: pass more images.")
    return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)


def part(images: ImageSet, indices: Tensor) -> ImageSet:
    """The images `indices` (M,) as a set of their own, with the fingerprint of the whole.

    It is in memory, as a copy, where `images` is.
    """
    chosen = copy.copy(images)
    if images.labels is not None:
        chosen.labels = images.labels[indices]
        counts = torch.bincount(chosen.labels, minlength=len(images.classes)).tolist()
        chosen.class_counts = dict(zip(images.classes, counts, strict=True))
    if isinstance(chosen, MemoryImages):
        chosen.pixels = chosen.pixels[indices]
    else:
        assert isinstance(chosen, LazyImages)
        chosen.source = PartOfSource(chosen.source, indices.numpy())
    return chosen


def read(images: ImageSet) -> tuple[Tensor, Tensor | None]:
    """Every image of a set, uint8 (M, C, R, R), and the labels (M,) of the images that were read."""
    if isinstance(images, MemoryImages):
        return images.pixels, images.labels
    assert isinstance(images, LazyImages)
    fetched = fetch(images.source, images.options, range(len(images)))
    pixels = images.accept(fetched)
    return pixels, None if images.labels is None else images.labels[fetched.indices]


class InMemory(MemoryImages):
    """All the images of a set, in memory."""

    def __init__(self, images: ImageSet) -> None:
        vars(self).update(vars(images))
        self.pixels, self.labels = read(images)


class PartOfSource:
    """The pictures `indices` of a source, by their place in `indices`."""

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self.source, self.indices = source, indices
        self.labels = None if source.labels is None else source.labels[indices]
        self.classes = source.classes

    def __len__(self) -> int:
        return len(self.indices)

    def item(self, index: int) -> str:
        """The name of one image, for messages."""
        return self.source.item(int(self.indices[index]))

    def picture(self, index: int) -> Image.Image:
        """One image, opened."""
        return self.source.picture(int(self.indices[index]))

    def content(self) -> Iterator[bytes]:
        """What tells the part from any other."""
        yield from self.source.content()
        yield self.indices.astype("<i8").tobytes()
