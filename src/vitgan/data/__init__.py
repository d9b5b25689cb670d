"""Images: sources, one transform, and batches in a reproducible order."""

from vitgan.data.dataset import DataOptions, ImageSet, describe
from vitgan.data.loader import Batch, batches
from vitgan.data.reading import Skipped
from vitgan.data.sources import open_source

__all__ = ["Batch", "DataOptions", "ImageSet", "Skipped", "batches", "describe", "open_source"]
