"""The numbers of steps: means, and the first that is not finite."""

import math

import pytest
import torch

from vitgan.engine.records import Diverged, StepMetrics


def step(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_the_mean_is_over_the_steps_that_have_the_number() -> None:
    """A lazy penalty, which only one step of several has, is averaged over the steps that have it."""
    metrics = StepMetrics()
    metrics.add(0, step(term_r1=6.0, loss_generator=1.0))
    metrics.add(4, step(loss_generator=2.0))
    metrics.add(8, step(loss_generator=6.0))
    assert metrics.read() == {"term_r1": 6.0, "loss_generator": 3.0}


def test_reading_starts_anew() -> None:
    metrics = StepMetrics()
    assert not metrics
    metrics.add(0, step(a=1.0))
    assert metrics
    metrics.read()
    assert not metrics
    assert metrics.read() == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named_with_its_image(value: float) -> None:
    metrics = StepMetrics()
    metrics.add(0, step(term_r1=1.0))
    metrics.add(128, step(term_r1=value, loss_generator=1.0))
    metrics.add(256, step(term_r1=1.0, loss_generator=value))
    with pytest.raises(Diverged, match=rf"^r1 became {value} at image 128$"):
        metrics.read()


def test_the_cause_is_named_before_its_effects() -> None:
    """The order is that in which the step computes, whatever order the dictionary has."""
    nan = math.nan
    metrics = StepMetrics()
    metrics.add(
        0, step(gradient_norm_discriminator=nan, loss_discriminator=nan, term_logistic=1.0, term_bcr_real=nan)
    )
    with pytest.raises(
        Diverged, match=r"^bcr_real became nan at image 0 \(gradient norms: discriminator nan\)$"
    ):
        metrics.read()
    metrics.add(4, step(gradient_norm_discriminator=nan, loss_generator=nan, loss_discriminator=1.0))
    with pytest.raises(Diverged, match=r"^gradient_norm_discriminator"):
        metrics.read()


def test_a_number_of_no_group_is_caught_too() -> None:
    metrics = StepMetrics()
    metrics.add(0, step(logit_gap=math.inf))
    with pytest.raises(Diverged, match="logit_gap"):
        metrics.read()


def test_what_explodes_is_caught_before_it_is_infinite() -> None:
    metrics = StepMetrics(largest=1e8)
    metrics.add(0, step(loss_generator=1e8))
    metrics.read()
    metrics.add(4, step(loss_generator=-3e8, gradient_norm_generator=2.5))
    with pytest.raises(Diverged) as caught:
        metrics.read()
    assert str(caught.value) == "loss_generator exploded to -3e+08 at image 4 (gradient norms: generator 2.5)"
    assert (caught.value.images, caught.value.term) == (4, "loss_generator")
    assert caught.value.values == {"loss_generator": -3e8, "gradient_norm_generator": 2.5}
