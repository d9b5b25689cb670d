"""SimCLR's augmentation against its formulas, a pixel at a time: crop, flip, colour and grey."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import twins
from vitgan.adversarial.augment import StrongAugment

pytestmark = pytest.mark.parity

NOTHING = StrongAugment(crop=0, flip=0, colour=0, grey=0)
COLOURS = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
PARTS = {
    "crop": replace(NOTHING, crop=1.0),
    "flip": replace(NOTHING, flip=0.5),
    "grey": replace(NOTHING, grey=0.5),
    "brightness": replace(NOTHING, colour=1.0, **COLOURS | {"brightness": 0.4}),
    "contrast": replace(NOTHING, colour=1.0, **COLOURS | {"contrast": 0.4}),
    "saturation": replace(NOTHING, colour=1.0, **COLOURS | {"saturation": 0.4}),
    "hue": replace(NOTHING, colour=1.0, **COLOURS | {"hue": 0.1}),
    "all": StrongAugment(),
}
LIGHT = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)


def augmented(part: str, images: Tensor, seed: int = 0) -> Tensor:
    return PARTS[part](images, torch.Generator().manual_seed(seed))


def images(count: int, channels: int = 3, size: int = 8) -> Tensor:
    return twins.random(count, channels, size, size).float().clamp(-1, 1)


def bilinear(image: Tensor, y: float, x: float) -> float:
    """The value at a place in pixels, the nearest pixel's beyond the border."""
    last = len(image) - 1
    y, x = min(max(y, 0), last), min(max(x, 0), last)
    row, column = min(int(y), last - 1), min(int(x), last - 1)
    above, below = image[row], image[row + 1]
    upper = above[column] + (x - column) * (above[column + 1] - above[column])
    lower = below[column] + (x - column) * (below[column + 1] - below[column])
    return float(upper + (y - row) * (lower - upper))


def test_crop_is_a_bilinear_resize_of_a_box_in_the_image():
    """A ramp along each axis tells the box; noise in the third channel has to follow it."""
    size = 8
    ramp, noise = torch.arange(size).float().expand(size, size), twins.random(size, size).float()
    clean = torch.stack((ramp, ramp.T, noise)).expand(300, -1, -1, -1)
    after = replace(NOTHING, crop=1.0, flip=0.5)(clean, torch.Generator().manual_seed(0))
    width, height = after[:, 0, 4, 4] - after[:, 0, 4, 3], after[:, 1, 4, 4] - after[:, 1, 3, 4]  # of a pixel
    left, top = after[:, 0, 4, 4] - 4.5 * width, after[:, 1, 4, 4] - 4.5 * height  # of the box
    for k in range(10):
        rows = [float(top[k] + (i + 0.5) * height[k]) for i in range(size)]
        columns = [float(left[k] + (j + 0.5) * width[k]) for j in range(size)]
        expected = torch.tensor([[bilinear(noise, y, x) for x in columns] for y in rows])
        torch.testing.assert_close(after[k, 2], expected, rtol=0, atol=1e-4)
    mirrored = width < 0
    left, width = torch.where(mirrored, left + size * width, left), width.abs()
    area, ratio = width * height, width / height
    assert 0.19 < area.min() < 0.25
    assert 0.9 < area.max() <= 1 + 1e-4
    assert 0.74 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.34
    assert min(left.min(), top.min()) >= -0.5 - 1e-3
    assert max((left + size * width).max(), (top + size * height).max()) <= size - 0.5 + 1e-3
    room = size * (1 - width) > 1
    assert ((left + 0.5) / (size * (1 - width)))[room].std() > 0.2
    assert 0.4 < mirrored.float().mean() < 0.6


