"""Balanced consistency of the discriminator, image by image."""

from typing import Literal

import pytest
import torch

import twins
from vitgan.adversarial import (
    BCR,
    DiffAugment,
    Game,
    Logistic,
)
from vitgan.adversarial.step import discriminator_pass
from vitgan.models import VisionTransformer, VisionTransformerOptions

pytestmark = pytest.mark.parity

OPTIONS = VisionTransformerOptions(patch=2, depth=2, width=8, heads=2, perceptron_width=12)
NO_AUGMENT = DiffAugment(translation=0, colour=0, cutout=0, scaling=0)


def discriminator() -> VisionTransformer:
    torch.manual_seed(0)
    model = twins.scramble(OPTIONS.build(resolution=4, channels=3))
    for _ in range(50):
        model.advance()
    return model


@pytest.mark.parametrize("against", ["augmented", "clean"])
def test_bcr_is_the_squared_difference_image_by_image(against: Literal["augmented", "clean"]):
    """The loss is real E(D(T x) - D(T' x))^2 + fake E(D(T G) - D(T' G))^2, T' another draw or none."""
    model, augment = discriminator(), DiffAugment()
    bcr = BCR(real=3.0, fake=0.5, against=against, augment=DiffAugment(scaling=1.0))
    game = Game(loss=Logistic(), augment=augment, terms=(bcr,))
    both = twins.random(6, 3, 4, 4).float()
    adversarial, seen = discriminator_pass(model, game, both, None, torch.Generator().manual_seed(3), 0)
    rng = torch.Generator().manual_seed(3)
    first = augment(both, rng)
    assert bcr.augment is not None
    second = bcr.augment(both, rng) if against == "augmented" else both
    logits = [(model(a[None]).item(), model(b[None]).item()) for a, b in zip(first, second, strict=True)]
    squares = [(a - b) ** 2 for a, b in logits]
    assert min(squares) > 0
    assert bcr.losses(seen)["bcr_real"].item() == pytest.approx(3.0 * sum(squares[:3]) / 3, rel=1e-3)
    assert bcr.losses(seen)["bcr_fake"].item() == pytest.approx(0.5 * sum(squares[3:]) / 3, rel=1e-3)
    assert adversarial.judged_real.logits.flatten().tolist() == pytest.approx(
        [a for a, _ in logits[:3]], rel=1e-3
    )
    assert adversarial.judged_fake.logits.flatten().tolist() == pytest.approx(
        [a for a, _ in logits[3:]], rel=1e-3
    )


def test_bcr_without_augmentation_in_the_game_is_clean_against_augmented():
    model, bcr = discriminator(), BCR(real=1.0, fake=1.0)
    game = Game(loss=Logistic(), augment=NO_AUGMENT, terms=(bcr,))
    both = twins.random(4, 3, 4, 4).float()
    _, seen = discriminator_pass(model, game, both, None, torch.Generator().manual_seed(3), 0)
    augmented = DiffAugment()(both, torch.Generator().manual_seed(3))
    expected = (model(both[:2]) - model(augmented[:2])).square().mean()
    torch.testing.assert_close(bcr.losses(seen)["bcr_real"], expected)
