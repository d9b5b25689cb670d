"""CutMix against a slow float64 twin, a pixel at a time."""

import math
from dataclasses import replace

import pytest
import torch

import twins
from vitgan.adversarial import DiffAugment, Game, Logistic, Pass
from vitgan.adversarial.consistency import CutMix, rectangles
from vitgan.adversarial.step import discriminator_pass
from vitgan.models.unet import UNetDiscriminator, UNetDiscriminatorOptions

pytestmark = pytest.mark.parity

NO_AUGMENT = DiffAugment(translation=0, colour=0, cutout=0, scaling=0)


def discriminator(classes: int = 0) -> UNetDiscriminator:
    """Off its starting weights, with the power iteration at its end."""
    torch.manual_seed(0)
    options = UNetDiscriminatorOptions(width=2)
    model = twins.scramble(options.build(resolution=8, channels=3, classes=classes))
    for _ in range(200):
        model.advance()
    return model


def test_masks_are_rectangles():
    """They are drawn anew a pixel at a time, with the same draws; no mask is of one value."""
    images = torch.zeros(300, 3, 8, 8)
    masks = rectangles(images, torch.Generator().manual_seed(0))
    draws = torch.rand(300, 4, generator=torch.Generator().manual_seed(0)).tolist()
    for mask, (area, y, x, coin) in zip(masks, draws, strict=True):
        half, centre = max(1, int(8 * math.sqrt(area) / 2)), (int(8 * y), int(8 * x))
        expected = torch.full((8, 8), float(coin < 0.5))
        for row in range(8):
            for column in range(8):
                if abs(row + 0.5 - centre[0]) < half and abs(column + 0.5 - centre[1]) < half:
                    expected[row, column] = float(coin >= 0.5)
        assert torch.equal(mask[0], expected)
        assert 0 < mask.mean() < 1
    assert 0.4 < masks.mean() < 0.6


def passed(model: UNetDiscriminator, term: CutMix, count: int = 3) -> Pass:
    game = Game(loss=Logistic(), augment=NO_AUGMENT, terms=(term,))
    both = twins.random(2 * count, 3, 8, 8).float()
    return discriminator_pass(model, game, both, None, torch.Generator().manual_seed(3), 0)[1]


def test_cutmix_mixes_verdicts_as_it_mixes_images():
    """The encoder calls the mixture fake, the decoder tells its pixels, and the verdicts mix alike."""
    model, term = discriminator(), CutMix(image=2.0, pixels=3.0, consistency=5.0, probability=1.0)
    seen = passed(model, term)
    rng = torch.Generator().manual_seed(3)
    torch.rand((), generator=rng)
    masks = rectangles(seen.real, rng)
    image, pixels, consistency = 0.0, 0.0, 0.0
    for real, fake, mask in zip(seen.real, seen.fake, masks, strict=True):
        verdicts = [model.judge(x[None]) for x in (real, fake, mask * real + (1 - mask) * fake)]
        image += math.log(1 + math.exp(verdicts[2].logits.item())) / 3
        of_real, of_fake, of_mixed = (v.pixels.flatten().tolist() for v in verdicts if v.pixels is not None)
        for a, b, c, m in zip(of_real, of_fake, of_mixed, mask.flatten().tolist(), strict=True):
            pixels += math.log(1 + math.exp(-c if m else c)) / (3 * 64)
            consistency += (c - (a if m else b)) ** 2 / (3 * 64)
    losses = term.losses(seen)
    assert losses["cutmix_image"].item() == pytest.approx(2 * image, rel=1e-4)
    assert losses["cutmix_pixels"].item() == pytest.approx(3 * pixels, rel=1e-4)
    assert losses["cutmix_consistency"].item() == pytest.approx(5 * consistency, rel=1e-4)


def test_cutmix_comes_in_a_share_of_the_steps_that_rises_to_its_probability():
    term = CutMix(probability=0.5, warm_up=10)
    seen = passed(discriminator(), term, count=1)

    def share(step: int) -> float:
        seeds = (torch.Generator().manual_seed(seed) for seed in range(200))
        return sum(bool(term.losses(replace(seen, rng=rng, step=step))) for rng in seeds) / 200

    assert share(0) == 0
    assert 0.15 < share(5) < 0.35
    assert 0.4 < share(10) < 0.6
    assert 0.4 < share(1000) < 0.6
