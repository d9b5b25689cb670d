"""DiffAugment: each operation alone against its formula, its probability, its gradient."""

import math

import pytest
import torch
from torch import Tensor

import twins
from vitgan.adversarial import DiffAugment

pytestmark = pytest.mark.parity

OPERATIONS = ("translation", "colour", "cutout", "scaling", "flip")


def only(operation: str, probability: float = 1.0) -> DiffAugment:
    return DiffAugment(**dict.fromkeys(OPERATIONS, 0.0) | {operation: probability})


def augmented(operation: str, images: Tensor, probability: float = 1.0, seed: int = 0) -> Tensor:
    return only(operation, probability)(images, torch.Generator().manual_seed(seed))


def images(count: int, size: int = 8) -> Tensor:
    return twins.random(count, 3, size, size).float().clamp(-1, 1)


def rolled(image: Tensor, down: int, right: int) -> Tensor:
    """Each pixel moved by whole pixels, zeros where none arrives."""
    _, height, width = image.shape
    out = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            y, x = row - down, column - right
            if 0 <= y < height and 0 <= x < width:
                out[:, row, column] = image[:, y, x]
    return out


def test_translation_is_a_roll_by_whole_pixels_filled_with_zeros():
    """It is at most an eighth of the side each way; every shift within it occurs."""
    clean = images(1, 16)
    shifts = {(i, j): rolled(clean[0], i, j) for i in range(-2, 3) for j in range(-2, 3)}
    found = set()
    for image in augmented("translation", clean.expand(400, -1, -1, -1)):
        distances = {shift: (image - moved).abs().max().item() for shift, moved in shifts.items()}
        nearest = min(distances, key=distances.__getitem__)
        assert distances[nearest] < 1e-4
        found.add(nearest)
    assert found == shifts.keys()


@pytest.mark.parametrize("size", [8, 9, 32])
def test_cutout_is_a_square_of_zeros_of_half_the_side(size: int):
    """Its centre lies anywhere in the image; what the border cuts off is not made up for."""
    hole = int(size / 2 + 0.5)
    kept = augmented("cutout", torch.ones(500, 2, size, size))
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    whole = 0
    for image in kept:
        zero = image[0] == 0
        assert torch.equal(zero, image[1] == 0)
        rows, columns = zero.any(1).nonzero().flatten(), zero.any(0).nonzero().flatten()
        for line in (rows, columns):
            assert len(line) == line[-1] - line[0] + 1 <= hole
            assert len(line) == hole or line[0] == 0 or line[-1] == size - 1
        assert zero.sum() == len(rows) * len(columns)
        whole += len(rows) == len(columns) == hole
    assert whole > 50
    assert (kept.sum((0, 1)) < 1000).all()


def test_colour_is_brightness_then_saturation_then_contrast():
    """The three numbers, read off the means, rebuild every pixel and lie in their ranges, which they fill."""
    clean = images(400)
    numbers = []
    for before, after in zip(clean.double(), augmented("colour", clean).double(), strict=True):
        brightness = after.mean() - before.mean()
        grey_before, grey_after = before.mean(0), after.mean(0)
        deviation = grey_before - before.mean()
        contrast = ((grey_after - after.mean()) * deviation).sum() / (deviation**2).sum()
        colour = (before - grey_before) * contrast
        saturation = ((after - grey_after) * colour).sum() / (colour**2).sum()
        numbers.append([brightness, saturation, contrast])
        bright = before + brightness
        saturated = bright.mean(0) + saturation * (bright - bright.mean(0))
        expected = saturated.mean() + contrast * (saturated - saturated.mean())
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)
    found = torch.tensor(numbers)
    low, high = torch.tensor([-0.5, 0, 0.5]), torch.tensor([0.5, 2, 1.5])
    assert (found.amin(0) > low - 1e-4).all()
    assert (found.amax(0) < high + 1e-4).all()
    assert (found.amax(0) - found.amin(0) > 0.95 * (high - low)).all()
    assert torch.corrcoef(found.T).triu(1).abs().max() < 0.2


def test_colour_of_grey_images_stays_one_channel():
    clean = twins.random(20, 1, 8, 8).float()
    after = augmented("colour", clean)
    assert after.shape == clean.shape
    assert not torch.equal(after, clean)


