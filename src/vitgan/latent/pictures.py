"""A picture of anyone's, brought to the form of a generator's images."""

from pathlib import Path

import torch
from torch import Tensor

from vitgan.data.reading import quiet_decoding
from vitgan.data.transforms import UnreadableImage, open_image, read_bounded, reason, to_pixels
from vitgan.errors import UserError
from vitgan.models import Generator

MOST_BYTES = 2**25


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
    if len(data) > MOST_BYTES:
        raise UnreadableImage(f"it is larger than {MOST_BYTES // 2**20} MiB")
    with quiet_decoding():
        try:
            image = open_image(data)
            return torch.from_numpy(to_pixels(image, generator.resolution, generator.channels))
        except UnreadableImage:
            raise
        except Exception as error:  # damaged data: Pillow raises almost anything, by the header already
            raise UnreadableImage(f"it is damaged ({reason(error)})") from error
