"""Images: sources, the one transform, sets of images, and batches of them in a reproducible order."""

from vitgan.data.dataset import DataOptions, ImageSet, describe
from vitgan.data.loader import Batch, batches
from vitgan.data.reading import Skipped
from vitgan.data.sources import Source, open_source
from vitgan.data.sources.arrays import ArraySource

__all__ = [
    "ArraySource",
    "Batch",
    "DataOptions",
    "ImageSet",
    "Skipped",
    "Source",
    "batches",
    "describe",
    "open_source",
]
