"""A SIREN that fits one image (arXiv 2006.09661): its recipe, its task, and loading it.

Shapes: C channels, R resolution, N points.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vitgan.config import option
from vitgan.data import Batch, DataOptions, ImageSet
from vitgan.data.held_out import InMemory, part, read
from vitgan.engine.checkpoint import recipe_of
from vitgan.engine.grid import grid
from vitgan.engine.optim import AdamOptions
from vitgan.engine.recipe import TrainingOptions
from vitgan.engine.run_folder import read_run
from vitgan.engine.supervised import OneNetwork, SupervisedRecipe, _refuse_settings_of_a_game, _seeded
from vitgan.errors import UserError
from vitgan.models import to_uint8
from vitgan.models.base import load_network
from vitgan.models.siren import Siren, SirenOptions, image_coordinates


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """The image that is fitted."""

    image: int = option(0, least=0)
    """Index of the image in its source, from 0."""


@dataclass(frozen=True, kw_only=True)
class SirenRecipe(SupervisedRecipe):
    """The recipe of a SIREN that fits one image at the resolution of `data`, all pixels in every step."""

    draws_nothing = "an image fit, which draws no samples: load it by vitgan.engine.siren.load_siren."

    name: str
    data: DataOptions
    target: TargetOptions = field(default_factory=TargetOptions)
    network: SirenOptions = field(default_factory=SirenOptions)
    optimiser: AdamOptions = field(default_factory=AdamOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)

    def __post_init__(self) -> None:
        _refuse_settings_of_a_game(self.training)
        if self.training.batch != 1:
            raise UserError("A step fits one image, whole: set --training.batch 1.")
        if self.data.flip:
            raise UserError("A mirrored image is another one to fit: set --data.flip False.")

    def begin(self, images: ImageSet, device: torch.device) -> tuple["SirenTask", ImageSet]:
        """The task at image 0, and a set of the one image. Raises UserError where there is no such image."""
        return SirenTask.begin(self, images, device)


class SirenTask(OneNetwork):
    """Trains by the mean squared error over all pixels of one image (arXiv 2006.09661, section 3.1)."""

    def __init__(self, recipe: SirenRecipe, image: ImageSet, device: torch.device) -> None:
        data = recipe.data
        self.network = _seeded(recipe, lambda: recipe.network.build(channels=data.channels))
        super().__init__(recipe, self.network, device)
        self.image = read(image)[0]  # (1, C, R, R)
        self.coordinates = image_coordinates(data.resolution, data.resolution, device).to(self.dtype)

    @staticmethod
    def begin(recipe: SirenRecipe, images: ImageSet, device: torch.device) -> tuple["SirenTask", ImageSet]:
        """The task, and a set of the one image. Raises UserError where the source has no such image."""
        number = recipe.target.image
        if number >= len(images):
            raise UserError(
                f"{images.name} has {len(images):,} images: set --target.image to at most {len(images) - 1}."
            )
        image = InMemory(part(images, torch.tensor([number])))
        return SirenTask(recipe, image, device), image

    def step(
        self,
        batch: Batch,
        images_seen: int,
        seed: int | None = None,  # noqa: ARG002
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """One update on the whole image."""
        pixels = batch.images[0].flatten(1).mT  # (N, C)
        error = F.mse_loss(self.network(self.coordinates).float(), pixels)
        values, rates = self._update(error, images_seen)
        return {**values, "psnr": psnr(error.detach())}, rates

    def picture(self) -> Image.Image:
        """The image, its fit f, and |grad f|, black at 0 and white at its maximum."""
        size = self.image.shape[1:]
        with torch.no_grad():
            fit = self.network(self.coordinates).float().mT.view(size)
        slope = self.network.slope(self.coordinates.float()).view(1, *size[1:])
        shown = to_uint8(2 * slope / slope.max().clamp_min(1e-12) - 1).expand(size)
        return grid(torch.stack((self.image[0], to_uint8(fit).cpu(), shown.cpu())), columns=3)

    def facts(self) -> dict[str, Any]:
        """The shape of the image; there are no classes."""
        return {"classes": 0, "image_shape": list(self.image.shape[1:])}


def psnr(error: Tensor) -> Tensor:
    """The peak signal-to-noise ratio in dB of a mean squared error of images in [-1, 1], at most 120 dB."""
    return 10 * torch.log10(4 / error.clamp_min(4e-12))


def load_siren(run: str | Path) -> Siren:
    """The fit of a run folder or of one checkpoint, on the CPU. Raises UserError where there is none."""
    tensors, description = read_run(Path(run))
    recipe = recipe_of(description)
    if not isinstance(recipe, SirenRecipe):
        raise UserError(f"{run} holds no image fit: train one with `vitgan train siren-small`.")
    return load_network(lambda: recipe.network.build(channels=recipe.data.channels), tensors, "network", run)
