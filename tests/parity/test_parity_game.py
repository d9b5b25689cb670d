"""Losses, penalties, consistency, moving average and schedule against slow float64 twins."""

import copy
import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
import twins
from torch import Tensor, nn

from vitgan.adversarial import (
    BCR,
    R1,
    DiffAugment,
    Drift,
    Game,
    GradientPenalty,
    Hinge,
    Logistic,
    Pass,
    Wasserstein,
)
from vitgan.adversarial.losses import AdversarialLoss
from vitgan.adversarial.step import discriminator_pass
from vitgan.engine.optim import AdamOptions, EMAOptions, update_average
from vitgan.models import Judgement, VisionTransformer, VisionTransformerOptions

OPTIONS = VisionTransformerOptions(patch=2, depth=2, width=8, heads=2, perceptron_width=12)
NO_AUGMENT = DiffAugment(translation=0, colour=0, cutout=0, scaling=0)


def discriminator() -> VisionTransformer:
    torch.manual_seed(0)
    model = twins.scramble(OPTIONS.build(resolution=4, channels=3))
    for _ in range(50):
        model.advance()
    return model


@torch.no_grad()
def with_sigma_of_present_weights(model: VisionTransformer) -> None:
    """sigma = u^T W v, with the vectors as they are, which is what the gradient differentiates."""
    assert model.spectral is not None
    for k, group in enumerate(model.spectral.groups):
        left, right = model.spectral.get_buffer(f"left_{k}"), model.spectral.get_buffer(f"right_{k}")
        weights = torch.stack([layer.weight * layer.scale for layer in group])
        model.spectral.get_buffer(f"sigma_{k}").copy_(left.mT @ weights @ right)


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


def test_losses():
    """Each loss of 5 real and 7 fake logits, sample by sample."""
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
        assert loss.generator(fake).item() == pytest.approx(of_generator, rel=1e-9)


def test_logistic_loss_does_not_overflow():
    logits = torch.tensor([[1e4], [-1e4]])
    assert torch.isfinite(Logistic().discriminator(logits, logits))
    assert torch.isfinite(Logistic().generator(logits))


def seen_by(model: VisionTransformer, images: Tensor, step: int = 0, fake: Tensor | None = None) -> Pass:
    rng, none = torch.Generator().manual_seed(7), Judgement(torch.zeros(len(images), 1))
    return Pass(model, step, rng, images, images if fake is None else fake, None, none, none, None, None)


def test_r1_is_the_squared_jacobian():
    """gamma / 2 E |d D(x) / d x|^2, one image at a time in float64, times the interval."""
    model, images = discriminator(), twins.random(3, 3, 4, 4)
    exact = copy.deepcopy(model).double()
    squares = []
    for image in images:
        jacobian = torch.autograd.functional.jacobian(exact, image[None])
        assert isinstance(jacobian, Tensor)
        squares.append((jacobian.double() ** 2).sum())
    expected = 4 * 0.7 / 2 * sum(squares) / 3
    (found,) = R1(gamma=0.7, every=4).losses(seen_by(model, images.float())).values()
    torch.testing.assert_close(found.detach().double(), torch.as_tensor(expected), rtol=1e-4, atol=0)


def test_gradient_of_r1():
    """The second derivative, of every parameter, is that of finite differences of the penalty in float64."""
    model, images = discriminator(), twins.random(2, 3, 4, 4).float()
    (penalty,) = R1(gamma=1.0, every=1).losses(seen_by(model, images)).values()
    penalty.backward()
    names, parameters = zip(*model.named_parameters(), strict=True)
    directions = [twins.random(*p.shape, seed=k) for k, p in enumerate(parameters)]
    exact = copy.deepcopy(model).double()

    def moved(distance: float) -> float:
        for name, start, direction in zip(names, parameters, directions, strict=True):
            exact.get_parameter(name).data = start.detach().double() + distance * direction
        with_sigma_of_present_weights(exact)
        total = torch.zeros((), dtype=torch.float64)
        for image in images.double():
            jacobian = torch.autograd.functional.jacobian(exact, image[None])
            assert isinstance(jacobian, Tensor)
            total += jacobian.square().sum() / 2 / len(images)
        return total.item()

    slope = (moved(1e-4) - moved(-1e-4)) / 2e-4
    found = sum(
        float((p.grad.double() * d).sum())
        for p, d in zip(parameters, directions, strict=True)
        if p.grad is not None
    )
    assert found == pytest.approx(slope, rel=1e-3)


def test_r1_comes_every_so_many_steps():
    model, images = discriminator(), torch.zeros(1, 3, 4, 4)
    present = [bool(R1(gamma=1.0, every=3).losses(seen_by(model, images, step))) for step in range(7)]
    assert present == [True, False, False, True, False, False, True]


