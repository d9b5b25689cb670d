"""Image tensors as enlarged pictures, with patches or attention drawn over them, and pictures as HTML.

The HTML holds the pictures themselves as data URLs: no file is written, and the browser needs no further
request.

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
from PIL import Image, ImageDraw
from torch import Tensor

from vitgan.compat import importing_matplotlib

with importing_matplotlib():
    from matplotlib import colormaps

SIDE = 384  # pixels: the width of a picture on the page, at most; it is enlarged by a whole factor
SMALL = 96  # pixels: the same of one among many
LINE, HIGHLIGHT = (255, 64, 64), (255, 200, 40)  # RGB
# JavaScript of a part that holds `image_buttons`: a click sends its event with the facts of the button.
SEND_CHOICE = """
element.addEventListener("click", event => {
  const button = event.target.closest("button[data-choice]")
  if (button) trigger("click", { choice: JSON.parse(button.dataset.choice) })
})
"""
BUTTON = "padding: 2px; border: 1px solid var(--border-color-primary); border-radius: 4px; cursor: pointer"


def to_pillow(image: Tensor) -> Image.Image:
    """An image, uint8 (C, R, R), as a grey (C = 1) or RGB (C = 3) picture of Pillow's."""
    pixels = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def image_html(image: Image.Image | Tensor | None, name: str, side: int = SIDE) -> str:
    """The HTML of a picture, or of an image uint8 (C, R, R), enlarged to at most about `side` pixels.

    `name` is its alternative text. Empty for None.
    """
    if image is None:
        return ""
    if isinstance(image, Tensor):
        image = to_pillow(image)
    width = image.width * max(1, side // max(image.size))
    style = f"width: {width}px; max-width: 100%; height: auto; image-rendering: pixelated"
    return f'<img src="{_data_url(image)}" alt="{html.escape(name)}" style="{style}">'


def image_buttons(images: Tensor, facts: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """The HTML of images, uint8 (N, C, R, R), as buttons; a click on one sends its `facts` by SEND_CHOICE."""
    buttons = (
        f'<button type="button" title="{html.escape(name)}" style="{BUTTON}" '
        f'data-choice="{html.escape(json.dumps(fact))}">{image_html(image, name, SMALL)}</button>'
        for image, fact, name in zip(images, facts, names, strict=True)
    )
    return _row(buttons)


def download_links(images: Tensor, names: Sequence[str]) -> str:
    """The HTML of images, uint8 (N, C, R, R), as links; each downloads its image as a PNG, not enlarged."""
    links = (
        f'<a href="{_data_url(to_pillow(image))}" download="{html.escape(name)}.png" '
        f'title="{html.escape(name)}" style="{BUTTON}">{image_html(image, name, SMALL)}</a>'
        for image, name in zip(images, names, strict=True)
    )
    return _row(links)


def progress_html(done: int, steps: int, text: str) -> str:
    """The HTML of a progress bar at step `done` of `steps`, with a text behind it."""
    return f'<progress max="{steps}" value="{done}"></progress> <span>{html.escape(text)}</span>'


def attention_heatmap(image: Tensor, weights: Tensor) -> Image.Image:
    """An image, uint8 (C, R, R), under a heat map of the attention (L,) to its patches; brighter is more."""
    base = _enlarged(image)
    side = round(len(weights) ** 0.5)
    scaled = (weights / weights.max().clamp(min=1e-12)).view(1, 1, side, side).float()
    level = F.interpolate(scaled, size=base.size[::-1], mode="nearest")[0, 0].numpy()
    colours = colormaps["inferno"](level)[..., :3] * 255
    return Image.fromarray((0.35 * np.asarray(base) + 0.65 * colours).astype(np.uint8))


def patch_grid(image: Tensor, patch: int, overlap: int) -> Image.Image:
    """An image, uint8 (C, R, R), with the borders of its patches and the outline of one with its overlap.

    `patch` and `overlap` are in pixels of the image.
    """
    base = _enlarged(image)
    factor, draw = base.width // image.shape[-1], ImageDraw.Draw(base)
    for place in range(0, image.shape[-1] + 1, patch):
        at = min(place * factor, base.width - 1)
        draw.line([(at, 0), (at, base.height)], fill=LINE)
        draw.line([(0, at), (base.width, at)], fill=LINE)
    corner = image.shape[-1] // patch // 2 * patch
    box = [(corner - overlap) * factor, (corner + patch + overlap) * factor - 1]
    draw.rectangle((box[0], box[0], box[1], box[1]), outline=HIGHLIGHT, width=2)
    return base


def with_frame(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """An RGB picture, resized to about SIDE pixels, with a frame around `box` (left, top, right, bottom)."""
    factor = SIDE / max(image.size)
    factor = float(int(factor)) if factor >= 1 else factor  # a whole factor enlarges all pixels alike
    kernel = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    left, top, right, bottom = (round(edge * factor) for edge in box)
    drawn = image.resize(size, kernel)
    ImageDraw.Draw(drawn).rectangle((left, top, right - 1, bottom - 1), outline=HIGHLIGHT, width=2)
    return drawn


def class_attention(maps: Tensor, head: int | None) -> Tensor:
    """The attention (L,) of the class token to the patches, from a layer's maps (h, N, N).

    It is that of one head, or the mean over the heads where `head` is None.
    """
    rows = maps[:, 0, 1:]
    return rows.mean(0) if head is None else rows[head]


def _enlarged(image: Tensor) -> Image.Image:
    """An image, uint8 (C, R, R), as an RGB picture, enlarged by a whole factor to at most SIDE pixels."""
    small = to_pillow(image).convert("RGB")
    factor = max(1, SIDE // small.width)
    return small.resize((small.width * factor, small.height * factor), Image.Resampling.NEAREST)


def _data_url(image: Image.Image) -> str:
    """The data URL that holds a picture as a PNG."""
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _row(parts: Any) -> str:
    return f'<div style="display: flex; flex-wrap: wrap; gap: 4px">{"".join(parts)}</div>'
