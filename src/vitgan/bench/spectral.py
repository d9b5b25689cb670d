"""What the spectral norm adds to a step."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from vitgan.adversarial.step import frozen
from vitgan.bench.settings import Settings
from vitgan.bench.timing import Seconds, interleaved
from vitgan.data import ImageSet
from vitgan.engine.state import build_networks
from vitgan.models import Discriminator
from vitgan.nn import SpectralNorm

Weights = Callable[[], list[Tensor]]


@dataclass(frozen=True, kw_only=True)
class SpectralCost:
    """Of all weights of the discriminator, in fp32."""

    normalised: Seconds
    """Both updates' normalisation, the backward pass through the first, and the power iteration."""
    scaled: Seconds
    """The same with the equalised learning rate's constants alone."""
    milliseconds: float
    """The difference of the medians, a step; noise can take a small one below 0."""
    share: dict[str, float]
    """Of the step's median, by precision; empty where the step was not measured."""


def measure_spectral(
    settings: Settings, images: ImageSet, step_seconds: dict[str, float]
) -> SpectralCost | None:
    """Of the recipe's discriminator; None for one without spectral norm."""
    _, discriminator = build_networks(settings.recipe, images)
    norm = getattr(discriminator, "spectral", None)
    if not isinstance(norm, SpectralNorm):
        return None
    discriminator.to(settings.device)
    sizes = settings.sizes
    times = interleaved(
        {
            "normalised": _step(discriminator, norm, lambda: _normalised(norm), norm.advance),
            "scaled": _step(discriminator, norm, lambda: _scaled(norm), nullcontext),
        },
        rounds=sizes.rounds,
        device=settings.device,
        repeats=sizes.repeats,
    )
    extra = times["normalised"].median - times["scaled"].median
    share = {precision: max(extra, 0.0) / step for precision, step in step_seconds.items()}
    return SpectralCost(**times, milliseconds=1000 * extra, share=share)


def _step(
    discriminator: Discriminator, norm: SpectralNorm, weights: Weights, advance: Callable[[], object]
) -> Callable[[], None]:
    """Weights, their backward pass from given gradients, `advance`, and the weights of G's update."""
    gradients = [torch.randn_like(layer.weight) for group in norm.groups for layer in group]

    def step() -> None:
        discriminator.zero_grad(set_to_none=True)
        torch.autograd.backward(weights(), gradients)
        advance()
        with frozen(discriminator):
            weights()

    return step


def _normalised(norm: SpectralNorm) -> list[Tensor]:
    with norm.applied():
        return _scaled(norm)


def _scaled(norm: SpectralNorm) -> list[Tensor]:
    """The weights that the layers compute with."""
    return [layer.effective_weight() for group in norm.groups for layer in group]
