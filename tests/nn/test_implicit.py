"""The implicit output against its float64 twin, and its coordinates."""

import pytest
import torch
from torch import Tensor

import twins
from vitgan.nn import (
    ImplicitOutput,
    Linear,
    pixel_coordinates,
)
from vitgan.nn.implicit import Combine, ModulatedLinear

pytestmark = pytest.mark.parity

BATCH, CHANNELS, WIDTH = 2, 3, 6


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found.detach().double(), expected, rtol=tolerance, atol=tolerance)


def test_pixel_coordinates_are_the_centres_of_pixels():
    """Of four pixels (x, y) are -3/4, -1/4, 1/4, 3/4, the rows outermost."""
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
def test_the_implicit_output_is_its_twin(combine: Combine, demodulate: bool):
    """The twin goes pixel by pixel; coordinates and styles are computed in fp32, hence the tolerance."""
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