def test_gradient_penalty_is_taken_between_real_and_fake():
    """weight E (|d D(x) / d x| / centre - 1)^2 at x = real + t (fake - real), image by image in float64."""
    model, real, fake = discriminator(), twins.random(3, 3, 4, 4), twins.random(3, 3, 4, 4, seed=5)
    exact, rng, total = copy.deepcopy(model).double(), torch.Generator().manual_seed(7), 0.0
    for x, y, t in zip(real, fake, torch.rand(3, generator=rng).double(), strict=True):
        jacobian = torch.autograd.functional.jacobian(exact, (x + t * (y - x))[None])
        assert isinstance(jacobian, Tensor)
        total += (jacobian.norm().item() / 0.5 - 1) ** 2 / 3
    seen = seen_by(model, real.float(), fake=fake.float())
    (found,) = GradientPenalty(weight=3.0, centre=0.5).losses(seen).values()
    assert found.item() == pytest.approx(3.0 * total, rel=1e-3)


def test_drift_is_the_mean_square_of_the_real_logits():
    logits = torch.tensor([[1.0], [-3.0]])
    judged, images = Judgement(logits), torch.zeros(2, 3, 4, 4)
    rng = torch.Generator()
    seen = Pass(discriminator(), 0, rng, images, images, None, judged, Judgement(9 * logits), None, None)
    assert Drift(weight=0.5).losses(seen)["drift"].item() == pytest.approx(0.5 * (1 + 9) / 2)


@pytest.mark.parametrize("against", ["augmented", "clean"])
def test_bcr(against: Literal["augmented", "clean"]):
    """real E(D(T x) - D(T' x))^2 + fake E(D(T G) - D(T' G))^2, T' another draw or none; image by image."""
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


def test_average_is_the_explicit_sum():
    """decay^n start + sum_k (1 - decay) decay^(n-1-k) model_k after n updates; buffers are the last."""
    average, model = nn.BatchNorm1d(4).double(), nn.BatchNorm1d(4).double()
    start, history, decay = average.weight.detach().clone(), [], 0.9
    for k in range(5):
        model.weight.data = twins.random(4, seed=k)
        assert model.running_mean is not None
        model.running_mean.fill_(k)
        history.append(model.weight.detach().clone())
        update_average(average, model, decay)
    weighted = [(1 - decay) * decay ** (4 - k) * w for k, w in enumerate(history)]
    torch.testing.assert_close(average.weight.detach(), decay**5 * start + torch.stack(weighted).sum(0))
    assert average.running_mean is not None
    assert average.running_mean.tolist() == [4.0] * 4


@pytest.mark.parametrize("batch", [10, 64, 500])
def test_half_life_counts_images_whatever_the_batch(batch: int):
    """After a half-life of images in which the model stands still, half the distance is left."""
    options, distance, seen = EMAOptions(half_life=16_000, ramp_up=None), 1.0, 0
    while seen < 16_000:
        seen += batch
        distance *= options.decay(batch, seen)
    assert distance == pytest.approx(0.5)


def test_half_life_ramps_up_with_the_images_seen():
    """At n images the half-life is ramp_up n until that passes half_life."""
    options = EMAOptions(half_life=1000, ramp_up=0.05)
    assert options.decay(100, 10_000) == pytest.approx(0.5 ** (100 / 500))
    assert options.decay(100, 20_000) == options.decay(100, 10**9) == pytest.approx(0.5 ** (100 / 1000))
    assert options.decay(100, 100) < 1e-5


def test_no_half_life_keeps_no_average():
    assert EMAOptions(half_life=0).decay(64, 64) == 0


def test_learning_rate_warms_up_then_falls_by_half_lives():
    """From 0 in equal steps to the rate, which the update that reaches `warm_up` images has; then halves."""
    options = AdamOptions(learning_rate=0.5, warm_up=400, decay_from=1000, decay_half_life=200)
    rates = [options.rate(seen, 100) for seen in range(0, 1500, 100)]
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert rates[4:11] == pytest.approx([0.5] * 7)
    assert rates[12] == pytest.approx(0.25)
    assert rates[14] == pytest.approx(0.125)
    assert replace(options, warm_up=0).rate(0, 100) == 0.5
    assert replace(options, decay_from=None).rate(10**9, 100) == 0.5


def test_the_optimiser_is_adam_at_the_rate_it_was_given():
    """Two updates against Adam's own formula, at the rate of the schedule, beta1 = 0."""
    options = AdamOptions(learning_rate=0.5, beta2=0.9, warm_up=200)
    weight = nn.Parameter(torch.tensor([1.0]))
    optimiser, expected, second_moment = options.build([weight]), 1.0, 0.0
    for k, gradient in enumerate((2.0, -3.0)):
        rate = options.set_rate(optimiser, 100 * k, 100)
        weight.grad = torch.tensor([gradient])
        optimiser.step()
        second_moment = 0.9 * second_moment + 0.1 * gradient**2
        expected -= rate * gradient / (math.sqrt(second_moment / (1 - 0.9 ** (k + 1))) + 1e-8)
        assert rate == pytest.approx(0.25 * (k + 1))
        assert weight.item() == pytest.approx(expected, rel=1e-5)
