"""The w whose image comes nearest to a picture.

Shapes: B candidates, C channels, R resolution.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vitgan.models import Generator

CANDIDATES, KEPT = 1024, 4
LEARNING_RATE = 0.1  # in standard deviations of w
PULL = 1e-3  # weight of the squared distance from the mean of w, in its deviations
Progress = Callable[[int, int, float], bool]


@dataclass(frozen=True, kw_only=True)
class Projection:
    """What was found.

    Attributes
        w: (1, ...).
        image: float (1, C, R, R) in [-1, 1].
        losses: of the best candidate, step by step.
    """

    w: Tensor
    image: Tensor
    losses: list[float]


def project(
    generator: Generator,
    picture: Tensor,
    *,
    steps: int = 300,
    label: Tensor | None = None,
    progress: Progress | None = None,
) -> Projection:
    """The last of `searching`; `progress(step, steps, loss)` is called at every step and ends it by False."""
    found = None
    for found in searching(generator, picture, steps=steps, label=label):
        if progress is not None and not progress(len(found.losses), steps, found.losses[-1]):
            break
    assert found is not None, "a search has one step at least"
    return found


def searching(
    generator: Generator, picture: Tensor, *, steps: int, label: Tensor | None = None
) -> Iterator[Projection]:
    """From the best of 1,024 random w's on, by Adam; `picture` is uint8 (C, R, R), `label` (1,) or None.

    Gives what is found, step by step. The loss is `distance`, and a pull toward the mean of w that keeps it
    where images are. No network that would have to be downloaded takes part.
    """
    target = (picture.to(next(generator.parameters()).device).float() / 127.5 - 1).unsqueeze(0)
    start, mean, deviation = _start(generator, target, label)
    leaf = ((start - mean) / deviation).requires_grad_()
    optimiser = torch.optim.Adam([leaf], LEARNING_RATE, betas=(0.9, 0.999))
    losses: list[float] = []
    for step in range(steps):
        w = mean + deviation * leaf
        images = generator.synthesise(w)
        distances = distance(images, target)
        nearest = slice(best := int(distances.argmin()), best + 1)
        losses.append(distances[best].item())
        yield Projection(w=w[nearest].detach(), image=images[nearest].detach(), losses=list(losses))
        pull = PULL * leaf.square().flatten(1).mean(1)
        (leaf.grad,) = torch.autograd.grad((distances + pull).sum(), leaf)
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1, 20 * (step + 1) / steps) * _cosine(step / steps)
        optimiser.step()


def distance(images: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of (B, C, R, R) from (1, C, R, R), averaged over scales of half the size: (B,).

    Coarse scales tell where to go while the fine ones do not match yet.
    """
    losses = []
    while True:
        losses.append((images - target).square().flatten(1).mean(1))
        if images.shape[-1] < 4:
            return torch.stack(losses).mean(0)
        images, target = F.avg_pool2d(images, 2), F.avg_pool2d(target, 2)


@torch.no_grad()
def _start(generator: Generator, target: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The best random w's (B, ...), and mean and standard deviation of w."""
    z = generator.latents(CANDIDATES, seed=0).to(target.device)
    labels = None if label is None else label.expand(CANDIDATES)
    w = generator.mapping(z, labels).float()
    losses = torch.cat([distance(generator.synthesise(part), target) for part in w.split(128)])
    order = losses.argsort()[:KEPT]
    return w[order], w.mean(0, keepdim=True), w.std(0, keepdim=True) + 1e-6


def _cosine(share: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * share)
