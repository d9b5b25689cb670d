"""Differentiable augmentation of what the discriminator sees: DiffAugment, and a stronger one of SimCLR.

Shapes: B batch, C channels, H x W image.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from vitgan.config import factor, option
from vitgan.distributed.rng import uniform
from vitgan.registry import register


class Augmentation(Protocol):
    """A random, differentiable map of images (B, C, H, W) in [-1, 1] to others of the same shape."""

    @property
    def active(self) -> bool:
        """Whether it ever changes an image; False where its probabilities are all 0."""
        ...

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """The augmented images; all random numbers come from `rng`, which is on the images' device."""
        ...


@register(name="diffaugment")
@dataclass(frozen=True, kw_only=True)
class DiffAugment:
    """Translation, colour, cutout, scaling and mirroring, all differentiable (after arXiv 2006.10738).

    Images (B, C, H, W) in [-1, 1] -> the same shape, not clamped. Each operation is applied to each image
    independently, with a probability of its own. The geometric operations are combined into one map, so that
    an image is resampled once; it is padded with zeros, which are mid-grey.
    """

    translation: float = option(0.8, least=0, most=1)
    """Probability of a shift by whole pixels, up to `shift` of the side each way."""
    colour: float = option(0.8, least=0, most=1)
    """Probability of brightness +-0.5, saturation times [0, 2] and contrast times [0.5, 1.5]."""
    cutout: float = option(0.8, least=0, most=1)
    """Probability that a square of side `hole` is set to zero."""
    scaling: float = option(0.8, least=0, most=1)
    """Probability of a zoom about the centre by 2^[-zoom, zoom]."""
    flip: float = option(0.0, least=0, most=1)
    """Twice the probability of a mirror image: 1 mirrors half of the images."""
    shift: float = option(0.125, least=0, most=1)
    """Largest translation, as a fraction of the image's side."""
    hole: float = option(0.5, least=0, most=1)
    """Side of the cutout, as a fraction of the image's side."""
    zoom: float = option(0.25, least=0)
    """Largest zoom z either way, as an exponent: sizes are multiplied by 2^-z to 2^z."""

    @property
    def active(self) -> bool:
        return max(self.translation, self.colour, self.cutout, self.scaling, self.flip) > 0

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """The augmented images; all random numbers come from `rng`, which is on the images' device."""
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

    The gradient of a product with it is deterministic, which that of torch's grid_sample on a GPU is not.
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


