"""SIREN: one image as a network of sines from coordinates to a colour (arXiv 2006.09661).

Shapes: N points, C channels, H x W image, D width.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from vitgan.config import MOST_LAYERS, MOST_SIZE, check, factor, option
from vitgan.errors import UserError
from vitgan.nn.linear import Linear, at_least_fp32


@dataclass(frozen=True, kw_only=True)
class SirenOptions:
    """Options of a SIREN; the defaults are the paper's for an image."""

    depth: int = option(5, least=1, most=MOST_LAYERS)
    """Linear layers; all but the last are followed by a sine."""
    width: int = option(256, least=1, most=MOST_SIZE)
    """Size D of a hidden layer."""
    omega_0: float = factor(30.0)
    """Factor of every sine's argument."""

    def build(self, *, channels: int) -> "Siren":
        """The network. Raises UserError where a value is not one that the field takes."""
        check(self, "network")
        if self.depth < 2:
            raise UserError(
                f"--network.depth must be at least 2, one sine and the last layer, not {self.depth}."
            )
        if self.omega_0 <= 0:
            raise UserError(f"--network.omega-0 must be greater than 0, not {self.omega_0}.")
        return Siren(self, channels=channels)


class Siren(nn.Module):
    """f(v) = A_n (phi_{n-1} o ... o phi_0)(v) + b_n with phi_i(x) = sin(omega_0 (A_i x + b_i)) (eq. 5).

    Coordinates (..., 2), (x, y) in [-1, 1]^2 -> colours (..., C) in the coordinates' dtype; the image's own
    range is [-1, 1], and nothing bounds the output to it.
    Start (section 3.2): A_0 uniform within +-1/2, the inverse of its two inputs, every other A within
    +-sqrt(6 / D) / omega_0. The argument of the second sine, behind an arcsine-distributed input, is then
    N(0, 1); its variance behind a normal one of variance s is 1 - exp(-2 s): 0.86, 0.82, ... to 0.80, however
    deep. Our choice: omega_0 b_0 is uniform in +-pi, so phi_0 is arcsine-distributed and f no odd function;
    the others start at 0.
    """

    def __init__(self, options: SirenOptions, *, channels: int) -> None:
        super().__init__()
        self.options, self.channels = options, channels
        # Standard deviation of U(+-a) is a / sqrt(3); Linear divides its gain by sqrt(in features).
        first, inner = 1 / math.sqrt(6), math.sqrt(2) / options.omega_0
        sizes = [2, *[options.width] * (options.depth - 1), channels]
        layers = [
            Linear(
                inputs,
                outputs,
                gain=first if i == 0 else inner,
                equalised=False,
                initialisation="uniform",
            )
            for i, (inputs, outputs) in enumerate(pairwise(sizes))
        ]
        assert layers[0].bias is not None
        nn.init.uniform_(layers[0].bias, -math.pi / options.omega_0, math.pi / options.omega_0)
        self.layers = nn.ModuleList(layers)

    def forward(self, coordinates: Tensor) -> Tensor:
        *hidden, last = self.layers
        x = coordinates
        for layer in hidden:
            x = torch.sin(self.options.omega_0 * at_least_fp32(layer(x))).to(x.dtype)
        return last(x)

    def render(self, height: int, width: int) -> Tensor:
        """The image (C, H, W) of that size: the same function, sampled at the pixels' centres."""
        pixels = image_coordinates(height, width, next(self.parameters()).device)
        return self(pixels).mT.unflatten(1, (height, width))

    def slope(self, coordinates: Tensor) -> Tensor:
        """|grad f|, f the mean of the channels, by differentiation: coordinates (N, 2) -> (N,)."""
        with torch.enable_grad():
            places = coordinates.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self(places).mean(-1).sum(), places)
        return gradient.norm(dim=-1)


def image_coordinates(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """The (x, y) of the centres of H x W pixels that tile [-1, 1]^2, rows first: (H W, 2)."""
    rows, columns = (
        (torch.arange(count, device=device) + 0.5) * (2 / count) - 1 for count in (height, width)
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((x, y), -1).view(-1, 2)
