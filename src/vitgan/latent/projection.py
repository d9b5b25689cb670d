"""The w whose image comes nearest to a picture.

Shapes: B candidates, C channels, R resolution.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vitgan.errors import UserError
from vitgan.models import Generator

CANDIDATES, KEPT = 1024, 4
LEARNING_RATE = 0.1  # in standard deviations of w
PULL = 1e-3  # weight of the squared distance from the mean of w, in its deviations
Progress = Callable[[int, int, float], bool]


@dataclass(frozen=True, kw_only=True)
class Projection:
    """What was found.

    Attributes
        w: (1, ...), of the nearest image of all steps.
        image: that image, float (1, C, R, R) in [-1, 1].
        losses: of the best candidate, step by step.
    """

    w: Tensor
    image: Tensor
    losses: list[float]

    @property
    def difference(self) -> float:
        """The `distance` of the image."""
        return min(self.losses)


def project(
    generator: Generator,
    picture: Tensor,
    *,
    steps: int = 300,
    label: Tensor | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Projection:
    """The last of `searching`; `progress(step, steps, loss)` is called at every step and ends it by False.

    Raises UserError as that does, and what `progress` raises.
    """
    found = None
    for found in searching(generator, picture, steps=steps, label=label, seed=seed):
        if progress is not None and not progress(len(found.losses), steps, found.losses[-1]):
            break
    assert found is not None, "a search has one step at least"
    return found


def searching(
    generator: Generator, picture: Tensor, *, steps: int, label: Tensor | None = None, seed: int = 0
) -> Iterator[Projection]:
    """From the best of 1,024 random w's on, by Adam; `picture` is uint8 (C, R, R), `label` (1,) or None.

    Gives what is found, step by step. The loss is `distance`, and a pull toward the mean of w that keeps it
    where images are. No network that would have to be downloaded takes part. `seed` draws the random w's.
    Raises UserError for another picture, or less than one step.
    """
    target = _target(generator, picture, steps)
    start, mean, deviation = _start(generator, target, label, seed)
    leaf = ((start - mean) / deviation).requires_grad_()
    optimiser = torch.optim.Adam([leaf], LEARNING_RATE, betas=(0.9, 0.999))
    losses: list[float] = []
    found: Projection | None = None
    for step in range(steps):
        w = mean + deviation * leaf
        images = generator.synthesise(w)
        distances = distance(images, target)
        nearest = slice(best := int(distances.argmin()), best + 1)
        losses.append(distances[best].item())
        now = Projection(w=w[nearest].detach(), image=images[nearest].detach(), losses=list(losses))
        found = now if found is None or losses[-1] < found.difference else replace(found, losses=now.losses)
        yield found
        pull = PULL * leaf.square().flatten(1).mean(1)
        (leaf.grad,) = torch.autograd.grad((distances + pull).sum(), leaf)
        for group in optimiser.param_groups:
            group["lr"] = _rate(step, steps)
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


def _target(generator: Generator, picture: Tensor, steps: int) -> Tensor:
    """The picture as a generator gives it: (1, C, R, R) in [-1, 1]."""
    shape = (generator.channels, generator.resolution, generator.resolution)
    if picture.dtype != torch.uint8 or picture.shape != shape:
        raise UserError(
            f"The picture is {picture.dtype} {tuple(picture.shape)}: give torch.uint8 {shape}, "
            "as vitgan.latent.read_picture does."
        )
    if steps < 1:
        raise UserError(f"A search has one step at least, not {steps}.")
    device = next(generator.parameters()).device
    return (picture.to(device).float() / 127.5 - 1).unsqueeze(0)


@torch.no_grad()
def _start(
    generator: Generator, target: Tensor, label: Tensor | None, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best random w's (B, ...), and mean and standard deviation of w."""
    z = generator.latents(CANDIDATES, seed=seed).to(target.device)
    labels = None if label is None else label.expand(CANDIDATES)
    w = generator.mapping(z, labels).float()
    losses = torch.cat([distance(generator.synthesise(part), target) for part in w.split(128)])
    order = losses.argsort()[:KEPT]
    return w[order], w.mean(0, keepdim=True), w.std(0, keepdim=True) + 1e-6


def _rate(step: int, steps: int) -> float:
    """Up over the first twentieth, then down as a half cosine."""
    return LEARNING_RATE * min(1, 20 * (step + 1) / steps) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
