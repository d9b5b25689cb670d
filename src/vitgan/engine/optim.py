"""Optimiser, learning rate and the generator's moving average, as functions of images seen."""

import math
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
    clip_norm: float | None = option(None, above=0)
    """Gradients whose norm over all weights is larger are scaled down to it; None leaves them as they are."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
        """The optimiser; on a CUDA GPU its rate is a tensor there, which a graph of the step reads."""
        betas = (float(self.beta1), float(self.beta2))
        own = list(parameters)
        on_gpu = bool(own) and own[0].is_cuda
        rate = torch.tensor(self.learning_rate, device=own[0].device) if on_gpu else self.learning_rate
        adam = torch.optim.Adam(own, lr=rate, betas=betas, eps=self.epsilon, fused=True, capturable=on_gpu)
        for group in adam.param_groups:
            group["clip_norm"] = self.clip_norm
        return adam

    def rate(self, images_seen: int, batch: int) -> float:
        """The learning rate of the update on the images after `images_seen`."""
        rate = self.learning_rate
        if self.warm_up > 0:
            rate *= min(1.0, (images_seen + batch) / self.warm_up)
        if self.decay_from is not None and images_seen > self.decay_from:
            rate *= 0.5 ** ((images_seen - self.decay_from) / self.decay_half_life)
        return rate

    def set_rate(
        self, optimiser: torch.optim.Optimizer, images_seen: int, batch: int, factor: float = 1.0
    ) -> float:
        """Give the optimiser that rate times `factor`, and return it."""
        rate = factor * self.rate(images_seen, batch)
        for group in optimiser.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        return rate


@dataclass(frozen=True, kw_only=True)
class BurnInOptions:
    """Values at the start of a run that go to the recipe's own by a half cosine (arXiv 2501.05441)."""

    images: int = option(0, least=0)
    """Images of the way; 0 has the recipe's own values from the start."""
    rate: float = option(1.0, least=0)
    """Factor of both players' learning rates at the start."""
    gamma: float = option(1.0, least=0)
    """Factor of gamma at the start, of R1 and R2, exact and by differences."""
    beta2: float | None = option(None, least=0, below=1)
    """Adam's beta2 of both players at the start; None has the recipe's own."""

    def share(self, images_seen: int) -> float:
        """How much of the start is left in the update on the images after `images_seen`, from 1 to 0."""
        if images_seen >= self.images:
            return 0.0
        return 0.5 * (1 + math.cos(math.pi * images_seen / self.images))

    def factor(self, start: float, images_seen: int) -> float:
        """A factor that begins as `start` and becomes 1."""
        return 1 + (start - 1) * self.share(images_seen)

    def set_beta2(self, optimiser: torch.optim.Optimizer, own: float, images_seen: int) -> None:
        """Give the optimiser its beta2, whose value after the burn-in is `own`."""
        if self.beta2 is not None:
            beta2 = own + (self.beta2 - own) * self.share(images_seen)
            for group in optimiser.param_groups:
                group["betas"] = (group["betas"][0], beta2)


@dataclass(frozen=True, kw_only=True)
class EMAOptions:
    """The moving average of the generator's weights that samples come from, and others beside it."""

    half_life: int = option(20_000, least=0)
    """Images after which a weight's share has halved."""
    ramp_up: float | None = option(0.05, least=0)
    """At n images the half-life is at most this times n (arXiv 2006.06676); None for no ramp."""
    lengths: tuple[float, ...] = option((), above=0, below=0.288)
    """Averages kept beside it, to choose from afterwards: the standard deviation of each one's weights over
    the run, as a share of the run. 0.05 averages about the last tenth, 0.1 the last fifth."""

    def decay(self, batch: int, images_seen: int) -> float:
        """The average's own share in an update after `images_seen` images, the batch counted in."""
        half_life = float(self.half_life)
        if self.ramp_up is not None:
            half_life = min(half_life, images_seen * self.ramp_up)
        return 0.5 ** (batch / max(half_life, 1e-8))


def power_of(deviation: float) -> float:
    """The exponent of the power-function average whose weights have that relative standard deviation.

    deviation^2 = (p + 1) / ((p + 2)^2 (p + 3)) for the exponent p (arXiv 2312.02696, eq. 123), solved by
    bisection. `deviation` is below 12^-1/2, the value for p = 0.
    """
    low, high = 0.0, 1.0
    while _deviation_of(high) > deviation:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _deviation_of(middle) > deviation else (low, middle)
    return (low + high) / 2


def _deviation_of(power: float) -> float:
    return math.sqrt((power + 1) / ((power + 2) ** 2 * (power + 3)))


def power_decay(power: float, batch: int, images_seen: int) -> float:
    """A power-function average's own share in an update after `images_seen` images, the batch counted in.

    (1 - B / n)^(p + 1); the first update takes all of the model (arXiv 2312.02696, eq. 127).
    """
    return (1 - batch / images_seen) ** (power + 1)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay average + (1 - decay) model for every parameter; buffers are copied."""
    lerp_all_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for kept, new in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(new)
