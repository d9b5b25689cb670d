"""Directions in the space of w along which images change, found without training.

Shapes: B batch, N samples or images, F numbers of one w, C channels, R resolution.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vitgan.engine.grid import grid, save_png
from vitgan.errors import UserError
from vitgan.io import replacing
from vitgan.latent.interpolation import latent_of
from vitgan.models import Generator, to_uint8

SAMPLES = 4096  # latents of seed 0 from which deviations of w are measured
COLUMNS = 9  # images of a direction, side by side


@dataclass(frozen=True, kw_only=True)
class Direction:
    """A direction in the space of w.

    Attributes
        name: "pca 1" or "sefa 1" and so on, the first of its kind being the strongest.
        vector: unit vector, of the shape of one w.
        deviation: standard deviation of w along the vector.
        share: part of the variance of w (pca) or of the squared singular values of A (sefa) that it accounts
            for, from 0 to 1.
    """

    name: str
    vector: Tensor
    deviation: float
    share: float


@torch.no_grad()
def principal_components(generator: Generator, count: int = 10) -> list[Direction]:
    """The `count` principal components of w over 4,096 latents of seed 0 (GANSpace, arXiv 2004.02546)."""
    w = _samples(generator)
    flat, repeats = _distinct(w)
    _, sigma, vectors = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    deviations = sigma * (repeats / (len(w) - 1)) ** 0.5
    shares = sigma.square() / sigma.square().sum()
    return [
        Direction(
            name=f"pca {k + 1}",
            vector=_signed(vectors[k]).repeat(repeats).view(w.shape[1:]) / repeats**0.5,
            deviation=deviations[k].item(),
            share=shares[k].item(),
        )
        for k in range(min(count, len(vectors)))
    ]


@torch.no_grad()
def factorised(generator: Generator, count: int = 10) -> list[Direction]:
    """The `count` directions to which the modulations respond most (SeFa, arXiv 2007.06600).

    They are the leading eigenvectors of A^T A, where A holds the weights of all affine maps of w. Raises
    UserError where the generator has no such map.
    """
    weights = generator.modulations()
    if not weights:
        raise UserError("w enters this generator by no modulation: only its principal components are there.")
    _, sigma, vectors = torch.linalg.svd(torch.cat(weights).float(), full_matrices=False)
    w = _samples(generator)
    shape, width = w.shape[1:], vectors.shape[1]
    repeats = shape.numel() // width  # a style for each layer: all of them move
    shares = sigma.square() / sigma.square().sum()
    found = []
    for k in range(min(count, len(vectors))):
        vector = _signed(vectors[k]).repeat(repeats) / repeats**0.5
        along = (w - w.mean(0)).flatten(1) @ vector
        found.append(
            Direction(
                name=f"sefa {k + 1}",
                vector=vector.view(shape),
                deviation=along.std().item(),
                share=shares[k].item(),
            )
        )
    return found


@torch.no_grad()
def edited(w: Tensor, amounts: Mapping[str, float], directions: Mapping[str, Direction]) -> Tensor:
    """The latents w (B, ...), moved along directions.

    `amounts` says how far for each name in `directions`, in standard deviations of w along that direction.
    """
    for name, amount in amounts.items():
        direction = directions[name]
        w = w + amount * direction.deviation * direction.vector.to(w)
    return w


def write_directions(
    generator: Generator, out: Path, *, count: int, seed: int, reach: float, label: int | str | None = None
) -> list[Path]:
    """Find `count` directions of each kind and write them to the folder `out`; returns the files written.

    `pca.png`, and `sefa.png` where the generator has modulations, show a row of images for each direction:
    that of `seed` (and of the class `label`), moved from -reach to +reach standard deviations.
    `directions.json` holds the vectors. Raises UserError where `out` is a file or the label is wrong.
    """
    if out.is_file():
        raise UserError(f"{out} is a file: give a folder with --out.")
    kinds = {"pca": principal_components(generator, count)}
    if generator.modulations():
        kinds["sefa"] = factorised(generator, count)
    w = latent_of(generator, seed, label)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, directions in kinds.items():
        images = torch.cat([row(generator, w, direction, reach) for direction in directions])
        save_png(out / f"{kind}.png", grid(images, columns=COLUMNS))
        written.append(out / f"{kind}.png")
    found = [_facts(direction) for directions in kinds.values() for direction in directions]
    with replacing(out / "directions.json") as temporary:
        temporary.write_text(json.dumps({"seed": seed, "directions": found}, indent=1) + "\n", "utf-8")
    return [*written, out / "directions.json"]


@torch.no_grad()
def row(generator: Generator, w: Tensor, direction: Direction, reach: float) -> Tensor:
    """Images of w (1, ...), moved from -reach to +reach standard deviations, uint8 (N, C, R, R); N is 9."""
    amounts = torch.linspace(-reach, reach, COLUMNS).tolist()
    moved = [edited(w, {direction.name: amount}, {direction.name: direction}) for amount in amounts]
    return to_uint8(generator.synthesise(torch.cat(moved))).cpu()


def _facts(direction: Direction) -> dict[str, object]:
    """A direction as JSON, its vector flattened."""
    return {
        "name": direction.name,
        "deviation": direction.deviation,
        "share": direction.share,
        "vector": direction.vector.flatten().tolist(),
    }


def _samples(generator: Generator) -> Tensor:
    """The w (N, ...) of the latents of seed 0, over all classes that were trained in turn."""
    device = next(generator.parameters()).device
    z = generator.latents(SAMPLES, seed=0).to(device)
    labels = None
    if generator.classes:
        own = generator.trained_classes()
        labels = own[torch.arange(SAMPLES) % len(own)].to(device)
    return generator.mapping(z, labels).float()


def _distinct(w: Tensor) -> tuple[Tensor, int]:
    """The samples w as (N, F) without repetition, and how often they are repeated in w.

    Where w (N, layers, F) is the same in every layer, as StyleGAN2's is, one layer is given: its principal
    components are those of the whole, in far less time. Any other w is flattened and repeated once.
    """
    alike = w.ndim == 3 and bool((w == w[:, :1]).all())
    return (w[:, 0], w.shape[1]) if alike else (w.flatten(1), 1)  # (N, F)


def _signed(vector: Tensor) -> Tensor:
    """The vector or its opposite, whichever has its largest number positive: SVD leaves the sign open."""
    return vector * vector[vector.abs().argmax()].sign()
