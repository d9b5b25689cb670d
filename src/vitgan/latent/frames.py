"""Frames as a film strip, a GIF or a film.

Shapes: N frames, C channels, H x W pixels.
"""

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from vitgan.engine.images import enlargement, grid, save_png
from vitgan.errors import UserError
from vitgan.replacing import replacing

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
