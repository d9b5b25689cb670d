"""Reading one image or a batch of them out of a source; in place of an unreadable image comes another.

Shapes: B batch, C channels, R resolution.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from vitgan.data.packed.reader import PackedSource
from vitgan.data.retry import Unreachable
from vitgan.data.sources import Source
from vitgan.data.transforms import WHITE, Look, White, reason, to_pixels
from vitgan.terminal import printable


class Form(Protocol):
    """The form to which every image is brought; `DataOptions` is one."""

    @property
    def resolution(self) -> int: ...

    @property
    def channels(self) -> int: ...


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, by its name in the source, and the reason."""

    name: str
    reason: str


class Fetched(NamedTuple):
    """The result of reading a batch.

    pixels: uint8 (B, C, R, R), or None where no image at all can be read.
    indices: int64 (B,), the numbers of these images in the source.
    skipped: the images that could not be read.
    lost: place and reason where the source cannot be reached, else None; then the other fields mean nothing.
    """

    pixels: torch.Tensor | None
    indices: torch.Tensor
    skipped: list[Skipped]
    lost: tuple[str, str] | None = None

    @classmethod
    def nothing(cls, skipped: list[Skipped], lost: Unreachable | None = None) -> "Fetched":
        """The result where there are no pixels."""
        none = torch.empty(0, dtype=torch.int64)
        return cls(None, none, skipped, None if lost is None else (lost.place, lost.reason))


def fetch(source: Source, form: Form, indices: Sequence[int]) -> Fetched:
    """Read the images `indices`, in processes of a DataLoader too.

    Each unreadable one is replaced by the next readable one; after the last of the set comes the first.
    """
    rows, used, skipped = [], [], []
    try:
        with quiet_decoding():
            for wanted in indices:
                found = _readable(source, form, wanted, skipped)
                if found is None:
                    return Fetched.nothing(skipped)
                used.append(found[0])
                rows.append(torch.from_numpy(found[1]))
    except Unreachable as loss:
        return Fetched.nothing(skipped, loss)
    return Fetched(torch.stack(rows), torch.tensor(used), skipped)


def _readable(
    source: Source, form: Form, wanted: int, skipped: list[Skipped]
) -> tuple[int, np.ndarray] | None:
    """Number and pixels of the first readable image from `wanted` on; adds those before it to `skipped`."""
    for step in range(len(source)):
        index = (wanted + step) % len(source)
        pixels = read_image(source, index, form)
        if not isinstance(pixels, Skipped):
            return index, pixels
        skipped.append(pixels)
    return None


def read_image(source: Source, index: int, form: Form) -> np.ndarray | Skipped:
    """One image, uint8 (C, R, R), or why there is none. Raises Unreachable where the source is gone."""
    try:
        if isinstance(source, PackedSource) and source.has(form.resolution, form.channels):
            return source.pixels(index)
        return to_pixels(source.picture(index), form.resolution, form.channels, white_of(source))
    except Unreachable:
        raise
    except Exception as error:  # decoders raise almost anything on damaged data
        return Skipped(printable(source.item(index)), reason(error))


def white_of(source: Source) -> White:
    """What stands for white in the pictures of a source that have more than 8 bits a sample."""
    look: Look | None = getattr(source, "look", None)
    return WHITE if look is None else look.white


@contextlib.contextmanager
def quiet_decoding() -> Iterator[None]:
    """Within it no warnings are shown: Pillow warns of damaged metadata, which has no part in the pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def mirror(pixels: torch.Tensor, flips: np.ndarray) -> None:
    """Mirror left to right, in place, those of the images (B, C, R, R) whose entry in `flips` (B,) is 1."""
    rows = torch.from_numpy(np.flatnonzero(flips)).to(pixels.device)
    pixels[rows] = pixels[rows].flip(3)
