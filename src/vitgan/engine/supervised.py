"""Runs that are no GAN: the deck's Vision Transformer as a classifier, and a SIREN that fits one image.

Shapes: B batch, C channels, R resolution, K classes, N images or points.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vitgan import processes
from vitgan.data import Batch, ImageSet
from vitgan.engine.captions import captioned
from vitgan.engine.folder import read_run
from vitgan.engine.gan import GANTask
from vitgan.engine.images import grid
from vitgan.engine.parts import InMemory, part, read, split
from vitgan.engine.precision import activation_dtype
from vitgan.engine.recipe import Recipe
from vitgan.engine.state import NamedState
from vitgan.engine.supervised_recipes import AnyRecipe, ClassifierRecipe, SirenRecipe, read_recipe
from vitgan.engine.task import Task
from vitgan.errors import UserError
from vitgan.models import Generator, VisionTransformer, to_uint8
from vitgan.models.siren import Siren, image_coordinates
from vitgan.models.vit import check_transformer
from vitgan.options import check
from vitgan.weights import load_network

ACCURACY_BATCH = 512  # images of one pass
Network = TypeVar("Network", bound=nn.Module)


def build_task(recipe: AnyRecipe, images: ImageSet, device: torch.device) -> tuple[Task, ImageSet]:
    """What `recipe` trains, at image 0, and the part of `images` that its batches are drawn from."""
    if isinstance(recipe, Recipe):
        return GANTask(recipe, images, device), images
    if isinstance(recipe, ClassifierRecipe):
        return ClassifierTask.begin(recipe, images, device)
    return SirenTask.begin(recipe, images, device)


class OneNetwork(NamedState):
    """One network, its optimiser, and a loss to lower: what the tasks of this file share."""

    generator: Generator | None = None
    note: str | None = None

    def __init__(
        self, recipe: ClassifierRecipe | SirenRecipe, network: nn.Module, device: torch.device
    ) -> None:
        self.options, self.adam, self.device = recipe.training, recipe.optimiser, device
        self.dtype = activation_dtype(recipe.training.precision, device)
        self._network = network.to(device)
        self.networks = {"network": self._network}
        self.optimiser = recipe.optimiser.build(network.parameters())

    def _modules(self) -> dict[str, nn.Module]:
        return {"network": self._network}

    def _optimisers(self) -> dict[str, tuple[nn.Module, torch.optim.Optimizer]]:
        return {"optimiser": (self._network, self.optimiser)}

    def _update(self, loss: Tensor, images_seen: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """One step down `loss`: what there is to log of it, and the learning rate."""
        rate = self.adam.set_rate(self.optimiser, images_seen, self.options.batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [p.grad for p in self._network.parameters() if p.grad is not None]
        processes.average_(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        self.optimiser.step()
        return {"loss": loss.detach(), "gradient_norm": norm}, {"learning_rate": rate}


class ClassifierTask(OneNetwork):
    """Cross-entropy on the images that are not held out, accuracy on those that are (spec 2.1).

    The held-out images (N, C, R, R) are kept as uint8 on the CPU.
    """

    def __init__(
        self, recipe: ClassifierRecipe, held_out: ImageSet, classes: tuple[str, ...], device: torch.device
    ) -> None:
        self.network = _seeded(recipe, lambda: build_classifier(recipe, len(classes)))
        super().__init__(recipe, self.network, device)
        self.classes = classes
        self.images, labels = read(held_out)
        assert labels is not None
        self.labels = labels

    @staticmethod
    def begin(
        recipe: ClassifierRecipe, images: ImageSet, device: torch.device
    ) -> tuple["ClassifierTask", ImageSet]:
        """The task, and the images to train on. Raises UserError where there are no two classes."""
        if images.labels is None or len(images.classes) < 2:
            raise UserError(f"{images.name} has fewer than 2 classes: pass images of 2 or more.")
        seen, held_out = split(images.labels, recipe.held_out)
        return ClassifierTask(recipe, part(images, held_out), images.classes, device), part(images, seen)

    def step(
        self,
        batch: Batch,
        images_seen: int,
        seed: int | None = None,  # noqa: ARG002
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """One update; where a line of the log is due, the held-out accuracy after it."""
        assert batch.labels is not None
        logits = self.network(batch.images.to(self.dtype))  # (B, K)
        values, rates = self._update(F.cross_entropy(logits, batch.labels), images_seen)
        self.network.advance()
        values["accuracy_training"] = (logits.detach().argmax(1) == batch.labels).float().mean()
        if (images_seen + self.options.batch) % self.options.log_every < self.options.batch:
            values["accuracy_held_out"] = torch.tensor(self.accuracy(), device=self.device)
        return values, rates

    def accuracy(self) -> float:
        """Share of the held-out images whose class has the greatest logit."""
        return (self.predictions(self.images) == self.labels).float().mean().item()

    @torch.no_grad()
    def predictions(self, images: Tensor) -> Tensor:
        """The most probable class of uint8 (N, C, R, R): int64 (N,) on the CPU."""
        parts = [
            self.network((some.to(self.device).float() / 127.5 - 1).to(self.dtype)).argmax(1).cpu()
            for some in images.split(ACCURACY_BATCH)
        ]
        return torch.cat(parts)

    def picture(self) -> Image.Image:
        """Held-out images, evenly spread, with the class predicted; if wrong, in red, the true one behind."""
        count = min(self.options.sample_count, len(self.images))
        chosen = torch.arange(count) * len(self.images) // count
        found, truth = self.predictions(self.images[chosen]).tolist(), self.labels[chosen].tolist()
        names = [
            self.classes[a] if a == b else f"{self.classes[a]} ({self.classes[b]})"
            for a, b in zip(found, truth, strict=True)
        ]
        return captioned(self.images[chosen], names, [a != b for a, b in zip(found, truth, strict=True)])

    def facts(self) -> dict[str, Any]:
        """The classes, and how well they are told apart."""
        return {
            "classes": len(self.classes),
            "class_names": list(self.classes),
            "held_out": {"images": len(self.images), "accuracy": self.accuracy()},
        }


class SirenTask(OneNetwork):
    """Mean squared error over all pixels of one image (arXiv 2006.09661, section 3.1; blog)."""

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
        """The image, its fit, and |grad f| of the fit, black at 0 and white at its maximum."""
        size = self.image.shape[1:]
        with torch.no_grad():
            fit = self.network(self.coordinates).float().mT.view(size)
        slope = self.network.slope(self.coordinates.float()).view(1, *size[1:])
        shown = to_uint8(2 * slope / slope.max().clamp_min(1e-12) - 1).expand(size)
        return grid(torch.stack((self.image[0], to_uint8(fit).cpu(), shown.cpu())), columns=3)

    def facts(self) -> dict[str, Any]:
        """Which image."""
        return {"classes": 0, "image_shape": list(self.image.shape[1:])}


def psnr(error: Tensor) -> Tensor:
    """Peak signal to noise, dB, of a mean squared error in [-1, 1]; 120 at most: an exact fit is finite."""
    return 10 * torch.log10(4 / error.clamp_min(4e-12))


def build_classifier(recipe: ClassifierRecipe, classes: int) -> VisionTransformer:
    """The Vision Transformer with a logit for each class. Raises UserError where its sizes do not fit."""
    data, options = recipe.data, recipe.network
    check(options, "network")
    check_transformer("network", data.resolution, options.patch, options.width, options.heads)
    return VisionTransformer(options, resolution=data.resolution, channels=data.channels, outputs=classes)


class TrainedClassifier(NamedTuple):
    """images (B, C, R, R) in [-1, 1] -> network(images), logits (B, K) of `classes`; CPU, eval mode."""

    network: VisionTransformer
    classes: tuple[str, ...]
    accuracy: float
    """On the held-out images, 0 to 1."""


def load_classifier(run: str | Path) -> TrainedClassifier:
    """The classifier of a run folder or a checkpoint. Raises UserError where there is none."""
    tensors, description = read_run(Path(run))
    recipe = read_recipe(description["recipe"])
    if not isinstance(recipe, ClassifierRecipe):
        raise UserError(f"{run} holds no classifier: train one with `vitgan train vit-classifier-small`.")
    network = load_network(lambda: build_classifier(recipe, description["classes"]), tensors, "network", run)
    return TrainedClassifier(network, tuple(description["class_names"]), description["held_out"]["accuracy"])


def load_siren(run: str | Path) -> Siren:
    """The fit of a run folder or a checkpoint, on the CPU. Raises UserError where there is none."""
    tensors, description = read_run(Path(run))
    recipe = read_recipe(description["recipe"])
    if not isinstance(recipe, SirenRecipe):
        raise UserError(f"{run} holds no image fit: train one with `vitgan train siren-small`.")
    return load_network(lambda: recipe.network.build(channels=recipe.data.channels), tensors, "network", run)


def _seeded(recipe: ClassifierRecipe | SirenRecipe, build: Callable[[], Network]) -> Network:
    """Built on the CPU, its weights drawn from the recipe's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return build()
