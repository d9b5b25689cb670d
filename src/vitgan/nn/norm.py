"""Layer norms: plain, and self-modulated by the latent (deck, "LayerNorm automodulada"; arXiv 1810.01365).

Shapes: B batch, L tokens, D width, E width of w.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.nn.linear import Linear

EPSILON = 1e-6


class LayerNorm(nn.Module):
    """Plain layer norm over D that accepts, and ignores, the latent: h (B, L, D) -> (B, L, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, h: Tensor, w: Tensor | None = None) -> Tensor:  # noqa: ARG002
        weight, bias = self.weight.to(h.dtype), self.bias.to(h.dtype)
        return F.layer_norm(h, weight.shape, weight, bias, EPSILON)


class SelfModulatedLayerNorm(nn.Module):
    """SLN(h, w) = gamma(w) * (h - mu) / sigma + beta(w): h (B, L, D), w (B, E) -> (B, L, D).

    mu and sigma, the standard deviation, are per token over D; gamma and beta are vectors of size D, each
    an affine map of w of this norm's own. At w = 0 it starts as a plain layer norm, gamma = 1 and beta = 0.

    Differs from the paper: it is not one for every w; the maps' weights start with standard deviation
    `gain` / sqrt(E). At gain 0 all images are one at the start, and the generator does not leave that
    (docs/decisions.md).
    """

    def __init__(
        self, width: int, latent_width: int, linear: Callable[..., Linear] = Linear, *, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.width = width
        self.gamma = linear(latent_width, width, gain=gain, bias_start=1.0)
        self.beta = linear(latent_width, width, gain=gain)

    def forward(self, h: Tensor, w: Tensor) -> Tensor:
        gamma = self.gamma(w).unsqueeze(1)  # (B, 1, D)
        beta = self.beta(w).unsqueeze(1)
        return beta + gamma * F.layer_norm(h, (self.width,), eps=EPSILON)
