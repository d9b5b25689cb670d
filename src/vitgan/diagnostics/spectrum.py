"""The power spectrum of images, and what of it lies on the grid of patches.

Shapes: B batch, C channels, R resolution, F = R // 2 + 1 bins.
"""

import torch
from torch import Tensor


def power_spectrum(images: Tensor) -> Tensor:
    """Mean over images and channels of |FFT|^2 / R^2, (B, C, R, R) -> fp64 (R, R), frequency 0 at [0, 0].

    Each image has its own mean taken off. Its sum is R^2 times the mean variance of a pixel (Parseval).
    Chosen here: no window; the jump between opposite borders puts power on the axes, of real and fakes alike.
    """
    images = images.double()
    images = images - images.mean((2, 3), keepdim=True)
    return torch.fft.fft2(images, norm="ortho").abs().square().mean((0, 1))


def radial_average(spectrum: Tensor) -> Tensor:
    """The mean of (R, R) over rings of width 1 around k = 0 .. R // 2 cycles per image: (F,).

    Corners beyond Nyquist, R / 2, are left out.
    """
    ring = _frequencies(len(spectrum)).square().sum(0).sqrt().round().long()  # (R, R)
    bins = len(spectrum) // 2 + 1
    inside = ring < bins
    total = torch.zeros(bins, dtype=spectrum.dtype).index_add(0, ring[inside], spectrum[inside])
    return total / torch.bincount(ring[inside], minlength=bins)


def grid_excess(spectrum: Tensor, patch: int) -> Tensor | None:
    """Power at multiples of 1/P cycles per pixel over that of its surroundings, one number, a ratio.

    The geometric mean, over the points (k R/P, l R/P) other than 0, of the power there divided by the
    geometric mean of its neighbours. Seams between patches repeat every P pixels and raise it above 1. None
    where P does not divide R, or the grid's points touch each other: P < 2 or R/P < 2.
    """
    size = len(spectrum)
    spacing = size // max(patch, 1)
    if patch < 2 or size % patch or spacing < 2:
        return None
    logarithm = spectrum.clamp(min=torch.finfo(spectrum.dtype).tiny).log()
    around = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]
    neighbours = torch.stack([logarithm.roll(shift, (0, 1)) for shift in around]).mean(0)
    excess = (logarithm - neighbours)[::spacing, ::spacing].flatten()[1:]
    return excess.mean().exp()


def _frequencies(size: int) -> Tensor:
    """Cycles per image of every point, (2, R, R)."""
    line = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    return torch.stack(torch.meshgrid(line, line, indexing="ij"))
