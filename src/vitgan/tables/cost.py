"""What a row costs: its parameters, and the arithmetic of its training step."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitgan.data import Batch, ImageSet
from vitgan.engine.gan import GANTask, Recipe
from vitgan.models import from_uint8


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one system."""

    parameters_generator: int
    parameters_discriminator: int
    flops_per_image: float
    """Of one training step, D update and G update and terms, over its batch; the mean over the intervals."""


def cost(recipe: Recipe, images: ImageSet, device: torch.device) -> Cost:
    """Count on a fresh state of `recipe`, which takes a few steps on the first images of the set."""
    task = GANTask(recipe, images, device)
    indices = torch.arange(recipe.training.batch) % len(images)
    real = from_uint8(images.get(indices.tolist()).to(device))
    labels = None if images.labels is None else images.labels[indices].to(device)
    players = task.state.players
    return Cost(
        parameters_generator=_parameters(players.generator),
        parameters_discriminator=_parameters(players.discriminator),
        flops_per_image=flops_per_image(task, Batch(real, labels)),
    )


def flops_per_image(task: GANTask, batch: Batch) -> float:
    """Of every matrix product and convolution, a multiplication and an addition being two.

    Elementwise work, norms and grid sampling are not counted, as is usual. Attention is counted as its plain
    products: the same number on every device, without what fused kernels compute twice. What is random in a
    step, style mixing for one, is counted as it falls.
    """
    return sum(count_step(task, batch, step) * share for step, share in _kinds(task)) / len(batch.images)


def count_step(task: GANTask, batch: Batch, step: int) -> int:
    """FLOPs of the step that `step` others precede; the task takes it."""
    with counting() as counter:
        task.step(batch, step * task.recipe.training.batch)
    return counter.get_total_flops()


class Nowhere:
    """In place of the counter's tracker of modules, whose hooks fail on some calls without gradients."""

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Within it FLOPs are counted, attention's as plain products."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = Nowhere()  # type: ignore[assignment]
    with counter, sdpa_kernel(SDPBackend.MATH):
        yield counter


def _kinds(task: GANTask) -> list[tuple[int, float]]:
    """The first step of every kind, and how often its kind comes.

    A step's kind is which intervals begin and which end with it: a term is due at one of the two.
    """
    game = task.game
    every = [game.generator_every]
    every += [getattr(term, "every", 1) for term in (*game.terms, *game.generator_terms)]
    period = math.lcm(*every)
    kinds = [tuple((step % n == 0, step % n == n - 1) for n in every) for step in range(period)]
    return [(kinds.index(kind), count / period) for kind, count in Counter(kinds).items()]


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
