"""What is measured: recipe, device, precisions, images, and the sizes of the products.

Shapes: N images, C channels, R resolution.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from vitgan.bench import PARTS
from vitgan.data import DataOptions, ImageSet
from vitgan.data.dataset import MemoryImages
from vitgan.data.sources.arrays import ArraySource
from vitgan.engine.gan import Recipe
from vitgan.engine.recipe import Precision, activation_dtype

RANDOM = "random"  # in the place of a source
RANDOM_COUNT = 4096  # images, or one batch where that is more
CLASSES = 10  # of random labels


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of everything that is measured beside the step."""

    products: tuple[int, ...]
    """Sides of the square matrices whose product gives the peak."""
    attention: tuple[tuple[int, int], ...]
    """Sizes of attention, (tokens, batch)."""
    sampling: tuple[int, ...]
    """Batches of images that the generator draws at once."""
    rounds: int = 11
    """Rounds of each measurement other than the step; medians are over these."""
    repeats: int = 1
    """Calls of a small kernel timed together, so that launching them is not what is measured."""
    launches: int = 5
    """How often each command is started."""

    @staticmethod
    def of(device: torch.device) -> "Sizes":
        """The sizes for a device: a GPU gets larger ones than a CPU."""
        if device.type == "cuda":
            attention = ((65, 512), (257, 128), (1025, 32))
            return Sizes(
                products=(4096, 8192), attention=attention, sampling=(64, 256, 1024), rounds=15, repeats=10
            )
        attention = ((65, 64), (257, 16), (1025, 4))
        return Sizes(products=(1024, 2048), attention=attention, sampling=(64, 256))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one call of `bench` measures, and on what."""

    recipe: Recipe
    """The recipe whose step is measured, at its own batch."""
    device: torch.device
    precisions: tuple[Precision, ...]
    """The precisions that are measured: fp32, bf16 or both."""
    data: str | None = None
    """A source of images; None for random ones in memory."""
    threads: int | None = None
    """CPU threads of torch; None is the recipe's own choice."""
    parts: tuple[str, ...] = PARTS
    steps: int = 5
    """Timed steps of each precision."""
    sizes: Sizes = field(default_factory=lambda: Sizes.of(torch.device("cpu")))
    quiet: bool = False

    def recipe_at(self, precision: Precision) -> Recipe:
        """The recipe with its activations in that precision."""
        return with_training(self.recipe, precision=precision)

    def images(self) -> ImageSet:
        """The images of the step. Raises UserError where the source cannot be opened."""
        return open_images(self.recipe.data, self.data, self.recipe.training.batch)

    def to_dict(self) -> dict[str, Any]:
        """The settings as a JSON-ready object."""
        return {
            "recipe": self.recipe.name,
            "batch": self.recipe.training.batch,
            "device": str(self.device),
            "precisions": list(self.precisions),
            "data": self.data or f"{RANDOM} uint8 images in memory",
            "threads": torch.get_num_threads(),
            "parts": list(self.parts),
            "steps": self.steps,
        }


def with_training(recipe: Recipe, **changes: Any) -> Recipe:
    """`recipe` with other training options."""
    return replace(recipe, training=replace(recipe.training, **changes))


def precisions(name: str, device: torch.device) -> tuple[Precision, ...]:
    """The precisions that fp32, bf16, both or auto names; auto is both where the hardware multiplies bf16
    matrices, else fp32."""
    if name == "auto":
        name = "both" if activation_dtype("auto", device) == torch.bfloat16 else "fp32"
    both: tuple[Precision, ...] = ("fp32", "bf16")
    return both if name == "both" else tuple(one for one in both if one == name)


def open_images(options: DataOptions, source: str | None, batch: int) -> ImageSet:
    """Images of `source`, or random uint8 ones (N, C, R, R) in memory, for `vitgan.data.batches`."""
    if source is not None:
        return replace(options, source=source).build()
    rng, count = np.random.default_rng(0), max(RANDOM_COUNT, batch)
    shape = (count, options.resolution, options.resolution, options.channels)
    pixels, labels = rng.integers(0, 256, shape, dtype=np.uint8), np.arange(count) % CLASSES
    return MemoryImages(replace(options, source=RANDOM), ArraySource(RANDOM, pixels, labels))
