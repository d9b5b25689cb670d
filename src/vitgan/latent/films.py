"""Walks between latents, as frames, films and strips.

Shapes: F frames, Z latent size, C channels, H x W image.
"""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitgan.engine.grid import enlargement, grid, save_png
from vitgan.errors import UserError
from vitgan.io import replacing
from vitgan.latent.directions import Direction, edited, factorised, principal_components
from vitgan.models import Generator, to_uint8

BATCH = 64


def latent_of(generator: Generator, seed: int, label: int | None = None) -> Tensor:
    """w (1, ...) of a seed, the one of the first image of `generator.sample(1, seed=seed)`.

    A class-conditional generator takes a label. Raises UserError where it lacks one, or has no such class.
    """
    device = next(generator.parameters()).device
    with torch.no_grad():
        return generator.mapping(generator.latents(1, seed=seed).to(device), label_of(generator, label))


def label_of(generator: Generator, label: int | None) -> Tensor | None:
    """The label as a tensor (1,), or None. Raises UserError where it is not one of the generator's."""
    if not generator.classes:
        if label is not None:
            raise UserError("This generator knows no classes: leave --class out.")
        return None
    if label is None or not 0 <= label < generator.classes:
        raise UserError(f"This generator draws {generator.classes} classes: give --class, from 0 on.")
    return torch.tensor([label], device=next(generator.parameters()).device)


def walk(generator: Generator, seeds: Sequence[int], frames: int, *, label: int | None = None) -> Tensor:
    """`frames` images from the first seed's to the last's, past the others, uint8 (N, C, R, R).

    Raises UserError for fewer than two seeds or frames.
    """
    if len(seeds) < 2 or frames < 2:
        raise UserError("A walk has two seeds and two frames at least: give more with --seeds and --frames.")
    return between(generator, torch.cat([latent_of(generator, seed, label) for seed in seeds]), frames)


@torch.no_grad()
def between(generator: Generator, ends: Tensor, frames: int) -> Tensor:
    """`frames` >= 2 images from the first of K >= 2 latents w (K, ...) to the last, uint8 (N, C, R, R).

    Straight in w, at constant speed from each to the next: w was learned so that straight lines mean
    something, which those of z, whose length is normed away, do not.
    """
    images = []
    for place in torch.linspace(0, len(ends) - 1, frames).split(BATCH):
        first = place.long().clamp(max=len(ends) - 2)
        share = (place - first).to(ends).view(-1, *(1,) * (ends.ndim - 1))
        images.append(to_uint8(generator.synthesise(torch.lerp(ends[first], ends[first + 1], share))).cpu())
    return torch.cat(images)


SUFFIXES = (".png", ".gif", ".mp4")
STRIP = 16  # frames in a row of the strip


def save_frames(path: Path, images: Tensor, *, fps: int = 25) -> None:
    """uint8 (N, C, H, W) as `path`: .png a strip, .gif that loops, .mp4 (H.264); small ones enlarged.

    Raises UserError for another suffix, or where what writes films is missing.
    """
    check_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    if suffix == ".png":
        save_png(path, film_strip(images))
    elif suffix == ".gif":
        _save_gif(path, [Image.fromarray(frame) for frame in _frames(images)], fps)
    else:
        _save_film(path, _frames(images), fps)


def film_strip(images: Tensor) -> Image.Image:
    """uint8 (N, C, H, W) in rows of 16."""
    return grid(images, columns=min(STRIP, len(images)))


def can_film() -> bool:
    """Whether what writes films is there."""
    return importlib.util.find_spec("imageio_ffmpeg") is not None


def check_path(path: Path) -> None:
    """Raise UserError where no file of frames can have this name, or its writer is missing."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path} must end in .png (a film strip), .gif or .mp4.")
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a file with --out.")
    if suffix == ".mp4":
        _writer()


def _frames(images: Tensor) -> np.ndarray:
    """RGB, each pixel enlarged where the images are small, sides even: (N, H, W, 3)."""
    scale = enlargement(max(images.shape[2:]))
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    pixels = pixels.repeat(scale, 1).repeat(scale, 2)
    if pixels.shape[-1] == 1:
        pixels = pixels.repeat(3, -1)
    even = [(0, 0), *((0, side % 2) for side in pixels.shape[1:3]), (0, 0)]
    return np.pad(pixels, even, mode="edge")


def _save_gif(path: Path, frames: list[Image.Image], fps: int) -> None:
    shown = max(20, round(1000 / fps))  # milliseconds; browsers slow down what is faster
    with replacing(path) as temporary:
        frames[0].save(
            temporary, "GIF", save_all=True, append_images=frames[1:], duration=shown, loop=0, optimize=False
        )


def _save_film(path: Path, frames: np.ndarray, fps: int) -> None:
    height, width = frames.shape[1:3]
    with replacing(path) as temporary:
        film = temporary.with_suffix(".mp4")  # the suffix tells the encoder
        writer = _writer()(
            str(film), (width, height), fps=fps, codec="libx264", quality=8, macro_block_size=2
        )
        try:
            writer.send(None)
            for frame in frames:
                writer.send(np.ascontiguousarray(frame))
            writer.close()
            film.replace(temporary)
        finally:
            writer.close()
            film.unlink(missing_ok=True)


def _writer():
    try:
        from imageio_ffmpeg import write_frames
    except ImportError as error:
        raise UserError(
            'Films need the library `imageio-ffmpeg`, which is not there: pip install "vitgan[video]", '
            "or write a .gif."
        ) from error
    return write_frames


COLUMNS = 9


def write_directions(
    generator: Generator, out: Path, *, count: int, seed: int, reach: float, label: int | None = None
) -> list[Path]:
    """`pca.png`, `sefa.png` where w modulates, and `directions.json` in `out`; the files written."""
    if out.is_file():
        raise UserError(f"{out} is a file: give a folder with --out.")
    kinds = {"pca": principal_components(generator, count)}
    if generator.modulations():
        kinds["sefa"] = factorised(generator, count)
    w = latent_of(generator, seed, label)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, directions in kinds.items():
        images = torch.cat([row(generator, w, direction, reach) for direction in directions])
        save_png(out / f"{kind}.png", grid(images, columns=COLUMNS))
        written.append(out / f"{kind}.png")
    found = [_facts(direction) for directions in kinds.values() for direction in directions]
    with replacing(out / "directions.json") as temporary:
        temporary.write_text(json.dumps({"seed": seed, "directions": found}, indent=1) + "\n", "utf-8")
    return [*written, out / "directions.json"]


@torch.no_grad()
def row(generator: Generator, w: Tensor, direction: Direction, reach: float) -> Tensor:
    """The image of w (1, ...) moved from -reach to +reach deviations, uint8 (N, C, R, R)."""
    amounts = torch.linspace(-reach, reach, COLUMNS).tolist()
    moved = [edited(w, {direction.name: amount}, {direction.name: direction}) for amount in amounts]
    return to_uint8(generator.synthesise(torch.cat(moved))).cpu()


def _facts(direction: Direction) -> dict[str, object]:
    return {
        "name": direction.name,
        "deviation": direction.deviation,
        "share": direction.share,
        "vector": direction.vector.flatten().tolist(),
    }
