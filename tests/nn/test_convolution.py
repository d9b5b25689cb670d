"""The modulated convolution and the convolutional output against their float64 twins."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import twins
from vitgan.nn import (
    ConvolutionalOutput,
    ImplicitOutput,
    ModulatedConvolution,
)

pytestmark = pytest.mark.parity

BATCH, CHANNELS, WIDTH = 2, 3, 6


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found.detach().double(), expected, rtol=tolerance, atol=tolerance)


def convolved(module: ModulatedConvolution, x: Tensor, w: Tensor) -> Tensor:
    """One sample: an explicit kernel, w'_oikl = s_i w_oikl over its norm, at every pixel."""
    style = twins.affine(module.style, w)
    weight = module.weight.detach().double() / math.sqrt(module.weight[0].numel())
    kernels = torch.stack([torch.stack([s * k for s, k in zip(style, row, strict=True)]) for row in weight])
    if module.demodulate:
        kernels = torch.stack([k / torch.sqrt((k**2).sum() + 1e-8) for k in kernels])
    size, (_, height, width) = weight.shape[-1], x.shape
    padded = F.pad(x, [size // 2] * 4)
    out = torch.zeros(len(kernels), height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            window = padded[:, row : row + size, column : column + size]
            out[:, row, column] = torch.stack([(k * window).sum() for k in kernels])
    return out + module.bias.detach().double()[:, None, None]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("demodulate", [False, True])
def test_the_modulated_convolution_is_its_twin(kernel: int, demodulate: bool):
    module = twins.scramble(ModulatedConvolution(4, 5, kernel, WIDTH, demodulate=demodulate))
    x, w = twins.random(BATCH, 4, 5, 5).float(), twins.random(BATCH, WIDTH, seed=2).float()
    expected = [convolved(module, *pair) for pair in zip(x.double(), w.double(), strict=True)]
    close(module(x, w), torch.stack(expected), 2e-5)


def test_the_convolutional_output_is_its_twin():
    """From the raster grid of tokens it convolves, then doubles and convolves log2(P) times, then colours."""
    module = twins.scramble(ConvolutionalOutput(WIDTH, 4, CHANNELS, 5))
    tokens, w = twins.random(BATCH, 4, WIDTH).float(), twins.random(BATCH, 5, seed=2).float()
    image = module(tokens, w)
    assert image.shape == (BATCH, CHANNELS, 8, 8)
    assert len(module.convolutions) == 3
    for sample, own, style in zip(image, tokens.double(), w.double(), strict=True):
        grid = torch.stack([torch.stack([own[2 * i + j] for j in range(2)], 1) for i in range(2)], 1)
        for k, convolution in enumerate(module.convolutions):
            assert isinstance(convolution, ModulatedConvolution)
            if k > 0:
                grid = F.interpolate(grid[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
            grid = convolved(convolution, grid, style)
            grid = torch.where(grid > 0, grid, 0.2 * grid) * math.sqrt(2)
        close(sample, convolved(module.colour, grid, style), 1e-4)


def test_a_patch_has_a_mean_colour_of_its_own_at_the_start():
    """Without random phases every modulated patch is odd in v, and its mean 0 whatever the token is."""
    torch.manual_seed(0)
    module = ImplicitOutput(32, 4, 3, hidden=32)
    image = module(torch.randn(64, 1, 32))
    means = image.mean((2, 3))  # (B, C)
    assert means.std(0).min() > 0.1 * image.std()
