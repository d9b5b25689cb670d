"""DiffAugment: augmentation of every image that the discriminator sees (arXiv 2006.10738; paper).

Shapes: B batch, C channels, H x W image.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vitgan.draws import uniform


class Augmentation(Protocol):
    """A random, differentiable map of images (B, C, H, W) in [-1, 1] to others of the same shape."""

    @property
    def active(self) -> bool:
        """False when it never changes an image."""
        ...

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Draws from `rng`, which lies on the device of the images."""
        ...


@dataclass(frozen=True, kw_only=True)
class DiffAugment:
    """Each operation is drawn for each image alone, with its own probability; all are differentiable.

    Images (B, C, H, W) in [-1, 1] -> the same shape, not clamped. The geometric operations make one map,
    so an image is resampled once; zeros (mid-grey) lie beyond its border.
    """

    translation: float = 0.8
    """Probability of a shift by whole pixels, up to `shift` of the side each way."""
    colour: float = 0.8
    """Probability of brightness +-0.5, saturation times [0, 2] and contrast times [0.5, 1.5]."""
    cutout: float = 0.8
    """Probability of a square of `hole` of the side set to zero."""
    scaling: float = 0.8
    """Probability of a zoom about the centre by 2^[-zoom, zoom]."""
    flip: float = 0.0
    """Probability of drawing whether to mirror; half of those drawn are mirrored."""
    shift: float = 0.125
    """Largest translation, in sides of the image."""
    hole: float = 0.5
    """Side of the cutout, in sides of the image."""
    zoom: float = 0.25
    """Largest zoom, in powers of two."""

    @property
    def active(self) -> bool:
        return max(self.translation, self.colour, self.cutout, self.scaling, self.flip) > 0

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Draw from `rng`, which lies on the device of the images, and augment."""
        if self.colour > 0:
            images = self._colour(images, rng)
        if max(self.translation, self.scaling, self.flip) > 0:
            images = self._geometry(images, rng)
        if self.cutout > 0:
            images = self._cutout(images, rng)
        return images

    def _colour(self, images: Tensor, rng: torch.Generator) -> Tensor:
        draw = _uniform(images, 3, rng)  # (B, 3) in [0, 1)
        drawn = _chosen(images, self.colour, rng)  # (B, 1)
        brightness, saturation, contrast = (
            ((draw - 0.5) * drawn).to(images.dtype).view(-1, 3, 1, 1, 1).unbind(1)
        )
        images = images + brightness
        if images.shape[1] > 1:
            grey = images.mean(1, keepdim=True)
            images = torch.lerp(grey, images, 1 + 2 * saturation)
        return torch.lerp(images.mean((1, 2, 3), keepdim=True), images, 1 + contrast)

    def _geometry(self, images: Tensor, rng: torch.Generator) -> Tensor:
        size = images.shape[-1]
        draw = 2 * _uniform(images, 3, rng) - 1  # (B, 3) in [-1, 1)
        most = int(size * self.shift + 0.5)
        pixels = (draw[:, :2] * (most + 0.5)).round()
        shift = pixels * (2 / size) * _chosen(images, self.translation, rng)  # (B, 2), sides are 2
        zoom = torch.exp2(self.zoom * draw[:, 2:] * _chosen(images, self.scaling, rng))  # (B, 1)
        mirrored = _chosen(images, self.flip / 2, rng) if self.flip > 0 else torch.zeros_like(zoom)
        columns = _resampling(size, zoom * (1 - 2 * mirrored), shift[:, :1]).to(images.dtype)
        rows = _resampling(size, zoom, shift[:, 1:]).to(images.dtype)
        return rows.unsqueeze(1) @ images @ columns.unsqueeze(1).mT

    def _cutout(self, images: Tensor, rng: torch.Generator) -> Tensor:
        size = images.shape[-1]
        hole = int(size * self.hole + 0.5)
        centre = (_uniform(images, 2, rng) * (size + 1 - hole % 2)).floor() - hole // 2  # first row, column
        offset = torch.arange(size, device=images.device) - centre.unsqueeze(-1)  # (B, 2, S)
        inside = (offset >= 0) & (offset < hole)
        cut = inside[:, 0, :, None] & inside[:, 1, None, :]  # (B, H, W)
        keep = 1 - cut.to(images.dtype) * _chosen(images, self.cutout, rng).unsqueeze(-1).to(images.dtype)
        return images * keep.unsqueeze(1)


def _resampling(size: int, zoom: Tensor, shift: Tensor) -> Tensor:
    """Bilinear sampling of a line of pixels at zoom (B, 1) x + shift (B, 1), x in [-1, 1]: (B, S out, S in).

    A product with it, unlike torch's grid_sample on a GPU, has a gradient that is the same every time.
    """
    pixel = torch.arange(size, device=zoom.device)
    place = (zoom * ((2 * pixel + 1) / size - 1) + shift + 1) * (size / 2) - 0.5  # (B, S), in pixels
    return (1 - (place.unsqueeze(-1) - pixel).abs()).clamp(min=0)


def _uniform(images: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """(B, count) numbers in [0, 1)."""
    return uniform(rng, len(images), count)


def _chosen(images: Tensor, probability: float, rng: torch.Generator) -> Tensor:
    """(B, 1): 1 with `probability`, else 0."""
    return (_uniform(images, 1, rng) < probability).float()
