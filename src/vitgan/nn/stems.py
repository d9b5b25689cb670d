"""Images to a grid of tokens, coarser grids, and back to images, for the modern ViTGAN.

Shapes: B batch, C channels, R x R image, S x S grid, L = S^2 tokens in raster order, D width, P = R / S.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.nn.convolution import Convolution
from vitgan.nn.linear import Linear


def patchify(images: Tensor, patch: int, overlap: int = 0) -> Tensor:
    """Images (B, C, H, W) -> patches (B, L, C (P + 2o)^2), extended by `overlap` pixels o on every side.

    The image is padded with zeros and the stride stays P, so that L does not depend on the overlap.
    """
    if overlap == 0:
        return F.pixel_unshuffle(images, patch).flatten(2).mT
    side = patch + 2 * overlap
    if images.device.type == "cpu":
        return F.unfold(images, side, stride=patch, padding=overlap).mT
    # F.unfold starts a kernel for every image there.
    views = F.pad(images, (overlap,) * 4).unfold(2, side, patch).unfold(3, side, patch)  # (B, C, h, w, s, s)
    return views.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """Patches (B, L, C P^2) -> square images (B, C, H, W), the inverse of `patchify` without overlap."""
    side = round(patches.shape[1] ** 0.5)
    return F.pixel_shuffle(patches.mT.unflatten(2, (side, side)), patch)


class LinearOutput(nn.Module):
    """The linear mapping x_p^i = y^i E of the baselines: tokens (B, L, D) -> image (B, C, H, W).

    w is accepted, as by the other outputs, and ignored.
    """

    def __init__(self, width: int, patch: int, channels: int, linear: Callable[..., Linear] = Linear) -> None:
        super().__init__()
        self.patch = patch
        self.project = linear(width, channels * patch**2)

    def forward(self, tokens: Tensor, w: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return unpatchify(self.project(tokens), self.patch)


SLOPE = 0.2


def to_grid(tokens: Tensor) -> Tensor:
    """(B, L, D) -> (B, D, S, S), the same memory: channels last."""
    side = math.isqrt(tokens.shape[1])
    return tokens.mT.unflatten(2, (side, side))


def to_tokens(grid: Tensor) -> Tensor:
    """(B, D, S, S) -> (B, L, D), the same memory where the grid is channels last."""
    return grid.flatten(2).mT


class PatchStem(nn.Module):
    """Overlapping windows of (P + 2o)^2 pixels, P apart, and one linear map: (B, C, R, R) -> (B, L, D)."""

    def __init__(
        self,
        channels: int,
        width: int,
        patch: int,
        overlap: int,
        linear: Callable[..., Linear] = Linear,
    ) -> None:
        super().__init__()
        self.patch, self.overlap = patch, overlap
        self.embed = linear(channels * (patch + 2 * overlap) ** 2, width)

    def forward(self, images: Tensor) -> Tensor:
        return self.embed(patchify(images, self.patch, self.overlap))


class ConvolutionalStem(nn.Module):
    """4 x 4 convolutions of stride 2, each with a leaky ReLU, then a linear map: (B, C, R, R) -> (B, L, D).

    Early convolutions are what makes a transformer learn from few images (arXiv 2106.14881). S is R halved
    once for each of `widths`, rounded down.
    """

    def __init__(self, channels: int, widths: Sequence[int], width: int, *, equalised: bool = True) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            halving(narrow, wide, gain=math.sqrt(2), equalised=equalised)
            for narrow, wide in pairwise((channels, *widths))
        )
        self.embed = Linear(widths[-1], width, equalised=equalised)

    def forward(self, images: Tensor) -> Tensor:
        x = images.contiguous(memory_format=torch.channels_last)
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), SLOPE)  # (B, widths[i], R / 2^(i + 1), ...)
        return self.embed(to_tokens(x))


class MergeTokens(nn.Module):
    """Each 4 x 4 neighbourhood of tokens, 2 apart, to one: (B, S^2, D) -> (B, (S // 2)^2, O), raster order.

    [choice] The neighbourhoods overlap, as the stem's windows do; without `overlapping` they are the 2 x 2 of
    arXiv 2103.14030, and S must be even.
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        *,
        overlapping: bool = True,
        equalised: bool = True,
    ) -> None:
        super().__init__()
        self.overlapping = overlapping
        if overlapping:
            self.merge = halving(width_in, width_out, equalised=equalised)
        else:
            self.merge = Linear(4 * width_in, width_out, equalised=equalised)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.overlapping:
            return to_tokens(self.merge(to_grid(tokens)))
        return self.merge(patchify(to_grid(tokens), 2))


class SplitTokens(nn.Module):
    """Each token to 2 x 2 by a linear map: (B, S^2, D) -> (B, (2S)^2, O), raster order (arXiv 2102.07074)."""

    def __init__(self, width_in: int, width_out: int, linear: Callable[..., Linear] = Linear) -> None:
        super().__init__()
        self.split = linear(width_in, 4 * width_out)

    def forward(self, tokens: Tensor) -> Tensor:
        return to_tokens(unpatchify(self.split(tokens), 2))


class Doubling(Linear):
    """A transposed 4 x 4 convolution of stride 2: x (B, C, H, W) -> (B, O, 2H, 2W).

    A `Linear` of the 2 x 2 places that each pixel comes from: the same initialisation, scaling and precision.
    Its windows overlap by half, so it leaves no grid; four times the channels and a pixel shuffle do.
    """

    def __init__(
        self, channels_in: int, channels_out: int, *, gain: float = 1.0, equalised: bool = True
    ) -> None:
        super().__init__(channels_in * 16, channels_out, gain=2 * gain, equalised=equalised)
        self.channels_in = channels_in

    def forward(self, x: Tensor) -> Tensor:
        weight = self.effective_weight().to(x.dtype).unflatten(1, (self.channels_in, 4, 4))  # (O, C, 4, 4)
        bias = self.effective_bias()
        bias = None if bias is None else bias.to(x.dtype)
        return F.conv_transpose2d(x, weight.transpose(0, 1), bias, stride=2, padding=1)


class ConvolutionalHead(nn.Module):
    """Tokens to colours by doublings of the grid: (B, L, D) -> (B, C, R, R), P = R / S a power of two > 1.

    To `hidden` channels at 2S, a residual 3 x 3 convolution there, then a doubling at a time, half the
    channels each (16 at least), the last of which makes the colours; where P is 2 a 3 x 3 convolution does.
    Pixels see across the borders of patches. w is not used.
    """

    def __init__(self, width: int, patch: int, channels: int, hidden: int, *, equalised: bool = True) -> None:
        super().__init__()
        doublings, gain = int(math.log2(patch)), math.sqrt(2)
        assert doublings >= 1
        assert 2**doublings == patch
        widths = [hidden] + [max(hidden >> k, min(16, hidden)) for k in range(1, doublings - 1)]
        self.first = Doubling(width, hidden, gain=gain, equalised=equalised)
        self.inner = Convolution(hidden, hidden, gain=gain, equalised=equalised)
        self.doublings = nn.ModuleList(
            Doubling(a, b, gain=gain, equalised=equalised) for a, b in pairwise(widths)
        )
        last = Convolution if doublings == 1 else Doubling
        self.colour = last(widths[-1], channels, equalised=equalised)

    def forward(self, tokens: Tensor, w: Tensor | None = None) -> Tensor:  # noqa: ARG002
        x = F.leaky_relu(self.first(to_grid(tokens)), SLOPE)  # (B, hidden, 2S, 2S)
        x = x + F.leaky_relu(self.inner(x), SLOPE)
        for doubling in self.doublings:
            x = F.leaky_relu(doubling(x), SLOPE)
        return self.colour(x)


def halving(channels_in: int, channels_out: int, *, gain: float = 1.0, equalised: bool = True) -> Convolution:
    """A 4 x 4 convolution of stride 2 with a border of 1: it halves the side, rounding down."""
    return Convolution(channels_in, channels_out, 4, stride=2, padding=1, gain=gain, equalised=equalised)