def test_flip_mirrors_about_half_and_moves_nothing_else():
    clean = images(200)
    after = augmented("flip", clean)
    mirrored = (after - clean.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    same = (after - clean).abs().amax((1, 2, 3)) < 1e-5
    assert (mirrored ^ same).all()
    assert 70 < mirrored.sum() < 130


def coloured(image: Tensor, draw: Tensor, augment: StrongAugment) -> Tensor:
    """The four changes of one image (3, H, W) in float64, a pixel at a time; draw in [-1, 1]."""
    light, contrast, saturation, turn = (
        draw * torch.tensor([augment.brightness, augment.contrast, augment.saturation, augment.hue]).double()
    ).tolist()
    image = (image + 1) * (1 + light) - 1
    pixels = image.flatten(1).T
    mean = sum(float(LIGHT @ pixel) for pixel in pixels) / len(pixels)
    out = []
    for pixel in pixels:
        pixel = mean + (1 + contrast) * (pixel - mean)
        grey = LIGHT @ pixel
        red, green, blue = (grey + (1 + saturation) * (pixel - grey)).tolist()
        i, q = 0.596 * red - 0.274 * green - 0.322 * blue, 0.211 * red - 0.523 * green + 0.312 * blue
        chroma = complex(i, q) * complex(math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn))
        axes = torch.tensor([LIGHT.tolist(), [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]).double()
        out.append(torch.linalg.solve(axes, torch.tensor([grey, chroma.real, chroma.imag]).double()))
    return torch.stack(out).T.view_as(image)


@pytest.mark.parametrize("part", ["brightness", "contrast", "saturation", "hue", "together"])
def test_colour_changes_as_a_pixel_at_a_time(part: str):
    """The draws are the same; an image that is not drawn stays."""
    augment = replace(NOTHING, colour=0.8) if part == "together" else PARTS[part]
    clean = images(12, size=4)
    after = augment(clean, torch.Generator().manual_seed(0))
    draws = torch.rand(12, 5, generator=torch.Generator().manual_seed(0)).double()
    for before, image, draw in zip(clean.double(), after.double(), draws, strict=True):
        drawn = float(draw[4] < augment.colour)
        expected = coloured(before, drawn * (2 * draw[:4] - 1), augment)
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)
        assert ((image - before).abs().max() > 1e-4) == bool(drawn)


def test_grey_takes_the_colour_of_some_images_and_keeps_their_light():
    clean = images(400)
    after = augmented("grey", clean).double()
    light = (clean.double() * LIGHT.view(3, 1, 1)).sum(1, keepdim=True)
    grey = (after - light).abs().amax((1, 2, 3)) < 1e-5
    same = (after - clean).abs().amax((1, 2, 3)) < 1e-5
    assert (grey ^ same).all()
    assert 150 < grey.sum() < 250


def test_grey_images_stay_of_one_channel_and_change_in_light_and_contrast_alone():
    clean = images(50, channels=1)
    for part in ("saturation", "hue", "grey"):
        torch.testing.assert_close(augmented(part, clean), clean, rtol=0, atol=1e-6)
    for part in ("crop", "brightness", "contrast", "all"):
        after = augmented(part, clean)
        assert after.shape == clean.shape
        assert not torch.equal(after, clean)


@pytest.mark.parametrize("part", PARTS)
def test_the_gradient_times_a_step_is_the_change(part: str):
    """Every operation is affine in the image, so a finite step must equal the gradient times it."""
    clean, step = images(6).requires_grad_(), images(6).flip(0)
    after, moved = augmented(part, clean), augmented(part, clean.detach() + step)
    weighting = twins.random(*after.shape, seed=5).float()
    (gradient,) = torch.autograd.grad((after * weighting).sum(), clean)
    finite = ((moved - after.detach()) * weighting).sum((1, 2, 3))
    torch.testing.assert_close((gradient * step).sum((1, 2, 3)), finite, rtol=1e-4, atol=2e-3)
    assert gradient.abs().amax((1, 2, 3)).min() > 0


@pytest.mark.parametrize("part", PARTS)
def test_images_do_not_see_each_other_and_the_draw_is_the_generators(part: str):
    """Another image in the first place changes no other; the same state of `rng` gives the same images."""
    clean = images(5)
    other = torch.cat((torch.zeros_like(clean[:1]), clean[1:]))
    first, second = augmented(part, clean), augmented(part, other)
    assert torch.equal(first[1:], second[1:])
    assert torch.equal(first, augmented(part, clean))
    assert not torch.equal(first, augmented(part, clean, seed=1))


def test_nothing_is_the_identity_and_draws_nothing():
    clean, rng = images(4), torch.Generator().manual_seed(0)
    state = rng.get_state()
    assert NOTHING(clean, rng) is clean
    assert torch.equal(rng.get_state(), state)
    assert not NOTHING.active
    assert all(part.active for part in PARTS.values())