def bilinear(image: Tensor, y: float, x: float) -> float:
    """The value at a place in pixels, zeros beyond the border."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * float(image[row, column])
    return total


def test_scaling_zooms_about_the_centre():
    """A pixel takes the value at z times its distance from the centre, z in 2^[-1/4, 1/4]."""
    size = 8
    centre = (size - 1) / 2
    ramp = (torch.arange(size) - centre).expand(size, size)
    noise = twins.random(size, size).float()
    # The slope of the ramp at the centre tells z; the noise then has to follow it.
    after = augmented("scaling", torch.stack((ramp, ramp.T, noise)).expand(200, -1, -1, -1))
    zooms = (after[:, 0, 4, 4] - after[:, 0, 4, 3]).double()
    torch.testing.assert_close((after[:, 1, 4, 4] - after[:, 1, 3, 4]).double(), zooms, rtol=1e-4, atol=0)
    for image, zoom in zip(after[:10, 2], zooms[:10].tolist(), strict=True):
        places = [centre + zoom * (k - centre) for k in range(size)]
        expected = [[bilinear(noise, y, x) for x in places] for y in places]
        torch.testing.assert_close(image.double(), torch.tensor(expected).double(), rtol=0, atol=1e-4)
    assert 2**-0.25 - 1e-4 < zooms.min() < 2**-0.2
    assert 2**0.2 < zooms.max() < 2**0.25 + 1e-4


def test_flip_mirrors_half_of_the_images():
    clean = images(400)
    after = augmented("flip", clean)
    mirrored = (after - clean.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    same = (after - clean).abs().amax((1, 2, 3)) < 1e-4
    assert (mirrored ^ same).all()
    assert 140 < mirrored.sum() < 260


@pytest.mark.parametrize(
    ("operation", "changed"),
    # A drawn translation of 8 pixels is by nothing once in 9; half of the drawn flips mirror.
    [("translation", 8 / 9), ("colour", 1.0), ("cutout", 1.0), ("scaling", 1.0), ("flip", 0.5)],
)
def test_an_operation_comes_to_its_share_of_the_images(operation: str, changed: float):
    """The share of changed images lies within 4 standard deviations, and images are drawn apart."""
    count, probability = 4000, 0.3
    clean = images(1).expand(count, -1, -1, -1)
    after = augmented(operation, clean, probability)
    share = ((after - clean).abs().amax((1, 2, 3)) > 1e-3).float()
    expected = probability * changed
    assert abs(share.mean().item() - expected) < 4 * math.sqrt(expected * (1 - expected) / count)
    assert abs(share[1:].mul(share[:-1]).mean().item() - expected**2) < 0.03


def test_probability_zero_is_the_identity_and_draws_nothing():
    clean, rng = images(4), torch.Generator().manual_seed(0)
    state = rng.get_state()
    augment = DiffAugment(translation=0, colour=0, cutout=0, scaling=0, flip=0)
    assert augment(clean, rng) is clean
    assert torch.equal(rng.get_state(), state)
    assert not augment.active


@pytest.mark.parametrize("operation", [*OPERATIONS, "all"])
def test_the_gradient_times_a_step_is_the_change(operation: str):
    """Every operation is affine in the image, so a finite step must equal the gradient times it."""
    augment = DiffAugment(flip=0.5) if operation == "all" else only(operation)
    clean, step = images(6).requires_grad_(), images(6).flip(0)
    after = augment(clean, torch.Generator().manual_seed(0))
    moved = augment(clean.detach() + step, torch.Generator().manual_seed(0))
    weighting = twins.random(*after.shape, seed=5).float()
    (gradient,) = torch.autograd.grad((after * weighting).sum(), clean)
    for k in range(6):
        finite = ((moved - after.detach())[k] * weighting[k]).sum()
        assert (gradient[k] * step[k]).sum().item() == pytest.approx(finite.item(), abs=2e-3)
    assert gradient.abs().amax((1, 2, 3)).min() > 0


@pytest.mark.parametrize("operation", [*OPERATIONS, "all"])
def test_images_do_not_see_each_other(operation: str):
    """Another image in the first place changes no other image."""
    augment = DiffAugment(flip=0.5) if operation == "all" else only(operation)
    clean = images(5)
    other = torch.cat((torch.zeros_like(clean[:1]), clean[1:]))
    first, second = (augment(x, torch.Generator().manual_seed(0)) for x in (clean, other))
    assert torch.equal(first[1:], second[1:])
    assert not torch.equal(first[0], second[0])


def test_the_same_generator_state_gives_the_same_images():
    clean = images(5)
    assert torch.equal(
        DiffAugment()(clean, torch.Generator().manual_seed(7)),
        DiffAugment()(clean, torch.Generator().manual_seed(7)),
    )
