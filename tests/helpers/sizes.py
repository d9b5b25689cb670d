"""Networks so small that a run takes a second."""

from dataclasses import replace
from typing import Any

import torch

import vitgan
from vitgan.models import Generator

PART = {"depth": "1", "width": "8", "heads": "2", "perceptron-width": "16"}
SIZES = {
    **{f"--generator.{name}": value for name, value in PART.items()},
    **{f"--discriminator.{name}": value for name, value in PART.items()},
    "--generator.latent-dim": "8",
    "--generator.mapping-depth": "2",
    "--training.batch": "4",
    "--training.sample-count": "4",
    "--training.precision": "fp32",
}
TINY = [word for flag, value in SIZES.items() for word in (flag, value)]
TRAINING = [word for flag, value in SIZES.items() if flag.startswith("--training.") for word in (flag, value)]
TINY_MODERN = [
    *("--generator.widths", "32", "--generator.depths", "1", "--generator.output-width", "8"),
    *("--discriminator.widths", "32", "--discriminator.depths", "1", "--discriminator.stem-widths", "8,8,8"),
    *TRAINING,
]
QUICK_CLASSIFIER = {"width": 8, "features": 8, "batch": 16, "epochs": 1, "updates": 30}


def without(prefix: str, words: list[str]) -> list[str]:
    """`words`, a flag and its value in turn, without the flags that begin with `prefix`."""
    pairs = zip(words[::2], words[1::2], strict=True)
    return [word for flag, value in pairs if not flag.startswith(prefix) for word in (flag, value)]


def build(name: str = "digits", classes: int = 0, **changes: Any) -> Generator:
    """The untrained generator of a recipe with other options, of 8 x 8 grey images, in eval mode."""
    torch.manual_seed(0)
    options = replace(vitgan.recipes.get(name).generator, **changes)
    return options.build(resolution=8, channels=1, classes=classes).eval().requires_grad_(False)


def small(classes: int = 0, **changes: Any) -> Generator:
    """A generator of `digits` with one block of width 16."""
    return build("digits", classes, depth=1, width=16, latent_dim=8, mapping_depth=2, **changes)
