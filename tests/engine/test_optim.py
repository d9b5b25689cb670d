"""Moving average, schedule and optimiser against explicit sums and formulas in float64."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import twins
from vitgan.engine.optim import AdamOptions, EMAOptions, update_average

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
