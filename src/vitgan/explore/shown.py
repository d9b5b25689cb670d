"""Tensors as pictures large enough to look at, and pictures as parts of the page.

A picture on the page is in its HTML: no file is written for it and the browser asks no second time.

Shapes: C channels, R resolution, P patch, o overlap, L patches.
"""

import base64
import html
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from matplotlib import colormaps
from PIL import Image, ImageDraw
from torch import Tensor

SIDE = 384  # pixels that a picture has on the page, or a little less: whole factors enlarge
SMALL = 96  # those of one among many
LINE, EXTENDED = (255, 64, 64), (255, 200, 40)
CHOOSE = """
element.addEventListener("click", event => {
  const button = event.target.closest("button[data-choice]")
  if (button) trigger("click", { choice: JSON.parse(button.dataset.choice) })
})
"""
BUTTON = "padding: 2px; border: 1px solid var(--border-color-primary); border-radius: 4px; cursor: pointer"


def picture(image: Tensor) -> Image.Image:
    """uint8 (C, R, R)."""
    pixels = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def shown(image: Image.Image | Tensor | None, name: str, side: int = SIDE) -> str:
    """A picture, or uint8 (C, R, R), as HTML: its pixels enlarged to about `side`; `name` says what it is."""
    if image is None:
        return ""
    if isinstance(image, Tensor):
        image = picture(image)
    width = image.width * max(1, side // max(image.size))
    style = f"width: {width}px; max-width: 100%; height: auto; image-rendering: pixelated"
    return f'<img src="{_address(image)}" alt="{html.escape(name)}" style="{style}">'


def choices(images: Tensor, facts: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """uint8 (N, C, R, R) as buttons, each of which tells CHOOSE its facts."""
    buttons = (
        f'<button type="button" title="{html.escape(name)}" style="{BUTTON}" '
        f'data-choice="{html.escape(json.dumps(fact))}">{shown(image, name, SMALL)}</button>'
        for image, fact, name in zip(images, facts, names, strict=True)
    )
    return _row(buttons)


def downloads(images: Tensor, names: Sequence[str]) -> str:
    """uint8 (N, C, R, R) as links, each of which downloads its image as a PNG, pixel by pixel."""
    links = (
        f'<a href="{_address(picture(image))}" download="{html.escape(name)}.png" '
        f'title="{html.escape(name)}" style="{BUTTON}">{shown(image, name, SMALL)}</a>'
        for image, name in zip(images, names, strict=True)
    )
    return _row(links)


def bar(done: int, steps: int, text: str) -> str:
    """Progress, in a line."""
    return f'<progress max="{steps}" value="{done}"></progress> <span>{html.escape(text)}</span>'


def heat(image: Tensor, weights: Tensor) -> Image.Image:
    """uint8 (C, R, R) under the weights (L,) of its patches: the brighter, the more is looked at."""
    base = _enlarged(image)
    side = round(len(weights) ** 0.5)
    scaled = (weights / weights.max().clamp(min=1e-12)).view(1, 1, side, side).float()
    level = F.interpolate(scaled, size=base.size[::-1], mode="nearest")[0, 0].numpy()
    colours = colormaps["inferno"](level)[..., :3] * 255
    return Image.fromarray((0.35 * np.asarray(base) + 0.65 * colours).astype(np.uint8))


def patch_grid(image: Tensor, patch: int, overlap: int) -> Image.Image:
    """uint8 (C, R, R) with the borders of its patches, and one of them with its overlap."""
    base = _enlarged(image)
    factor, draw = base.width // image.shape[-1], ImageDraw.Draw(base)
    for place in range(0, image.shape[-1] + 1, patch):
        at = min(place * factor, base.width - 1)
        draw.line([(at, 0), (at, base.height)], fill=LINE)
        draw.line([(0, at), (base.width, at)], fill=LINE)
    corner = image.shape[-1] // patch // 2 * patch
    box = [(corner - overlap) * factor, (corner + patch + overlap) * factor - 1]
    draw.rectangle((box[0], box[0], box[1], box[1]), outline=EXTENDED, width=2)
    return base


def framed(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """An RGB picture, brought to about SIDE, with a frame around `box`: left, top, right, bottom."""
    factor = SIDE / max(image.size)
    factor = float(int(factor)) if factor >= 1 else factor  # each pixel is enlarged alike
    kernel = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    left, top, right, bottom = (round(edge * factor) for edge in box)
    drawn = image.resize(size, kernel)
    ImageDraw.Draw(drawn).rectangle((left, top, right - 1, bottom - 1), outline=EXTENDED, width=2)
    return drawn


def class_attention(maps: Tensor, head: int | None) -> Tensor:
    """Of a layer's maps (h, N, N), what the class token gives the patches, (L,); the heads' mean for None."""
    rows = maps[:, 0, 1:]
    return rows.mean(0) if head is None else rows[head]


def _enlarged(image: Tensor) -> Image.Image:
    """RGB, every pixel enlarged by a whole factor."""
    small = picture(image).convert("RGB")
    factor = max(1, SIDE // small.width)
    return small.resize((small.width * factor, small.height * factor), Image.Resampling.NEAREST)


def _address(image: Image.Image) -> str:
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _row(parts: Any) -> str:
    return f'<div style="display: flex; flex-wrap: wrap; gap: 4px">{"".join(parts)}</div>'
