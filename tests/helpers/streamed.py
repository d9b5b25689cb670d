"""Small sets of tars and of the Hub's library, and what the tests of streams ask of them."""

import contextlib
import io
import itertools
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vitgan.data import Batch, DataOptions, ImageSet, batches

SIDE = 4
COUNTS = (5, 4, 6)  # samples of the shards
COUNT = sum(COUNTS)


def pixels(number: int) -> np.ndarray:
    """No two alike, none its own mirror image; the number stands in all of them."""
    found = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    found[0, 0] = number
    return found


def encoded(number: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(number)).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes | tarfile.TarInfo]], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def members(numbers: Sequence[int]) -> list[tuple[str, bytes]]:
    return [
        part
        for n in numbers
        for part in ((f"set/{n:03d}.png", encoded(n)), (f"set/{n:03d}.cls", str(n % 3).encode()))
    ]


def build(source: str, **changes: Any) -> ImageSet:
    options = {"source": source, "resolution": SIDE, "channels": 3, "labels": True, "flip": True}
    return DataOptions(**{**options, **changes}).build()  # type: ignore[arg-type]


def take(images: ImageSet, number: int, *, batch: int = 3, **more: Any) -> list[Batch]:
    options = {"seed": 0, "images_seen": 0, "device": "cpu", **more}
    with contextlib.closing(batches(images, batch=batch, **options)) as stream:
        return list(itertools.islice(stream, number))


def joined(taken: list[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
    labels = [batch.labels for batch in taken if batch.labels is not None]
    return torch.cat([batch.images for batch in taken]), torch.cat(labels)


def numbers(images: torch.Tensor) -> list[int]:
    """Which sample each image (B, C, R, R) is, mirrored or not."""
    known = {pixels(n).tobytes(): n for n in range(COUNT)} | {
        pixels(n)[:, ::-1].tobytes(): n for n in range(COUNT)
    }
    shown = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [known[image.tobytes()] for image in shown]
