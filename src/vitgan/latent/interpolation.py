"""From one latent to the next.

Shapes: K seeds, N frames, C channels, R resolution.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vitgan.errors import UserError
from vitgan.models import Generator, to_uint8

BATCH = 64


def latent_of(generator: Generator, seed: int, label: int | None = None) -> Tensor:
    """w (1, ...) of a seed, the one of the first image of `generator.sample(1, seed=seed)`.

    A class-conditional generator takes a label. Raises UserError where it lacks one, or has no such class.
    """
    device = next(generator.parameters()).device
    with torch.no_grad():
        return generator.mapping(generator.latents(1, seed=seed).to(device), label_of(generator, label))


def label_of(generator: Generator, label: int | None) -> Tensor | None:
    """The label as a tensor (1,), or None. Raises UserError where it is not one of the generator's."""
    if not generator.classes:
        if label is not None:
            raise UserError("This generator knows no classes: leave --class out.")
        return None
    if label is None or not 0 <= label < generator.classes:
        raise UserError(f"This generator draws {generator.classes} classes: give --class, from 0 on.")
    return torch.tensor([label], device=next(generator.parameters()).device)


def walk(generator: Generator, seeds: Sequence[int], frames: int, *, label: int | None = None) -> Tensor:
    """`frames` images from the first seed's to the last's, past the others, uint8 (N, C, R, R).

    Raises UserError for fewer than two seeds or frames.
    """
    if len(seeds) < 2 or frames < 2:
        raise UserError("A walk has two seeds and two frames at least: give more with --seeds and --frames.")
    return between(generator, torch.cat([latent_of(generator, seed, label) for seed in seeds]), frames)


@torch.no_grad()
def between(generator: Generator, ends: Tensor, frames: int) -> Tensor:
    """`frames` >= 2 images from the first of K >= 2 latents w (K, ...) to the last, uint8 (N, C, R, R).

    Straight in w, at constant speed from each to the next: w was learned so that straight lines mean
    something, which those of z, whose length is normed away, do not.
    """
    images = []
    for place in torch.linspace(0, len(ends) - 1, frames).split(BATCH):
        first = place.long().clamp(max=len(ends) - 2)
        share = (place - first).to(ends).view(-1, *(1,) * (ends.ndim - 1))
        images.append(to_uint8(generator.synthesise(torch.lerp(ends[first], ends[first + 1], share))).cpu())
    return torch.cat(images)
