"""ContraD against its equations: losses in float64 double loops, SimCLR's augmentation a pixel at a time."""

import math
from dataclasses import replace

import pytest
import torch
import twins
from torch import Tensor

from vitgan.adversarial import DiffAugment, Game, Logistic
from vitgan.adversarial.augment import StrongAugment
from vitgan.adversarial.contrastive import Contrastive, fakes_against_reals, nt_xent
from vitgan.adversarial.step import discriminator_pass
from vitgan.models.contrad import ContraDDiscriminator, ContraDDiscriminatorOptions, ResidualOptions

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


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def pair_losses(anchors: list[int], points: Tensor, positives: list[list[int]], temperature: float) -> float:
    """The mean over anchors of the mean over their positives of -log(pair / all pairs of the anchor)."""
    total = 0.0
    for i, wanted in zip(anchors, positives, strict=True):
        powers = [math.exp(cosine(points[i], other) / temperature) for other in points]
        pairs = sum(power for k, power in enumerate(powers) if k != i)
        total += sum(-math.log(powers[j] / pairs) for j in wanted) / len(wanted)
    return total / len(anchors)


def nt_xent_twin(first: Tensor, second: Tensor, temperature: float) -> float:
    count = len(first)
    other_view = [[k + count] for k in range(count)] + [[k] for k in range(count)]
    return pair_losses(list(range(2 * count)), torch.cat((first, second)), other_view, temperature)


def fakes_twin(fake: Tensor, first: Tensor, second: Tensor, temperature: float) -> float:
    count = len(fake)
    others = [[k for k in range(count) if k != i] for i in range(count)]
    return pair_losses(list(range(count)), torch.cat((fake, first, second)), others, temperature)


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_nt_xent(temperature: float):
    first, second = twins.random(5, 3), twins.random(5, 3, seed=2)
    expected = nt_xent_twin(first, second, temperature)
    assert nt_xent(first, second, temperature).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_fakes_against_reals(temperature: float):
    fake, first, second = (twins.random(4, 3, seed=seed) for seed in range(3))
    expected = fakes_twin(fake, first, second, temperature)
    found = fakes_against_reals(fake, torch.cat((first, second)), temperature)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_perfect_projections_have_the_least_loss():
    """Two views alike and all else orthogonal; fakes alike and orthogonal to the reals."""
    views, fake = torch.eye(4)[:3], torch.eye(4)[3:].expand(3, 4)
    assert nt_xent(views, views, 0.01).item() == pytest.approx(0, abs=1e-6)
    assert fakes_against_reals(fake, views, 0.01).item() == pytest.approx(math.log(2), abs=1e-6)
    assert fakes_against_reals(views, views, 0.01).item() == pytest.approx(100, abs=1e-3)


@pytest.mark.parametrize("views", ["of the game", "of its own"])
def test_term_takes_each_loss_from_its_own_head(views: str):
    """Half of E from h_r for the two real views, the other half from h_f for fakes and real views."""
    model = discriminator()
    term = Contrastive(real=2.0, fake=0.5, temperature=0.3)
    augment = StrongAugment() if views == "of the game" else replace(NOTHING)
    game = Game(loss=Logistic(), augment=augment, terms=(term,))
    both = twins.random(6, 3, 8, 8).float()
    _, seen = discriminator_pass(model, game, both, None, torch.Generator().manual_seed(3), 0)
    rng = torch.Generator().manual_seed(3)
    first, second = augment(both, rng), StrongAugment()(both, rng)
    y, y_second = model.features(first), model.features(second)
    first_r, second_r = (model.project_real(part).detach().double() for part in (y[:3], y_second[:3]))
    fake, first_f, second_f = (
        model.project_fake(part).detach().double() for part in (y[3:], y[:3], y_second[:3])
    )
    losses = term.losses(seen)
    assert losses["contrastive_real"].item() == pytest.approx(
        2 * nt_xent_twin(first_r, second_r, 0.3), rel=1e-4
    )
    assert losses["contrastive_fake"].item() == pytest.approx(
        0.5 * fakes_twin(fake, first_f, second_f, 0.3), rel=1e-4
    )


def discriminator() -> ContraDDiscriminator:
    torch.manual_seed(0)
    backbone = ResidualOptions(width=4, blocks=1, stages=2)
    options = ContraDDiscriminatorOptions(backbone=backbone, hidden=8, projection=4)
    return options.build(resolution=8, channels=3)


def test_the_second_view_is_the_games_augmentation_or_a_strong_one():
    assert Contrastive().second_view(PARTS["flip"]) is PARTS["flip"]
    none = DiffAugment(translation=0, colour=0, cutout=0, scaling=0)
    assert Contrastive().second_view(none) == StrongAugment()


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
def test_colour_a_pixel_at_a_time(part: str):
    """With the same draws; an image that is not drawn stays."""
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
def test_gradient(part: str):
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
