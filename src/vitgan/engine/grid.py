"""Pictures of a run: grids of samples, PNG files, and images with captions."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from vitgan.errors import UserError
from vitgan.io import replacing
from vitgan.terminal import printable

GAP = 2  # pixels between images, and around them
NEUTRAL = 128  # the grey of the gaps: neither black digits' nor white photographs' background
LARGE_ENOUGH = 64  # pixels a side from which an image is shown as it is


def grid(images: torch.Tensor, columns: int | None = None, scale: int | None = None) -> Image.Image:
    """One picture of all `images`, row by row, with neutral gaps.

    images: uint8 (N, C, H, W), C 1 (grey) or 3 (RGB), N >= 1. columns: by default as many as make the grid
    nearly square. scale: every pixel becomes scale x scale; by default small images are enlarged, 8x8 sixfold
    and 32x32 twice.
    """
    assert images.dtype == torch.uint8, "a grid is made of uint8 images"
    assert images.ndim == 4, "a grid is made of (N, C, H, W)"
    assert images.shape[0] > 0, "a grid has one image at least"
    assert images.shape[1] in (1, 3), "a grid is grey or RGB"
    count = images.shape[0]
    columns = columns or math.ceil(math.sqrt(count))
    scale = scale or enlargement(max(images.shape[2:]))
    pixels = images.detach().cpu().permute(0, 2, 3, 1).numpy()  # (N, H, W, C)
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width, channels = (int(size) for size in pixels.shape[1:])
    rows = math.ceil(count / columns)
    shape = (GAP + rows * (height + GAP), GAP + columns * (width + GAP), channels)
    picture = np.full(shape, NEUTRAL, dtype=np.uint8)
    for index, image in enumerate(pixels):
        top, left = GAP + index // columns * (height + GAP), GAP + index % columns * (width + GAP)
        picture[top : top + height, left : left + width] = image
    return _picture(picture)


def enlargement(size: int) -> int:
    """The integer factor that enlarges images of `size` pixels a side to about 64 pixels, from 1 to 6."""
    return min(6, max(1, LARGE_ENOUGH // size))


def save_png(path: Path, image: Image.Image, text: dict[str, str] | None = None) -> None:
    """Write `image` to `path` as PNG with the text chunks `text`, atomically. Raises OSError."""
    chunks = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        chunks.add_itxt(key, printable(value))
    with replacing(Path(path)) as temporary:
        image.save(temporary, format="PNG", pnginfo=chunks)


def sample_path(run: Path, images_seen: int) -> Path:
    """Where a run keeps the sample grid that it drew after `images_seen` images."""
    return run / "samples" / f"{images_seen:012d}.png"


def sample_files(run: Path) -> list[Path]:
    """The sample grids of the run in the folder `run`, in the order of training.

    The name of each is a number of images seen; other pictures beside them are left out.
    """
    named = (path for path in (run / "samples").glob("*.png") if path.stem.isdecimal())
    return sorted(named, key=lambda path: int(path.stem))


def save_images(
    path: Path, images: torch.Tensor, labels: torch.Tensor | None = None, folders: Sequence[str] | None = None
) -> None:
    """Write images, uint8 (N, C, H, W), in the format of the suffix of `path`; missing folders are made.

    `.png`: one grid. `.npz`: the array `images`, uint8 (N, H, W, C), and `labels`, int64 (N,), where they are
    given. Anything else: a folder of PNGs of the images' own size, from 000000.png on, those of class k in
    its folder `folders[k]` where folders are given; raises UserError where a file is in its place. Those of
    an earlier call are replaced, all of them; raises UserError where the folder has other images.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        save_png(path, grid(images))
        return
    pixels = images.detach().cpu().permute(0, 2, 3, 1).numpy()  # (N, H, W, C)
    if path.suffix.lower() == ".npz":
        with replacing(path) as temporary, temporary.open("wb") as file:
            if labels is None:
                np.savez_compressed(file, images=pixels)
            else:
                np.savez_compressed(file, images=pixels, labels=labels.numpy())
        return
    if path.is_file():
        raise UserError(f"{path} is a file: name a folder, or a path that ends in .png or .npz.")
    path.mkdir(exist_ok=True)
    older = _of_an_earlier_call(path)
    for index, image in enumerate(pixels):
        place = path
        if folders is not None and labels is not None:
            place = path / folders[int(labels[index])]
            place.mkdir(exist_ok=True)
        file = place / f"{index:06}.png"
        save_png(file, _picture(image))
        older.discard(file)
    for file in older:
        file.unlink()


PICTURES = frozenset((".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff"))


def _of_an_earlier_call(folder: Path) -> set[Path]:
    """The images below `folder`, which `save_images` has written; raises UserError where any other is there.

    Their names are the numbers from 0 on, each once.
    """
    found: list[Path] = []
    for file in folder.rglob("*"):
        if file.suffix.lower() in PICTURES and file.is_file():
            if not re.fullmatch(r"\d{6}|[1-9]\d{6,}", file.stem) or file.suffix != ".png":
                raise _mixed(folder, file)
            found.append(file)
    numbers = sorted(int(file.stem) for file in found)
    if numbers != list(range(len(found))):
        raise _mixed(folder, found[0])
    return set(found)


def _mixed(folder: Path, file: Path) -> UserError:
    return UserError(
        f"{folder} has other images already, as {file.relative_to(folder)}, which would count among the new "
        "ones: name a new or an empty folder."
    )


def picture(image: Tensor) -> Image.Image:
    """An image, uint8 (C, H, W) of C 1 (grey) or 3 (RGB), as it is: without a frame, not enlarged."""
    return _picture(image.detach().cpu().permute(1, 2, 0).numpy())


def _picture(pixels: np.ndarray) -> Image.Image:
    """uint8 (H, W, C) as a PIL image; PIL has no axis for a single channel."""
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])


GROUND, INK, MARK = (238, 238, 238), (40, 40, 40), (200, 20, 20)
TEXT_SIZE, TEXT_HEIGHT = 12, 16  # pixels
FRAME = 2  # pixels, around a marked image


def captioned(images: Tensor, captions: Sequence[str], marked: Sequence[bool]) -> Image.Image:
    """`images` uint8 (N, C, H, W), C 1 or 3, row by row; a marked one has a red frame and a red caption."""
    font = ImageFont.load_default(TEXT_SIZE)
    scale = enlargement(max(images.shape[2:]))
    height, width = scale * images.shape[2], scale * images.shape[3]
    column = max(width, *(math.ceil(font.getlength(caption)) for caption in captions)) + 2 * (FRAME + GAP)
    row = height + TEXT_HEIGHT + 2 * (FRAME + GAP)
    columns = math.ceil(math.sqrt(len(images)))
    picture = Image.new("RGB", (columns * column, math.ceil(len(images) / columns) * row), GROUND)
    pen = ImageDraw.Draw(picture)
    for index, pixels in enumerate(images.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()):
        left, top = index % columns * column + (column - width) // 2, index // columns * row + GAP + FRAME
        if marked[index]:
            pen.rectangle((left - FRAME, top - FRAME, left + width + 1, top + height + 1), MARK)
        tile = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        picture.paste(tile, (left, top))
        place = (left + width / 2, top + height + FRAME)
        pen.text(place, captions[index], MARK if marked[index] else INK, font, anchor="ma")
    return picture
