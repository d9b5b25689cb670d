"""Sampling: batches, precision, truncation, resolution."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vitgan
from vitgan.cli import main
from vitgan.errors import UserError
from vitgan.models import Generator, ViTGANGenerator
from vitgan.nn.implicit import Combine


def generator(**changes: Any) -> ViTGANGenerator:
    torch.manual_seed(0)
    options = vitgan.recipes.get("digits").generator
    options = replace(options, depth=1, width=16, latent_dim=8, **changes)
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


@pytest.mark.parametrize("combine", ["modulation", "concatenation", "sum"])
def test_a_finer_grid_goes_through_the_same_pixels(combine: Combine):
    """Three times finer, the middle of every three by three is the pixel that it was."""
    model = generator(implicit_combine=combine)
    plain, fine = model.sample(4, seed=2), model.sample(4, seed=2, scale=3)
    assert fine.shape == (4, 1, 24, 24)
    assert (fine[:, :, 1::3, 1::3].int() - plain.int()).abs().max() <= 1
    assert torch.equal(model.sample(4, seed=2, scale=3, batch=1), fine)
    between = fine.float()[:, :, 2:-1:3, 1::3]  # between two pixels of a column
    assert (between - (plain[:, :, :-1].float() + plain[:, :, 1:]) / 2).abs().max() > 0


def test_where_the_patches_are_smooth_a_finer_image_averages_down_to_the_sample():
    smooth = generator(implicit_bandwidth=0.02, omega_0=1.0)
    rough = generator(implicit_bandwidth=2.0)
    distances = []
    for model in (smooth, rough):
        plain, fine = model.sample(16, seed=2), model.sample(16, seed=2, scale=2)
        distances.append((F.avg_pool2d(fine.float(), 2) - plain.float()).abs().mean().item())
    assert distances[0] < 1 < 5 * distances[0] + 1 < distances[1]  # of 255


def test_scale_one_is_the_sample_itself():
    model = generator()
    assert torch.equal(model.sample(4, seed=2, scale=1), model.sample(4, seed=2))


def test_other_outputs_have_no_finer_grid():
    for output in ("linear", "conv"):
        with pytest.raises(UserError, match="no function of their coordinates: leave --scale out"):
            generator(output=output).sample(1, scale=2)
    other = vitgan.recipes.get("digits-stylegan2").generator.build(resolution=8, channels=1)
    assert isinstance(other, Generator)
    with pytest.raises(UserError, match="leave --scale out"):
        other.eval().sample(1, scale=4)


def test_the_command_renders_at_a_scale(tiny_train: Callable[..., int], tmp_path: Path) -> None:
    assert tiny_train(tmp_path / "run", "--images", "4") == 0
    out = str(tmp_path / "a.npz")
    words = ["sample", str(tmp_path / "run"), "--count", "2", "--out", out, "--scale", "4"]
    assert main(words) == 0
    assert np.load(out)["images"].shape[:3] == (2, 32, 32)
    assert main([*words[:-1], "3"]) == 2
