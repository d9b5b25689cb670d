"""Patches, and the linear output, pixel by pixel in float64."""

import pytest
import torch
from torch import Tensor

import twins
from vitgan.nn import (
    LinearOutput,
    patchify,
    unpatchify,
)

pytestmark = pytest.mark.parity

BATCH, CHANNELS, WIDTH = 2, 3, 6


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found.detach().double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("size", "patch", "overlap"), [(8, 4, 0), (8, 4, 2), (8, 2, 1), (9, 3, 1), (8, 4, 4)]
)
def test_patches_are_cut_as_pixel_by_pixel(size: int, patch: int, overlap: int):
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


def test_the_linear_output_is_its_twin():
    """x_p^i = E y^i + b, patch by patch, in the layout that patchify gives."""
    module = twins.scramble(LinearOutput(WIDTH, 2, CHANNELS)).double()
    tokens = twins.random(BATCH, 9, WIDTH)
    image = module(tokens)
    for sample, own in zip(image, tokens, strict=True):
        close(
            twins.patches(sample.detach(), 2, 0), torch.stack([twins.affine(module.project, y) for y in own])
        )
