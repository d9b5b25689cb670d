"""Optimiser, learning rate and the generator's moving average, as functions of images seen."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from vitgan.compat import lerp_all_
from vitgan.config import option


@dataclass(frozen=True, kw_only=True)
class AdamOptions:
    """Adam (arXiv 1412.6980) with the paper's values."""

    learning_rate: float = option(0.002, least=0)
    beta1: float = option(0.0, least=0, below=1)
    beta2: float = option(0.99, least=0, below=1)
    epsilon: float = option(1e-8, least=0)
    warm_up: int = option(0, least=0)
    """Images over which the learning rate rises linearly from 0."""
    decay_from: int | None = option(None, least=0)
    """Images from which the learning rate falls; None keeps it constant."""
    decay_half_life: int = option(100_000, least=1)
    """Images in which a falling learning rate halves."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
        """The optimiser; on a CUDA GPU its rate is a tensor there, which a graph of the step reads."""
        betas = (float(self.beta1), float(self.beta2))
        own = list(parameters)
        on_gpu = bool(own) and own[0].is_cuda
        rate = torch.tensor(self.learning_rate, device=own[0].device) if on_gpu else self.learning_rate
        return torch.optim.Adam(own, lr=rate, betas=betas, eps=self.epsilon, fused=True, capturable=on_gpu)

    def rate(self, images_seen: int, batch: int) -> float:
        """The learning rate of the update on the images after `images_seen`."""
        rate = self.learning_rate
        if self.warm_up > 0:
            rate *= min(1.0, (images_seen + batch) / self.warm_up)
        if self.decay_from is not None and images_seen > self.decay_from:
            rate *= 0.5 ** ((images_seen - self.decay_from) / self.decay_half_life)
        return rate

    def set_rate(self, optimiser: torch.optim.Optimizer, images_seen: int, batch: int) -> float:
        """Give the optimiser that rate, and return it."""
        rate = self.rate(images_seen, batch)
        for group in optimiser.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        return rate


@dataclass(frozen=True, kw_only=True)
class EMAOptions:
    """Half-life of the average, in images."""

    half_life: int = option(20_000, least=0)
    """Images after which a weight's share has halved."""
    ramp_up: float | None = option(0.05, least=0)
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
    lerp_all_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for kept, new in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(new)
