"""A picture of anyone's, brought to the form of a generator's images."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vitgan.data.reading import quiet_decoding
from vitgan.data.transforms import UnreadableImage, open_image, read_bounded, reason, to_pixels, to_rgb
from vitgan.errors import UserError
from vitgan.models import Generator

MOST_BYTES = 2**25
MOST_SIDE = 2048  # of a picture that is kept to be cropped


def read_picture(path: str | Path, generator: Generator) -> Tensor:
    """uint8 (C, R, R): upright, its centre square, resized. At most 32 MiB and 64 megapixels.

    Raises UserError, before anything is decoded where size or kind are wrong.
    """
    try:
        with Path(path).expanduser().open("rb") as file:
            data = read_bounded(file, MOST_BYTES)
        return picture_of(data, generator)
    except UnreadableImage as error:
        raise UserError(f"{path} cannot be used: {error}.") from error


def picture_of(data: bytes, generator: Generator) -> Tensor:
    """The same of an encoded picture. Raises UnreadableImage."""
    with _decoding(data) as image:
        return _pixels(image, generator)


def open_picture(data: bytes) -> Image.Image:
    """An encoded picture in RGB, upright, reduced to 2,048 pixels a side at most. Raises UnreadableImage."""
    with _decoding(data) as image:
        picture = to_rgb(image, MOST_SIDE)
        picture.thumbnail((MOST_SIDE, MOST_SIDE), Image.Resampling.LANCZOS)
        return picture


def square_box(image: Image.Image, share: float, across: float, down: float) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a square within a picture, in pixels.

    Its side is `share` of the picture's shorter one, from 0 to 1, and 2 pixels at least; `across` and `down`
    say where it lies: 0 left or top, 0.5 in the middle, 1 right or bottom.
    """
    side = max(2, round(share * min(image.size)))
    left, top = round(across * (image.width - side)), round(down * (image.height - side))
    return left, top, left + side, top + side


def cropped(image: Image.Image, box: tuple[int, int, int, int], generator: Generator) -> Tensor:
    """A box (left, top, right, bottom) of a picture as uint8 (C, R, R). Raises UnreadableImage."""
    return _pixels(image.crop(box), generator)


def _pixels(image: Image.Image, generator: Generator) -> Tensor:
    pixels = to_pixels(image, generator.resolution, generator.channels)
    return torch.from_numpy(pixels.copy())  # they may be Pillow's own, which cannot be written to


@contextmanager
def _decoding(data: bytes) -> Iterator[Image.Image]:
    """The encoded picture, opened; whatever is wrong with it is an UnreadableImage."""
    if len(data) > MOST_BYTES:
        raise UnreadableImage(f"it is larger than {MOST_BYTES // 2**20} MiB")
    with quiet_decoding():
        try:
            yield open_image(data)
        except UnreadableImage:
            raise
        except Exception as error:  # damaged data: Pillow raises almost anything, by the header already
            raise UnreadableImage(f"it is damaged ({reason(error)})") from error
