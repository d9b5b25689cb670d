"""How fast the generator makes images.

Shapes: B batch, C channels, R resolution, Z latent size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vitgan.bench.settings import Settings
from vitgan.bench.timing import interleaved
from vitgan.data import ImageSet
from vitgan.engine.precision import Precision, activation_dtype
from vitgan.engine.state import build_networks
from vitgan.models import Generator, to_uint8


@dataclass(frozen=True, kw_only=True)
class SamplingCost:
    """Of one precision and batch."""

    precision: Precision
    batch: int
    images_per_second: float
    """From latents z (B, Z) on the device to uint8 (B, C, R, R) there, the batch over the median."""


def measure_sampling(settings: Settings, images: ImageSet) -> list[SamplingCost]:
    """Of the recipe's generator in eval mode, precisions and batches in turn."""
    generator, _ = build_networks(settings.recipe, images)
    generator = generator.to(settings.device).eval()
    sizes: list[tuple[Precision, int]] = [
        (precision, batch) for batch in settings.sizes.sampling for precision in settings.precisions
    ]
    calls = {f"{precision} {batch}": _sample(generator, precision, batch) for precision, batch in sizes}
    times = interleaved(calls, rounds=settings.sizes.rounds, device=settings.device)
    return [
        SamplingCost(
            precision=precision,
            batch=batch,
            images_per_second=batch / times[f"{precision} {batch}"].median,
        )
        for precision, batch in sizes
    ]


def _sample(generator: Generator, precision: Precision, batch: int) -> Callable[[], object]:
    device = next(generator.parameters()).device
    z = generator.latents(batch, seed=0).to(device, activation_dtype(precision, device))
    labels = torch.arange(batch, device=device) % generator.classes if generator.classes else None
    return torch.no_grad()(lambda: to_uint8(generator(z, labels)))
