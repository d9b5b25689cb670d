"""Dividing a set of images into the part that is trained on and the part that is held out.

Shapes: N images of the set, M of the part, C channels, R resolution.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitgan.data.dataset import ImageSet, LazyImages, MemoryImages
from vitgan.data.loader import random_bits
from vitgan.data.reading import fetch
from vitgan.data.sources import Source
from vitgan.errors import UserError


def split(labels: Tensor, *, share: float, most: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Indices of the images to train on and of those held out, both ascending, for labels (N,).

    Of every class the same `share` is held out, but at least one image where it has two; the share is smaller
    where it would come to more than `most` images in all. The choice depends on the labels and `seed` alone,
    so it is the same for every run's own seed and when a run is resumed. Raises UserError where no class has
    two images.
    """
    bits = random_bits(len(labels), seed)
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
    """The images `indices` (M,) as a set of their own, which keeps the fingerprint of the whole set.

    Where `images` is in memory, the part is a copy in memory.
    """
    chosen = copy.copy(images)
    if images.class_labels is not None:
        chosen.class_labels = images.class_labels[indices]
        counts = torch.bincount(chosen.class_labels, minlength=len(images.class_names)).tolist()
        chosen.class_counts = dict.fromkeys(images.class_counts, 0)
        chosen.class_counts |= dict(zip(images.class_names, counts, strict=True))
    if isinstance(chosen, MemoryImages):
        chosen.pixels = chosen.pixels[indices]
    else:
        assert isinstance(chosen, LazyImages)
        chosen.source = PartOfSource(chosen.source, indices.numpy())
    return chosen


def read(images: ImageSet) -> tuple[Tensor, Tensor | None]:
    """All images of a set, uint8 (M, C, R, R), and their labels (M,), or None where it has none.

    Where an unreadable image was replaced by another, the label is that of the other one.
    """
    if isinstance(images, MemoryImages):
        return images.pixels, images.labels
    assert isinstance(images, LazyImages)
    fetched = fetch(images.source, images.options, range(len(images)))
    pixels = images.accept(fetched)
    return pixels, None if images.labels is None else images.labels[fetched.indices]


class InMemory(MemoryImages):
    """A set all of whose images were read into memory, from one that is in memory or not."""

    def __init__(self, images: ImageSet) -> None:
        vars(self).update(vars(images))
        self.pixels, labels = read(images)
        if labels is not None:
            self.class_labels = labels


class PartOfSource:
    """A source whose image number i is the image `indices[i]` of another source."""

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
        """One image, opened; raises what the whole source raises."""
        return self.source.picture(int(self.indices[index]))

    def content(self) -> Iterator[bytes]:
        """The content of the whole source, and the indices, which tell this part from any other."""
        yield from self.source.content()
        yield self.indices.astype("<i8").tobytes()
