"""Gradient penalties and drift against exact Jacobians and finite differences in float64."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import twins
from vitgan.adversarial import (
    R1,
    R2,
    ApproximateR1,
    ApproximateR2,
    Centring,
    Drift,
    Game,
    GradientPenalty,
    Logistic,
    NoAugment,
    Pass,
)
from vitgan.adversarial.step import discriminator_pass
from vitgan.models import Judgement, VisionTransformer, VisionTransformerOptions

pytestmark = pytest.mark.parity

OPTIONS = VisionTransformerOptions(patch=2, depth=2, width=8, heads=2, perceptron_width=12)


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


def seen_by(model: VisionTransformer, images: Tensor, step: int = 0, fake: Tensor | None = None) -> Pass:
    rng, none = torch.Generator().manual_seed(7), Judgement(torch.zeros(len(images), 1))
    return Pass(model, step, rng, images, images if fake is None else fake, None, none, none, None, None)


def test_r1_is_the_squared_jacobian():
    """R1 is gamma / 2 E |d D(x) / d x|^2, one image at a time in float64, times the interval."""
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


def test_the_gradient_of_r1_is_that_of_finite_differences():
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
    """It is weight E (|d D(x) / d x| / centre - 1)^2 at x = real + t (fake - real), image by image."""
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


def test_r2_is_the_squared_jacobian_at_the_fakes():
    """R2 is R1's formula at the fake images, one image at a time in float64, times the interval."""
    model, fake = discriminator(), twins.random(3, 3, 4, 4, seed=5)
    exact = copy.deepcopy(model).double()
    squares = []
    for image in fake:
        jacobian = torch.autograd.functional.jacobian(exact, image[None])
        assert isinstance(jacobian, Tensor)
        squares.append((jacobian.double() ** 2).sum())
    seen = seen_by(model, twins.random(3, 3, 4, 4).float(), fake=fake.float())
    (found,) = R2(gamma=0.7, every=4).losses(seen).values()
    torch.testing.assert_close(
        found.detach().double(), torch.as_tensor(4 * 0.7 / 2 * sum(squares) / 3), rtol=1e-4, atol=0
    )


class Linear(nn.Module):
    """D(x) = <slope, x>, whose squared gradient is |slope|^2 everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(twins.random(3, 4, 4).float())

    def judge(self, images: Tensor, labels: Tensor | None = None) -> Judgement:  # noqa: ARG002
        return Judgement((images * self.slope).flatten(1).sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("term", "name"), [(ApproximateR1, "approximate_r1"), (ApproximateR2, "approximate_r2")]
)
def test_the_penalty_by_differences_is_that_of_each_image_and_its_noise(term: type, name: str):
    """gamma / 2 of the mean of <slope, n>^2 over the perturbed share, by the noise that the pass drew."""
    model: Any = Linear()
    images = twins.random(16, 3, 4, 4).float()
    game = Game(loss=Logistic(), augment=NoAugment(), terms=(term(gamma=0.6, sigma=0.5, share=0.5),))
    rng = torch.Generator().manual_seed(3)
    _, seen = discriminator_pass(model, game, images, None, rng, 0)
    noise = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(3)).double()
    expected = 0.3 * (noise * model.slope.double()).flatten(1).sum(1).square().mean()
    (found,) = game.terms[0].losses(seen).values()
    assert list(game.terms[0].losses(seen)) == [name]
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_penalty_by_differences_tends_to_the_exact_one():
    """Over many draws of small noise its mean is R1's, and so is R2's at the fakes."""
    model, image = discriminator(), twins.random(1, 3, 4, 4).float()
    many = image.expand(8192, -1, -1, -1)
    terms = (ApproximateR1(gamma=1.0, sigma=0.01, share=1.0), ApproximateR2(gamma=1.0, sigma=0.01, share=1.0))
    game = Game(loss=Logistic(), augment=NoAugment(), terms=terms)
    with torch.no_grad():
        passes = discriminator_pass(
            model, game, many.repeat(2, 1, 1, 1), None, torch.Generator().manual_seed(0), 0
        )
    (exact,) = R1(gamma=1.0, every=1).losses(seen_by(model, image)).values()
    for term, seen in zip(terms, passes[1:], strict=True):
        (found,) = term.losses(seen).values()
        assert found.item() == pytest.approx(
            exact.item(), rel=0.05
        )  # 5% is 3 standard errors of a chi square


@pytest.mark.parametrize("strength", [0.25, torch.tensor(3.0)])
def test_a_schedule_scales_r1_and_r2_exact_and_by_differences(strength: float | Tensor):
    model, images = discriminator(), twins.random(4, 3, 4, 4).float()
    terms = (
        R1(gamma=0.5, every=1),
        R2(gamma=0.5, every=1),
        ApproximateR1(gamma=0.5),
        ApproximateR2(gamma=0.5),
    )
    values = []
    for factor in (1.0, strength):
        game = Game(loss=Logistic(), augment=NoAugment(), terms=terms, strength=factor)
        passes = discriminator_pass(model, game, images, None, torch.Generator().manual_seed(1), 0)
        values.append([next(iter(t.losses(s).values())) for t, s in zip(terms, passes[1:], strict=True)])
    for plain, scaled in zip(*values, strict=True):
        torch.testing.assert_close(scaled, plain * strength)


def test_centring_is_the_square_of_the_mean_logit():
    real, fake = Judgement(torch.tensor([[1.0], [4.0]])), Judgement(torch.tensor([[-2.0], [3.0]]))
    images = torch.zeros(2, 3, 4, 4)
    seen = Pass(discriminator(), 0, torch.Generator(), images, images, None, real, fake, None, None)
    assert Centring(weight=0.5).losses(seen)["centring"].item() == pytest.approx(0.5 * 1.5**2)
