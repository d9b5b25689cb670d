"""ContraD's contrastive losses against float64 double loops, and the views and heads that they take."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import twins
from vitgan.adversarial import DiffAugment, Game, Logistic
from vitgan.adversarial.augment import StrongAugment
from vitgan.adversarial.contrastive import Contrastive, fakes_against_reals, nt_xent
from vitgan.adversarial.step import discriminator_pass
from vitgan.models.contrad import ContraDDiscriminator, ContraDDiscriminatorOptions, ResidualOptions

pytestmark = pytest.mark.parity

NOTHING = StrongAugment(crop=0, flip=0, colour=0, grey=0)


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
def test_nt_xent_is_that_of_a_double_loop(temperature: float):
    first, second = twins.random(5, 3), twins.random(5, 3, seed=2)
    expected = nt_xent_twin(first, second, temperature)
    assert nt_xent(first, second, temperature).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_fakes_against_reals_is_that_of_a_double_loop(temperature: float):
    fake, first, second = (twins.random(4, 3, seed=seed) for seed in range(3))
    expected = fakes_twin(fake, first, second, temperature)
    found = fakes_against_reals(fake, torch.cat((first, second)), temperature)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_perfect_projections_have_the_least_loss():
    """Two views are alike and all else orthogonal; fakes are alike and orthogonal to the reals."""
    views, fake = torch.eye(4)[:3], torch.eye(4)[3:].expand(3, 4)
    assert nt_xent(views, views, 0.01).item() == pytest.approx(0, abs=1e-6)
    assert fakes_against_reals(fake, views, 0.01).item() == pytest.approx(math.log(2), abs=1e-6)
    assert fakes_against_reals(views, views, 0.01).item() == pytest.approx(100, abs=1e-3)


@pytest.mark.parametrize("views", ["of the game", "of its own"])
def test_term_takes_each_loss_from_its_own_head(views: str):
    """Half of E comes from h_r for the two real views, the other half from h_f for fakes and real views."""
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
    flip = replace(NOTHING, flip=0.5)
    assert Contrastive().second_view(flip) is flip
    none = DiffAugment(translation=0, colour=0, cutout=0, scaling=0)
    assert Contrastive().second_view(none) == StrongAugment()
