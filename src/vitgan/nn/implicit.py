"""The implicit neural representation of a patch, f_theta(E_fou, y^i) (seminar deck, eq. 9; arXiv 2006.09661).

Shapes: B batch, L patches, P patch, C channels, D width of a token, F Fourier features, M hidden features.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from vitgan.nn.linear import Linear, affine, at_least_fp32
from vitgan.nn.stems import unpatchify

Combine = Literal["modulation", "concatenation", "sum"]


def pixel_coordinates(side: int, device: torch.device | None = None) -> Tensor:
    """The (x, y) of the centres of side x side pixels that tile [-1, 1]^2, rows first: (side^2, 2)."""
    centre = (torch.arange(side, device=device) + 0.5) * (2 / side) - 1
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    return torch.stack((x, y), -1).view(-1, 2)


class ModulatedLinear(nn.Module):
    """A linear layer whose weights a token scales, w'_ij = s_i(y) w_ij (blog post; arXiv 1912.04958).

    x is (K, I), K pixels that all tokens share, or (..., K, I), those of each token; with y (..., D) the
    result is (..., K, O), times `factor`. With `demodulate` the weights w'_j of every output feature are
    scaled to the norm that w_j has at the start, whatever the token.
    """

    def __init__(
        self, width: int, layer: Linear, *, demodulate: bool, linear: Callable[..., Linear] = Linear
    ) -> None:
        super().__init__()
        self.layer, self.demodulate = layer, demodulate
        self.style = linear(width, layer.in_features, bias_start=1.0)

    def forward(self, x: Tensor, y: Tensor, factor: float = 1.0) -> Tensor:
        style = self.style(y)  # (..., I)
        weight, bias = self.layer.effective_weight(), self.layer.effective_bias()  # (O, I), (O,)
        product = _of_shared_pixels if x.ndim == 2 else _of_own_pixels
        scaled = (weight * factor).to(x.dtype)
        shift = None if bias is None else (bias * factor).to(x.dtype)
        if not self.demodulate:
            return product(x, style, scaled, shift)
        squared = at_least_fp32(style).square() @ weight.square().mT  # (..., O)
        norm = self.layer.gain * (squared + 1e-8).rsqrt()
        out = product(x, style, scaled, None) * norm.to(x.dtype).unsqueeze(-2)  # (..., K, O)
        return out if shift is None else out + shift


def _of_shared_pixels(x: Tensor, style: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """sum_i s_i x_ki w_oi + b_o as one product of the styles (..., I) and all x_ki w_oi: (..., K, O).

    It takes as many multiplications as modulating the input, without a tensor of (..., K, I).
    """
    pairs = x.unsqueeze(1) * weight  # (K, O, I)
    repeated = None if bias is None else bias.repeat(len(x))
    return affine(style, pairs.flatten(0, 1), repeated).unflatten(-1, pairs.shape[:2])


def _of_own_pixels(x: Tensor, style: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """sum_i x_ki s_i w_oi + b_o of x (..., K, I) by the modulated weights of each token: (..., K, O)."""
    out = x @ (style.unsqueeze(-2) * weight).mT
    return out if bias is None else out + bias


class ImplicitOutput(nn.Module):
    """Every patch as a two-layer sine network of its pixels' coordinates: y (B, L, D) -> (B, C, H, W).

    E_fou(v) = sin(W v) with W trainable and v the pixel centres in [-1, 1]^2; then
    sin(omega_0 (A1 E + b1)) and a last linear layer without a sine. `combine` says how y enters: it modulates
    the weights of both layers, or is concatenated with or added to E_fou (ablations of the blog post).
    Our choice: W starts uniform within +-`bandwidth` pi P / 2; at 1 that is the highest frequency that P
    pixels carry, and patches start as noise, at 1/4 they start smooth. A1 has SIREN's
    U(+-sqrt(6 / F) / omega_0), and omega_0 b1 is uniform in +-pi: E_fou is odd in v, and without those phases
    every patch would be too, with no mean colour.
    """

    def __init__(
        self,
        width: int,
        patch: int,
        channels: int,
        *,
        hidden: int,
        combine: Combine = "modulation",
        demodulate: bool = False,
        omega_0: float = 30.0,
        bandwidth: float = 0.25,
        linear: Callable[..., Linear] = Linear,
    ) -> None:
        super().__init__()
        self.patch, self.combine, self.omega_0 = patch, combine, omega_0
        features = width
        # Standard deviation of U(+-a) is a / sqrt(3); Linear divides its gain by sqrt(in features).
        self.fourier = linear(
            2,
            features,
            bias=False,
            gain=bandwidth * math.pi * patch / math.sqrt(6),
            initialisation="uniform",
        )
        sine = linear(
            2 * features if combine == "concatenation" else features,
            hidden,
            gain=math.sqrt(2) / omega_0,
            bias_scale=1 / omega_0,
            initialisation="uniform",
        )
        assert sine.bias is not None
        nn.init.uniform_(
            sine.bias, -math.pi / (omega_0 * sine.bias_scale), math.pi / (omega_0 * sine.bias_scale)
        )
        colour = linear(hidden, channels)
        if combine == "modulation":
            self.sine = ModulatedLinear(width, sine, demodulate=demodulate, linear=linear)
            self.colour = ModulatedLinear(width, colour, demodulate=demodulate, linear=linear)
        else:
            self.sine, self.colour = sine, colour

    def forward(self, tokens: Tensor, w: Tensor | None = None, *, scale: int = 1) -> Tensor:  # noqa: ARG002
        """tokens (B, L, D) -> image (B, C, scale H, scale W); w is ignored.

        `scale` > 1 evaluates the same functions on a grid that many times finer. The pixels of a patch are
        taken P^2 at a time, so that the memory of their hidden features does not grow with the scale.
        """
        pixels = pixel_coordinates(self.patch * scale, tokens.device)
        fourier = torch.sin(self.fourier(pixels.to(self.fourier.weight.dtype))).to(tokens.dtype)  # (P^2, F)
        parts = fourier.split(self.patch**2) if scale > 1 else (fourier,)
        colours = torch.cat([self._colours(part, tokens) for part in parts], 2)  # (B, L, P^2, C)
        return unpatchify(colours.mT.flatten(2), self.patch * scale)

    def _colours(self, fourier: Tensor, tokens: Tensor) -> Tensor:
        if self.combine == "modulation":
            hidden = torch.sin(self.sine(fourier, tokens, self.omega_0))  # (B, L, P^2, M)
            return self.colour(hidden, tokens)
        tokens = tokens.unsqueeze(-2).expand(*tokens.shape[:2], len(fourier), -1)
        joined = (
            tokens + fourier if self.combine == "sum" else torch.cat((fourier.expand_as(tokens), tokens), -1)
        )
        return self.colour(torch.sin(self.omega_0 * self.sine(joined)))
