"""What is inspected: a run's networks, as they are and as they began, and real and generated images.

Shapes: N images, C channels, R resolution.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitgan.data import ImageSet
from vitgan.engine.checkpoint import number_as_described, recipe_of, trained_on
from vitgan.engine.gan import Recipe, build_networks
from vitgan.engine.run_folder import build_discriminator, build_generator
from vitgan.engine.run_folder import read_run as read_checkpoint
from vitgan.errors import UserError
from vitgan.models import Generator, from_uint8
from vitgan.models.base import within
from vitgan.terminal import counted

BATCH = 16  # images of one pass


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is inspected: the networks, in eval mode and frozen, and images, all on one device."""

    recipe: Recipe
    images_seen: int
    generator: Generator
    """The generator with the averaged weights."""
    discriminator: nn.Module
    generator_at_start: nn.Module
    discriminator_at_start: nn.Module
    real: Tensor
    """Real images (N, C, R, R) in [-1, 1]."""
    fake: Tensor
    """Generated images (N, C, R, R) in [-1, 1], of the labels of `real` where there are any."""
    labels: Tensor | None
    """Classes of the images, int64 (N,); None where the run has none."""
    latents: Tensor
    """The latents that `fake` was drawn from, (N, Z)."""


def load_subject(
    run: Path, *, data: str | None, count: int, seed: int, device: torch.device | str
) -> Subject:
    """The subject of a run folder or a checkpoint's folder, with `count` images a kind, drawn by the seed.

    data: another source of real images than the run's. Raises UserError where there is no whole checkpoint
    of both networks, its weights are not finite, or the source lacks images.
    """
    tensors, description = read_checkpoint(run)
    if not any(name.startswith("discriminator.") for name in tensors):
        raise UserError(
            f"{run} is a generator alone, exported without the discriminator: pass the folder of its run."
        )
    recipe = recipe_of(description)
    assert isinstance(recipe, Recipe), "only a game has a discriminator"
    images = _open(recipe, data or trained_on(description, recipe.data.source), count, description)
    _check_group(recipe, count)
    generator = build_generator(tensors, description, run).to(device)
    discriminator = build_discriminator(tensors, description, run)
    assert discriminator is not None
    at_start = within(tensors, lambda: build_networks(recipe, images), run)
    for network in at_start:
        network.eval().requires_grad_(False).to(device)
    real, labels = _real(images, count, seed)
    latents = generator.latents(count, seed=seed).to(device)
    labels = None if labels is None else labels.to(device)
    return Subject(
        recipe=recipe,
        images_seen=description["images"],
        real=real.to(device),
        fake=_fakes(generator, latents, labels),
        labels=labels,
        latents=latents,
        generator=generator,
        discriminator=discriminator.to(device),
        generator_at_start=at_start[0],
        discriminator_at_start=at_start[1],
    )


def parts(count: int) -> list[slice]:
    """Slices of at most BATCH that cover `count`."""
    return [slice(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


def pick(labels: Tensor | None, part: slice) -> Tensor | None:
    """The labels of a part of the images; None where there are no labels."""
    return None if labels is None else labels[part]


def _open(recipe: Recipe, data: str, count: int, description: dict[str, Any]) -> ImageSet:
    # Read as needed: decoding a whole set for a few images would take minutes.
    options = replace(recipe.data, source=data, memory_mib=0)
    images, classes = options.build(), description["classes"]
    same = images.fingerprint == description["data"]["fingerprint"]
    if same or len(description.get("class_names", images.class_names)) == len(images.class_names):
        number_as_described(description, images)
    if len(images) < count:
        raise UserError(
            f"{images.name} has {counted(len(images), 'image')}, fewer than --count {count}: "
            f"set --count {len(images)}."
        )
    if len(images.classes) != classes:
        raise UserError(
            f"{images.name} has {len(images.classes)} classes, the run {classes}: pass the run's own data."
        )
    return images


def _check_group(recipe: Recipe, count: int) -> None:
    group = getattr(recipe.discriminator, "group", 1)
    if count % group:
        raise UserError(
            f"--count {count} is not a multiple of {group}, the images that this discriminator compares with "
            f"each other: set --count {max(count - count % group, group)}."
        )


def _real(images: ImageSet, count: int, seed: int) -> tuple[Tensor, Tensor | None]:
    chosen = np.random.default_rng(seed).choice(len(images), count, replace=False)
    labels = None if images.labels is None else images.labels[torch.from_numpy(chosen)]
    return from_uint8(images.get(chosen.tolist())), labels


@torch.no_grad()
def _fakes(generator: nn.Module, latents: Tensor, labels: Tensor | None) -> Tensor:
    return torch.cat([generator(latents[part], pick(labels, part)).float() for part in parts(len(latents))])
