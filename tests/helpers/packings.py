"""Small sets of images, and packings of them in shards of a few."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from vitgan.data import open_source
from vitgan.data.packed.writer import pack, plan_of

SIDE, COUNT = 6, 23
SHARD = 5  # images


def pictures(count: int = COUNT) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, SIDE, SIDE + 2, 3), dtype=np.uint8)


def fill_folder(folder: Path) -> str:
    for number, pixels in enumerate(pictures()):
        place = folder / f"class{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:02d}.png")
    return str(folder)


def fill_zip(folder: Path) -> str:
    fill_folder(folder)
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder))
    return str(folder.with_suffix(".zip"))


def fill_array(folder: Path) -> str:
    np.savez(folder.with_suffix(".npz"), images=pictures(), labels=np.arange(COUNT) % 3)
    return str(folder.with_suffix(".npz"))


SOURCES = {"folder": fill_folder, "zip": fill_zip, "npz": fill_array}


def packing(source: str, out: Path, *, workers: int = 0, side: int = SIDE, channels: int = 3) -> bool:
    """Pack in shards of `SHARD` images."""
    found = open_source(source)
    plan = plan_of(found, source, resolution=side, channels=channels, shard_mib=1)
    plan = replace(plan, shard_images=SHARD)
    return pack(found, out, plan, workers=workers, progress=lambda _done: None)


def labels(source: str | Path) -> np.ndarray:
    found = open_source(str(source)).labels
    assert found is not None
    return found


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
