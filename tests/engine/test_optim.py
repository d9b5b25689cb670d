"""Moving average, schedule and optimiser against explicit sums and formulas in float64."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import twins
from vitgan.adversarial.step import clipped_norm
from vitgan.engine.optim import (
    AdamOptions,
    BurnInOptions,
    EMAOptions,
    power_decay,
    power_of,
    update_average,
)

pytestmark = pytest.mark.parity


def test_average_is_the_explicit_sum():
    """After n updates it is decay^n start + sum_k (1 - decay) decay^(n-1-k) model_k; buffers are the last."""
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
    """It rises evenly from 0 to the update that reaches `warm_up` images, which has it whole, then halves."""
    options = AdamOptions(learning_rate=0.5, warm_up=400, decay_from=1000, decay_half_life=200)
    rates = [options.rate(seen, 100) for seen in range(0, 1500, 100)]
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert rates[4:11] == pytest.approx([0.5] * 7)
    assert rates[12] == pytest.approx(0.25)
    assert rates[14] == pytest.approx(0.125)
    assert replace(options, warm_up=0).rate(0, 100) == 0.5
    assert replace(options, decay_from=None).rate(10**9, 100) == 0.5


def test_the_optimiser_is_adam_at_the_rate_it_was_given():
    """Two updates follow Adam's own formula, at the rate of the schedule, with beta1 = 0."""
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


def test_a_burn_in_goes_from_the_start_to_the_recipes_values_by_half_a_cosine():
    burn_in = BurnInOptions(images=1000, rate=4.0, gamma=10.0, beta2=0.9)
    for seen, left in ((0, 1.0), (250, 0.5 + 0.5**1.5), (500, 0.5), (1000, 0.0), (5000, 0.0)):
        assert burn_in.share(seen) == pytest.approx(left)
        assert burn_in.factor(4.0, seen) == pytest.approx(1 + 3 * left)
    optimiser = AdamOptions(beta2=0.99).build([nn.Parameter(torch.zeros(1))])
    burn_in.set_beta2(optimiser, 0.99, 500)
    assert optimiser.param_groups[0]["betas"] == pytest.approx((0.0, 0.945))
    burn_in.set_beta2(optimiser, 0.99, 1000)
    assert optimiser.param_groups[0]["betas"] == pytest.approx((0.0, 0.99))


def test_without_a_burn_in_every_value_is_the_recipes_own():
    optimiser = AdamOptions(beta2=0.99).build([nn.Parameter(torch.zeros(1))])
    BurnInOptions().set_beta2(optimiser, 0.99, 0)
    assert optimiser.param_groups[0]["betas"] == (0.0, 0.99)
    assert BurnInOptions().factor(7.0, 0) == 1.0


@pytest.mark.parametrize("length", [0.05, 0.1, 0.2, 0.28])
def test_a_power_average_has_weights_of_that_deviation(length: float):
    """The weights over a run, from the decays of its updates, have the mean and spread asked for."""
    power, steps, batch = power_of(length), 4000, 1
    weights = torch.zeros(steps, dtype=torch.float64)
    for step in range(steps):
        decay = power_decay(power, batch, (step + 1) * batch)
        weights *= decay
        weights[step] += 1 - decay
    assert weights.sum().item() == pytest.approx(1.0)
    at = (torch.arange(steps, dtype=torch.float64) + 1) / steps
    mean = (weights * at).sum()
    assert (weights * (at - mean) ** 2).sum().sqrt().item() == pytest.approx(length, rel=0.01)
    assert mean.item() == pytest.approx((power + 1) / (power + 2), rel=0.01)


def test_gradients_are_clipped_by_their_norm_over_all_weights() -> None:
    free = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(4))]
    for most, expected in ((None, 5.0), (10.0, 5.0), (0.5, 0.5)):
        optimiser = AdamOptions(clip_norm=most).build(free)
        free[0].grad, free[1].grad = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 4.0, 0.0, 0.0])
        assert clipped_norm(optimiser, free).item() == 5.0
        after = torch.cat([parameter.grad for parameter in free if parameter.grad is not None])
        assert after.norm().item() == pytest.approx(expected)
        assert after[0] / after[4] == pytest.approx(0.75)
