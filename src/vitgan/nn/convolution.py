"""Convolutions: equalised, modulated by styles, and with resampling by a fixed filter.

Shapes: B batch, C channels in, O channels out, H x W grid, E width of w.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.nn.linear import Linear, at_least_fp32

TAPS = (1.0, 3.0, 3.0, 1.0)


class Blur(nn.Module):
    """A low-pass filter, [1, 3, 3, 1] / 8 along both axes times `gain`: x (B, C, H, W) -> (B, C, H', W').

    The image is padded with `padding` zeros on each side, and every `stride`-th pixel of the result is kept:
    H' = (H + 2 padding - 4) // stride + 1.
    """

    kernel: Tensor

    def __init__(self, *, padding: int, stride: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        self.padding, self.stride = padding, stride
        self.register_buffer("kernel", low_pass() * gain, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        return F.conv2d(x, kernel, stride=self.stride, padding=self.padding, groups=x.shape[1])


class Upsample(nn.Module):
    """Doubles the size by zeros between pixels and 4 times the low pass: (B, C, H, W) -> (B, C, 2H, 2W)."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", low_pass() * 4, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


def low_pass() -> Tensor:
    """The outer product of [1, 3, 3, 1] / 8 with itself, (4, 4)."""
    taps = torch.tensor(TAPS) / sum(TAPS)
    return torch.outer(taps, taps)


class Convolution(Linear):
    """A zero-padded k x k convolution, x (B, C, H, W) -> (B, O, H / stride, W / stride).

    It is a `Linear` of each k x k neighbourhood, with the same initialisation, scaling and precision. The
    weight is stored as the matrix (O, C k^2) whose norm spectral normalisation bounds. `padding` None pads by
    k // 2, which keeps the size at stride 1 for odd k. Other keywords are those of `Linear`.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        padding: int | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(channels_in * kernel**2, channels_out, **keywords)
        self.channels_in, self.kernel, self.stride = channels_in, kernel, stride
        self.padding = kernel // 2 if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        shape = (self.channels_in, self.kernel, self.kernel)
        weight = self.effective_weight().to(x.dtype).unflatten(1, shape)  # (O, C, k, k)
        bias = self.effective_bias()
        bias = None if bias is None else bias.to(x.dtype)
        return F.conv2d(x, weight, bias, stride=self.stride, padding=self.padding)


class ModulatedConvolution(nn.Module):
    """A k x k convolution whose weights w scales for each image: x (B, C, H, W), w (B, E) -> (B, O, H, W).

    w'_oikl = s_i(w) w_oikl, each output channel divided by the norm of its w' with `demodulate`
    (arXiv 1912.04958, eq. 1-3). Scaling the input and the output channels instead of the weights is the same
    product and needs no convolution for each image. The stored weight has unit variance and is multiplied by
    1 / sqrt(C k^2). With `up` the result is (B, O, 2H, 2W): a transposed convolution of stride 2, then a low
    pass whose gain of 4 makes up for the zeros between the pixels.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        latent_width: int,
        *,
        demodulate: bool = True,
        up: bool = False,
        linear: Callable[..., Linear] = Linear,
    ) -> None:
        super().__init__()
        self.demodulate = demodulate
        self.blur = Blur(padding=(5 - kernel) // 2, gain=4) if up else None
        self.scale = 1 / math.sqrt(channels_in * kernel**2)
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.style = linear(latent_width, channels_in, bias_start=1.0)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.style(w)  # (B, C)
        weight = self.weight * self.scale
        out = self._convolved(x * style[:, :, None, None], weight.to(x.dtype))
        if self.demodulate:
            squared = at_least_fp32(style).square() @ weight.square().sum((2, 3)).mT  # (B, O)
            out = out * (squared + 1e-8).rsqrt().to(out.dtype)[:, :, None, None]
        return out + self.bias.to(x.dtype)[:, None, None]

    def _convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.blur is None:
            return F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        return self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))


class ConvolutionalOutput(nn.Module):
    """Convolutions from tokens (B, L, D) and w (B, E) to an image (B, C, H, W), as the release of ViTGAN has.

    The grid of tokens passes a modulated 3 x 3 convolution and a leaky ReLU at its own size and after each of
    the log2(P) doublings (bilinear), the channels halving each time; a modulated 1 x 1 convolution without
    demodulation makes the colours. P must be a power of two.
    """

    def __init__(
        self, width: int, patch: int, channels: int, latent_width: int, linear: Callable[..., Linear] = Linear
    ) -> None:
        super().__init__()
        doublings = int(math.log2(patch))
        assert 2**doublings == patch
        widths = [width, width, *(max(width >> k, 16) for k in range(1, doublings + 1))]
        self.convolutions = nn.ModuleList(
            ModulatedConvolution(a, b, 3, latent_width, linear=linear) for a, b in pairwise(widths)
        )
        self.colour = ModulatedConvolution(
            widths[-1], channels, 1, latent_width, demodulate=False, linear=linear
        )

    def forward(self, tokens: Tensor, w: Tensor) -> Tensor:
        side = math.isqrt(tokens.shape[1])
        x = tokens.mT.unflatten(2, (side, side))  # (B, D, H / P, W / P)
        for k, convolution in enumerate(self.convolutions):
            if k > 0:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.leaky_relu(convolution(x, w), 0.2) * math.sqrt(2)
        return self.colour(x, w)
