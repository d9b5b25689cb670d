"""Sampling: batches, precision, truncation."""

from dataclasses import replace

import torch

import vitgan
from vitgan.models import ViTGANGenerator


def generator() -> ViTGANGenerator:
    torch.manual_seed(0)
    options = replace(vitgan.recipes.get("digits").generator, depth=1, width=16, latent_dim=8)
    return options.build(resolution=8, channels=1).eval()


def test_bfloat16_draws_nearly_the_same_images():
    model = generator()
    exact, rounded = model.sample(20, seed=3), model.sample(20, seed=3, dtype=torch.bfloat16)
    difference = (exact.float() - rounded.float()).abs()
    assert difference.max() > 0
    assert difference.mean() < 4  # of 255


def test_truncation_pulls_every_latent_to_the_mean():
    model = generator()
    still = model.sample(5, truncation=0.0)
    assert still.float().std(0).max() == 0
    spread = [model.sample(40, seed=1, truncation=t).float().std(0).mean() for t in (0.3, 0.7, 1.0)]
    assert spread == sorted(spread)