# Red, green and blue to luma, and to the two axes of chroma about which hue turns (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)
CHROMA = ((0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


@register(name="none")
@dataclass(frozen=True, kw_only=True)
class NoAugment:
    """No augmentation: the discriminator sees the images as they are."""

    active = False

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:  # noqa: ARG002
        return images


@register
@dataclass(frozen=True, kw_only=True)
class StrongAugment:
    """SimCLR's augmentation: crop and resize, mirror, colour jitter, then grey (arXiv 2002.05709).

    Images (B, C, H, W) in [-1, 1], C of 1 or 3 -> the same shape, each image independently of the others.
    The jitter changes brightness, contrast, saturation and hue in this order; images of one channel have no
    saturation, hue or grey. Crop and mirror are one bilinear sampling grid, so that an image is resampled
    once.

    Differs from the paper: the colour operations have a fixed order and do not clamp, which would stop the
    generator's gradient; the hue rotates the chroma plane, linear in the image, where the paper rotates the
    hue of HSV, which has no gradient at grey; a crop wider than the image is cut to its width. There is no
    blur, which the paper leaves out for small images too.
    """

    crop: float = option(1.0, least=0, most=1)
    """Probability of a crop, resized to the whole image."""
    smallest: float = option(0.2, least=0, most=1)
    """Smallest share of the image's area that a crop keeps; the largest is 1."""
    aspect: float = factor(4 / 3)
    """Largest ratio of a crop's longer side to its shorter one."""
    flip: float = option(0.5, least=0, most=1)
    """Probability of a mirror image."""
    colour: float = option(0.8, least=0, most=1)
    """Probability of the colour jitter, the four changes below together."""
    brightness: float = option(0.4, least=0)
    """Largest change of brightness: the light, measured from black (-1), is multiplied by 1 +- this."""
    contrast: float = option(0.4, least=0)
    """Largest change of contrast: the difference from the image's mean is multiplied by 1 +- this."""
    saturation: float = option(0.4, least=0)
    """Largest change of saturation: the difference from grey is multiplied by 1 +- this."""
    hue: float = option(0.1, least=0)
    """Largest rotation of the hue either way, in turns (1 is 360 degrees)."""
    grey: float = option(0.2, least=0, most=1)
    """Probability that the image becomes grey."""

    @property
    def active(self) -> bool:
        return max(self.crop, self.flip, self.colour, self.grey) > 0

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """The augmented images; all random numbers come from `rng`, which is on the images' device."""
        if max(self.crop, self.flip) > 0:
            images = self._geometry(images, rng)
        if self.colour > 0:
            images = self._colour(images, rng)
        if self.grey > 0 and images.shape[1] > 1:
            lost = (_uniform(images, 1, rng) < self.grey).to(images.dtype)[:, :, None, None]
            images = torch.lerp(images, luma(images), lost)
        return images

    def _geometry(self, images: Tensor, rng: torch.Generator) -> Tensor:
        area, ratio, row, column, cropped, mirrored = _uniform(images, 6, rng).unbind(1)  # (B,) each
        area = 1 - (1 - self.smallest) * area * (cropped < self.crop)
        ratio = torch.exp((2 * ratio - 1) * math.log(self.aspect) * (cropped < self.crop))
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        matrix = torch.zeros(len(images), 2, 3, device=images.device)
        matrix[:, 0, 0] = width * torch.where(mirrored < self.flip, -1, 1)
        matrix[:, 1, 1] = height
        matrix[:, 0, 2] = (2 * column - 1) * (1 - width)  # the crop's centre, sides are 2
        matrix[:, 1, 2] = (2 * row - 1) * (1 - height)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=False)

    def _colour(self, images: Tensor, rng: torch.Generator) -> Tensor:
        draw = _uniform(images, 5, rng)
        draw = ((2 * draw[:, :4] - 1) * (draw[:, 4:] < self.colour)).to(images.dtype)  # (B, 4) in [-1, 1)
        brightness, contrast, saturation, turn = draw.view(-1, 4, 1, 1, 1).unbind(1)  # (B, 1, 1, 1) each
        images = (images + 1) * (1 + self.brightness * brightness) - 1
        mean = luma(images).mean((2, 3), keepdim=True)
        images = torch.lerp(mean, images, 1 + self.contrast * contrast)
        if images.shape[1] == 1:
            return images
        images = torch.lerp(luma(images), images, 1 + self.saturation * saturation)
        return torch.einsum("bij,bjhw->bihw", hue_matrix(self.hue * turn.flatten()), images)


def luma(images: Tensor) -> Tensor:
    """The luma (ITU-R BT.601) of images (B, C, H, W), C 1 or 3: (B, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor(LUMA).view(-1, 1, 1)).sum(1, keepdim=True)


def hue_matrix(turns: Tensor) -> Tensor:
    """Matrices (B, 3, 3) on red, green and blue that rotate the chroma by `turns` (B,) and keep the luma."""
    angle = 2 * math.pi * turns.float()
    into = torch.tensor((LUMA, *CHROMA), device=turns.device)  # (3, 3)
    turned = torch.zeros(len(turns), 3, 3, device=turns.device)
    turned[:, 0, 0] = 1
    turned[:, 1, 1] = turned[:, 2, 2] = angle.cos()
    turned[:, 1, 2], turned[:, 2, 1] = -angle.sin(), angle.sin()
    return (into.inverse() @ turned @ into).to(turns.dtype)
