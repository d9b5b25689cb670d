"""Interpolation between latents ("walks"), and its frames as a film strip, a GIF or a film.

Shapes: N frames, K latents, C channels, R resolution, H x W image.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitgan.engine.grid import enlargement, grid, save_png
from vitgan.errors import UserError
from vitgan.io import replacing
from vitgan.models import Generator, to_uint8

BATCH = 64  # frames drawn at once


def latent_of(generator: Generator, seed: int, label: int | str | None = None) -> Tensor:
    """The latent w (1, ...) of a seed: that of the image `generator.sample(1, seed=seed)`.

    `label` is a class, by its number or name, which a class-conditional generator needs and no other takes.
    Raises UserError where it is missing, superfluous or not one of the classes.
    """
    device = next(generator.parameters()).device
    with torch.no_grad():
        return generator.mapping(generator.latents(1, seed=seed).to(device), label_of(generator, label))


def label_of(generator: Generator, label: int | str | None) -> Tensor | None:
    """A class as the generator takes it: a tensor (1,) on its device, or None for one without classes.

    Raises UserError as `latent_of` does.
    """
    if label is None:
        if generator.classes:
            raise UserError(f"This generator draws {generator.shown_classes()}: give --class, one of them.")
        return None
    return torch.tensor([generator.class_number(label)], device=next(generator.parameters()).device)


def walk(
    generator: Generator, seeds: Sequence[int], frames: int, *, label: int | str | None = None
) -> Tensor:
    """Interpolate from the image of the first seed to that of the last, through those of the seeds between.

    Returns `frames` images, uint8 (N, C, R, R), all of the class `label` where there are classes. Raises
    UserError for fewer than two seeds or frames, or a wrong label.
    """
    if len(seeds) < 2 or frames < 2:
        raise UserError("A walk has two seeds and two frames at least: give more with --seeds and --frames.")
    return between(generator, torch.cat([latent_of(generator, seed, label) for seed in seeds]), frames)


@torch.no_grad()
def between(generator: Generator, ends: Tensor, frames: int) -> Tensor:
    """Interpolate linearly from the first of K >= 2 latents w (K, ...) to the last, through all others.

    Returns `frames` >= 2 images, uint8 (N, C, R, R); as many lie between any two latents. The lines are
    straight in w, which is learned, not in z, whose length is normalised away.
    """
    images = []
    for place in torch.linspace(0, len(ends) - 1, frames).split(BATCH):
        first = place.long().clamp(max=len(ends) - 2)
        share = (place - first).to(ends).view(-1, *(1,) * (ends.ndim - 1))
        images.append(to_uint8(generator.synthesise(torch.lerp(ends[first], ends[first + 1], share))).cpu())
    return torch.cat(images)


SUFFIXES = (".png", ".gif", ".mp4")
STRIP = 16  # frames in a row of a film strip


def save_frames(path: Path, images: Tensor, *, fps: int = 25) -> None:
    """Write frames, uint8 (N, C, H, W), to `path`, in the format that its suffix names.

    A .png is a film strip, a .gif repeats for ever, an .mp4 is coded as H.264. Small frames are enlarged.
    `fps` is in frames per second, at most 50 of a .gif. Raises UserError for another suffix, or an .mp4
    where the library imageio-ffmpeg is not installed.
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
    """Frames, uint8 (N, C, H, W), side by side in rows of 16."""
    return grid(images, columns=min(STRIP, len(images)))


def can_film() -> bool:
    """Whether .mp4 films can be written: the library imageio-ffmpeg is installed."""
    return importlib.util.find_spec("imageio_ffmpeg") is not None


def check_path(path: Path) -> None:
    """Raise UserError where `path` is a folder, or of a format that `save_frames` cannot write here."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path} must end in .png (a film strip), .gif or .mp4.")
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a file with --out.")
    if suffix == ".mp4":
        _writer()


def _frames(images: Tensor) -> np.ndarray:
    """Frames (N, C, H, W) as RGB (N, H, W, 3), enlarged where small, padded to even sides as H.264 needs."""
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
    """imageio-ffmpeg's `write_frames`. Raises UserError where it is not installed."""
    try:
        from imageio_ffmpeg import write_frames
    except ImportError as error:
        raise UserError(
            'Films need the library `imageio-ffmpeg`, which is not there: pip install "vitgan[video]", '
            "or write a .gif."
        ) from error
    return write_frames
