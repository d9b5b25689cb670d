"""Directions of w in which images change.

Shapes: N samples, K directions, F numbers of w.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vitgan.errors import UserError
from vitgan.models import Generator

SAMPLES = 4096


@dataclass(frozen=True, kw_only=True)
class Direction:
    """A direction of w.

    Attributes
        vector: of length 1, of the shape of one w.
        deviation: standard deviation of w along it.
        share: of the variance of w (pca), or of the squared response to it (factorised).
    """

    name: str
    vector: Tensor
    deviation: float
    share: float


@torch.no_grad()
def principal_components(generator: Generator, count: int = 10) -> list[Direction]:
    """The directions in which w varies most, over 4,096 latents of seed 0 (GANSpace, arXiv 2004.02546)."""
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
    """The directions to which the modulations respond most: eigenvectors of A^T A (SeFa, arXiv 2007.06600).

    A has the weights of all affine maps of w. Raises UserError where w enters by none.
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
    """w (B, ...) moved along directions, by name, by so many of their standard deviations."""
    for name, amount in amounts.items():
        direction = directions[name]
        w = w + amount * direction.deviation * direction.vector.to(w)
    return w


def _samples(generator: Generator) -> Tensor:
    device = next(generator.parameters()).device
    z = generator.latents(SAMPLES, seed=0).to(device)
    labels = torch.arange(SAMPLES, device=device) % generator.classes if generator.classes else None
    return generator.mapping(z, labels).float()


def _distinct(w: Tensor) -> tuple[Tensor, int]:
    """What is not repeated of w: one layer's style and their number where all are alike, else all numbers.

    StyleGAN2's w is the same in every layer, and one layer's decomposition says all in far less time.
    """
    alike = w.ndim == 3 and bool((w == w[:, :1]).all())
    return (w[:, 0], w.shape[1]) if alike else (w.flatten(1), 1)  # (N, F)


def _signed(vector: Tensor) -> Tensor:
    """The vector or its opposite, whichever has its largest number positive: SVD leaves that open."""
    return vector * vector[vector.abs().argmax()].sign()
