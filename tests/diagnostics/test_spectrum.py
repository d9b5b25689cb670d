"""The spectrum of images that are known, and what patches leave in it."""

import math

import pytest
import torch
from torch import Tensor

from vitgan.diagnostics.lipschitz import grid_excess, power_spectrum, radial_average


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Spectra


def test_the_spectrum_adds_up_to_the_variance():
    """By Parseval it is R^2 times the mean variance of an image about its own mean."""
    images = noise(5, 3, 8, 8) + 2
    expected = 64 * images.double().var((2, 3), unbiased=False).mean()
    torch.testing.assert_close(power_spectrum(images).sum(), expected)


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize(("across", "down"), [(2, 0), (0, 3), (2, 2), (4, 4)])
def test_a_wave_lies_in_its_ring_alone(size: int, across: int, down: int):
    """The wave (2, 2) lies in ring round(2.83) = 3; (4, 4) is beyond Nyquist, in none."""
    line = torch.arange(size, dtype=torch.float64)
    x, y = torch.meshgrid(line, line, indexing="xy")
    wave = torch.cos(2 * math.pi * (across * x + down * y) / size)
    radial = radial_average(power_spectrum(wave.expand(1, 1, size, size)))
    ring = round(math.hypot(across, down))
    inside = (radial > 1e-12).nonzero().flatten().tolist()
    assert len(radial) == size // 2 + 1
    assert inside == ([ring] if ring <= size // 2 else [])


def test_the_radial_average_of_white_noise_is_flat():
    radial = radial_average(power_spectrum(noise(3000, 1, 16, 16)))
    torch.testing.assert_close(radial[1:], torch.ones(8, dtype=torch.float64), rtol=0.03, atol=0)


def test_a_pattern_in_every_patch_raises_the_grid_and_noise_does_not():
    images = noise(500, 1, 16, 16)
    flat = grid_excess(power_spectrum(images), 4)
    assert flat is not None
    assert float(flat) == pytest.approx(1, abs=0.1)
    seamed = grid_excess(power_spectrum(images + noise(4, 4, seed=1).repeat(4, 4) / 2), 4)
    assert seamed is not None
    assert float(seamed) > 2


@pytest.mark.parametrize(("patch", "size"), [(1, 8), (3, 8), (8, 8), (0, 8)])
def test_no_grid_where_its_points_do_not_stand_alone(patch: int, size: int):
    assert grid_excess(power_spectrum(noise(2, 1, size, size)), patch) is None
