"""The moving average of the generator that samples are drawn from."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class EMAOptions:
    """Half-life of the average, in images."""

    half_life: int = 20_000
    """Images after which a weight's share has halved."""
    ramp_up: float | None = 0.05
    """At n images the half-life is at most this times n (arXiv 2006.06676); None for no ramp."""

    def decay(self, batch: int, images_seen: int) -> float:
        """The average's own share in an update after `images_seen` images, the batch counted in."""
        half_life = float(self.half_life)
        if self.ramp_up is not None:
            half_life = min(half_life, images_seen * self.ramp_up)
        return 0.5 ** (batch / max(half_life, 1e-8))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay average + (1 - decay) model for every parameter; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)  # type: ignore[call-overload]
    for kept, new in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(new)
