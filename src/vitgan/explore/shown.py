"""Tensors as pictures large enough to look at.

Shapes: C channels, R resolution, P patch, o overlap, L patches.
"""

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from PIL import Image, ImageDraw
from torch import Tensor

SIDE = 256  # pixels that a picture has at least
LINE, EXTENDED = (255, 64, 64), (255, 200, 40)


def picture(image: Tensor, side: int = SIDE) -> Image.Image:
    """uint8 (C, R, R), every pixel enlarged by a whole factor."""
    factor = max(1, side // image.shape[-1])
    pixels = image.permute(1, 2, 0).cpu().numpy().repeat(factor, 0).repeat(factor, 1)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")


def pictures(images: Tensor, side: int = 96) -> list[Image.Image]:
    """Of uint8 (N, C, R, R)."""
    return [picture(image, side) for image in images]


def heat(image: Tensor, weights: Tensor) -> Image.Image:
    """uint8 (C, R, R) under the weights (L,) of its patches: the brighter, the more is looked at."""
    base = picture(image)
    side = round(len(weights) ** 0.5)
    scaled = (weights / weights.max().clamp(min=1e-12)).view(1, 1, side, side).float()
    level = F.interpolate(scaled, size=base.size[::-1], mode="nearest")[0, 0].numpy()
    colours = colormaps["inferno"](level)[..., :3] * 255
    return Image.fromarray((0.35 * np.asarray(base) + 0.65 * colours).astype(np.uint8))


def patch_grid(image: Tensor, patch: int, overlap: int) -> Image.Image:
    """uint8 (C, R, R) with the borders of its patches, and one of them with its overlap."""
    base = picture(image)
    factor, draw = base.width // image.shape[-1], ImageDraw.Draw(base)
    for place in range(0, image.shape[-1] + 1, patch):
        at = min(place * factor, base.width - 1)
        draw.line([(at, 0), (at, base.height)], fill=LINE)
        draw.line([(0, at), (base.width, at)], fill=LINE)
    corner = image.shape[-1] // patch // 2 * patch
    box = [(corner - overlap) * factor, (corner + patch + overlap) * factor - 1]
    draw.rectangle((box[0], box[0], box[1], box[1]), outline=EXTENDED, width=2)
    return base


def class_attention(maps: Tensor, head: int | None) -> Tensor:
    """Of a layer's maps (h, N, N), what the class token gives the patches, (L,); the heads' mean for None."""
    rows = maps[:, 0, 1:]
    return rows.mean(0) if head is None else rows[head]


def no_gradient_image(images: Tensor) -> Tensor:
    """uint8 (N, C, R, R) as floats in [-1, 1]."""
    with torch.no_grad():
        return images.float() / 127.5 - 1
