"""The adversarial losses, sample by sample in float64."""

import math

import pytest
import torch

import twins
from vitgan.adversarial import (
    Hinge,
    Logistic,
    Wasserstein,
)
from vitgan.adversarial.losses import AdversarialLoss

pytestmark = pytest.mark.parity


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


def test_losses_are_those_of_each_sample():
    """Each loss of 5 real and 7 fake logits is computed sample by sample."""
    real, fake = 2 * twins.random(5, 1), 2 * twins.random(7, 1, seed=2)
    r, f = real.flatten().tolist(), fake.flatten().tolist()
    mean_fake = sum(f) / 7
    expected: list[tuple[AdversarialLoss, float, float]] = [
        (
            Logistic(),
            sum(softplus(-x) for x in r) / 5 + sum(softplus(x) for x in f) / 7,
            sum(softplus(-x) for x in f) / 7,
        ),
        (Hinge(), sum(max(0, 1 - x) for x in r) / 5 + sum(max(0, 1 + x) for x in f) / 7, -mean_fake),
        (Wasserstein(), mean_fake - sum(r) / 5, -mean_fake),
    ]
    for loss, of_discriminator, of_generator in expected:
        assert loss.discriminator(real, fake).item() == pytest.approx(of_discriminator, rel=1e-9)
        assert loss.generator(real, fake).item() == pytest.approx(of_generator, rel=1e-9)


def test_logistic_loss_does_not_overflow():
    logits = torch.tensor([[1e4], [-1e4]])
    assert torch.isfinite(Logistic().discriminator(logits, logits))
    assert torch.isfinite(Logistic().generator(logits, logits))
