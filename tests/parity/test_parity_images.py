"""Patches, and the three output mappings, against their float64 twins."""

import math

import pytest
import torch
import torch.nn.functional as F
import twins
from torch import Tensor

from vitgan.nn import (
    ConvolutionalOutput,
    ImplicitOutput,
    Linear,
    LinearOutput,
    ModulatedConvolution,
    patchify,
    pixel_coordinates,
    unpatchify,
)
from vitgan.nn.implicit import Combine, ModulatedLinear

BATCH, CHANNELS, WIDTH = 2, 3, 6


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found.detach().double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("size", "patch", "overlap"), [(8, 4, 0), (8, 4, 2), (8, 2, 1), (9, 3, 1), (8, 4, 4)]
)
def test_patches_pixel_by_pixel(size: int, patch: int, overlap: int):
    """The sequence keeps its length for every overlap, and zeros lie beyond the border."""
    images = twins.random(BATCH, CHANNELS, size, size)
    found = patchify(images, patch, overlap)
    assert found.shape == (BATCH, (size // patch) ** 2, CHANNELS * (patch + 2 * overlap) ** 2)
    assert torch.equal(found, torch.stack([twins.patches(image, patch, overlap) for image in images]))


@pytest.mark.parametrize(("size", "patch"), [(8, 2), (9, 3), (8, 8), (4, 1)])
def test_every_pixel_survives_the_round_trip(size: int, patch: int):
    """A one-hot image for each pixel of each channel goes to patches and back bit for bit."""
    count = CHANNELS * size * size
    images = torch.eye(count).view(count, CHANNELS, size, size)
    patches = patchify(images, patch)
    assert torch.equal(unpatchify(patches, patch), images)
    assert (patches.sum((1, 2)) == 1).all()


def test_a_pixel_lands_in_the_patch_and_place_that_raster_order_gives():
    """Patch 4 of 3 x 3 patches is the middle one; its second row, third column is pixel (4, 5)."""
    image = torch.zeros(1, 2, 9, 9)
    image[0, 1, 4, 5] = 1
    (where,) = patchify(image, 3)[0].nonzero().tolist()
    assert where == [4, 9 + 1 * 3 + 2]


def test_linear_output():
    """x_p^i = E y^i + b, patch by patch, in the layout that patchify gives."""
    module = twins.scramble(LinearOutput(WIDTH, 2, CHANNELS)).double()
    tokens = twins.random(BATCH, 9, WIDTH)
    image = module(tokens)
    for sample, own in zip(image, tokens, strict=True):
        close(
            twins.patches(sample.detach(), 2, 0), torch.stack([twins.affine(module.project, y) for y in own])
        )


def test_pixel_coordinates():
    """(x, y) of pixel centres: -3/4, -1/4, 1/4, 3/4 for four pixels, the rows outermost."""
    centres = [-0.75, -0.25, 0.25, 0.75]
    assert pixel_coordinates(4).tolist() == [[x, y] for y in centres for x in centres]


def modulated(module: ModulatedLinear, x: Tensor, y: Tensor) -> Tensor:
    """One pixel: an explicit weight matrix w'_ij = s_i(y) w_ij, i its input."""
    style, weight = twins.affine(module.style, y), twins.weight_of(module.layer)
    own = torch.stack([torch.stack([s * w for s, w in zip(style, row, strict=True)]) for row in weight])
    if module.demodulate:
        own = torch.stack([row * module.layer.gain / torch.sqrt((row**2).sum() + 1e-8) for row in own])
    out = torch.stack([(row * x).sum() for row in own])
    assert module.layer.bias is not None
    return out + module.layer.bias.detach().double() * module.layer.bias_scale


def layer(module: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
    if isinstance(module, ModulatedLinear):
        return modulated(module, x, y)
    assert isinstance(module, Linear)
    return twins.affine(module, x)


def implicit_pixel(module: ImplicitOutput, column: int, row: int, y: Tensor) -> Tensor:
    """Colour of the pixel in that place of a patch: f_theta(sin(W v), y)."""
    v = torch.tensor([(2 * column + 1) / module.patch - 1, (2 * row + 1) / module.patch - 1]).double()
    fourier = torch.sin(twins.affine(module.fourier, v))
    joined = {
        "modulation": lambda: fourier,
        "concatenation": lambda: torch.cat((fourier, y)),
        "sum": lambda: fourier + y,
    }[module.combine]()
    return layer(module.colour, torch.sin(module.omega_0 * layer(module.sine, joined, y)), y)


@pytest.mark.parametrize(
    ("combine", "demodulate"),
    [("modulation", False), ("modulation", True), ("concatenation", False), ("sum", False)],
)
def test_implicit_output(combine: Combine, demodulate: bool):
    """Patch by patch, pixel by pixel; coordinates and styles are computed in fp32, hence the tolerance."""
    module = ImplicitOutput(WIDTH, 3, CHANNELS, hidden=7, combine=combine, demodulate=demodulate, omega_0=5.0)
    twins.scramble(module)
    tokens = twins.random(BATCH, 4, WIDTH).float()
    image = module(tokens)
    for sample, own in zip(image, tokens.double(), strict=True):
        pixels = [torch.stack([implicit_pixel(module, m % 3, m // 3, y) for m in range(9)]) for y in own]
        close(sample, twins.image_of(torch.stack(pixels), 3, CHANNELS), 2e-5)


def test_a_finer_grid_samples_the_same_functions():
    """At `scale` 3 the middle one of each 3 x 3 pixels lies where the single pixel of scale 1 does."""
    module = twins.scramble(ImplicitOutput(WIDTH, 2, CHANNELS, hidden=7, omega_0=5.0))
    tokens = twins.random(BATCH, 4, WIDTH).float()
    torch.testing.assert_close(module(tokens, scale=3)[..., 1::3, 1::3], module(tokens), rtol=1e-4, atol=1e-5)


def test_patches_of_the_implicit_output_are_apart():
    """A token changes its own patch and no other."""
    module = twins.scramble(ImplicitOutput(WIDTH, 2, CHANNELS, hidden=7))
    tokens = twins.random(1, 4, WIDTH).float()
    changed = tokens.clone()
    changed[0, 1] += 1
    moved = (module(changed) != module(tokens))[0].any(0)
    assert moved[:2, 2:].all()
    assert moved.sum() == 4


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
def test_modulated_convolution(kernel: int, demodulate: bool):
    module = twins.scramble(ModulatedConvolution(4, 5, kernel, WIDTH, demodulate=demodulate))
    x, w = twins.random(BATCH, 4, 5, 5).float(), twins.random(BATCH, WIDTH, seed=2).float()
    expected = [convolved(module, *pair) for pair in zip(x.double(), w.double(), strict=True)]
    close(module(x, w), torch.stack(expected), 2e-5)


def test_convolutional_output():
    """From the raster grid of tokens: convolve, then double and convolve log2(P) times, then colours."""
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


def test_demodulation_keeps_the_size_of_the_sine_argument():
    """The argument of the sine is of order 1 at the start, demodulated or not."""
    torch.manual_seed(0)
    deviations = []
    for demodulate in (False, True):
        module = ImplicitOutput(64, 4, 3, hidden=64, demodulate=demodulate)
        tokens = torch.randn(16, 1, 64)
        assert isinstance(module.sine, ModulatedLinear)
        assert module.sine.layer.bias is not None
        torch.nn.init.zeros_(module.sine.layer.bias)
        fourier = torch.sin(module.fourier(pixel_coordinates(4)))
        deviations.append((module.omega_0 * module.sine(fourier, tokens)).std().item())
    assert 0.5 < deviations[1] < 2
    assert 0.5 < deviations[0] < 3
