"""The common base of runs of one network with one loss: the classifier and the image fit.

Shapes: B batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vitgan.adversarial.step import clipped_norm
from vitgan.config import check, check_kinds, option
from vitgan.data import Batch, DataOptions, ImageSet
from vitgan.data.held_out import InMemory, part, read, split
from vitgan.distributed import collectives
from vitgan.engine.checkpoint import recipe_of
from vitgan.engine.grid import captioned, grid
from vitgan.engine.optim import AdamOptions
from vitgan.engine.recipe import RunRecipe, TrainingOptions, activation_dtype
from vitgan.engine.run_folder import read_run
from vitgan.engine.task import NamedState
from vitgan.errors import UserError
from vitgan.models import Generator, VisionTransformer, VisionTransformerOptions, from_uint8, to_uint8
from vitgan.models.base import load_network
from vitgan.models.siren import Siren, SirenOptions, image_coordinates
from vitgan.models.vit import check_transformer

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class SupervisedRecipe(RunRecipe):
    """The base of the recipes of runs of one network."""

    optimiser: AdamOptions


class OneNetwork(NamedState):
    """A task of one network, its optimiser and a loss: the base of the classifier and of the image fit."""

    generator: Generator | None = None
    note: str | None = None

    def __init__(self, recipe: "SupervisedRecipe", network: nn.Module, device: torch.device) -> None:
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
        """One update by the gradient of `loss`; returns detached scalars, and the learning rate."""
        rate = self.adam.set_rate(self.optimiser, images_seen, self.options.batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parameters = list(self._network.parameters())
        collectives.average_gradients_([p.grad for p in parameters if p.grad is not None])
        norm = clipped_norm(self.optimiser, parameters)
        self.optimiser.step()
        return {"loss": loss.detach(), "gradient_norm": norm}, {"learning_rate": rate}


def _seeded(recipe: RunRecipe, build: Callable[[], Network]) -> Network:
    """The network that `build` makes on the CPU, with weights drawn from the recipe's seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return build()


def _refuse_settings_of_a_game(training: TrainingOptions) -> None:
    plain = TrainingOptions()
    for name in ("generator_every", "shared_fakes", "accumulate", "activation_checkpointing", "compile"):
        if getattr(training, name) != getattr(plain, name):
            flag = name.replace("_", "-")
            raise UserError(f"--training.{flag} belongs to two networks in a game: leave it out here.")


ACCURACY_BATCH = 512  # images of one pass


@dataclass(frozen=True, kw_only=True)
class HeldOutOptions:
    """The held-out images, on which a classifier is not trained but measured."""

    share: float = option(0.2, least=0)
    """Fraction of the images of every class that is held out, between 0 and 1."""
    most: int = option(5000, least=0)
    """Most images that are held out."""

    def __post_init__(self) -> None:
        check(self, "held_out")
        if not 0 < self.share < 1:
            raise UserError(f"--held-out.share must be between 0 and 1, not {self.share}.")
        if self.most < 1:
            raise UserError("--held-out.most must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe(SupervisedRecipe):
    """The recipe of a Vision Transformer that classifies images."""

    draws_nothing = (
        "a classifier, which draws no samples: load it by vitgan.engine.supervised.load_classifier."
    )

    name: str
    data: DataOptions
    held_out: HeldOutOptions = field(default_factory=HeldOutOptions)
    network: VisionTransformerOptions
    optimiser: AdamOptions = field(default_factory=AdamOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)

    def __post_init__(self) -> None:
        check_kinds(self, "recipe")
        _refuse_settings_of_a_game(self.training)
        if not self.data.labels:
            raise UserError("A classifier learns the labels of its images: set --data.labels True.")

    def begin(self, images: ImageSet, device: torch.device) -> tuple["ClassifierTask", ImageSet]:
        """The task at image 0, and the images to train on. Raises UserError for fewer than two classes."""
        return ClassifierTask.begin(self, images, device)


class ClassifierTask(OneNetwork):
    """Trains by cross-entropy on the images that are not held out; measures accuracy on those that are.

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
        """The task, and the images to train on. Raises UserError for fewer than two classes."""
        if images.labels is None or len(images.classes) < 2:
            raise UserError(f"{images.name} has fewer than 2 classes: pass images of 2 or more.")
        seen, held_out = split(images.labels, share=recipe.held_out.share, most=recipe.held_out.most)
        return ClassifierTask(recipe, part(images, held_out), images.classes, device), part(images, seen)

    def step(
        self,
        batch: Batch,
        images_seen: int,
        seed: int | None = None,  # noqa: ARG002
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """One update, with the held-out accuracy after it where a line of the log is due."""
        assert batch.labels is not None
        logits = self.network(batch.images.to(self.dtype))  # (B, K)
        values, rates = self._update(F.cross_entropy(logits, batch.labels), images_seen)
        self.network.advance()
        values["accuracy_training"] = (logits.detach().argmax(1) == batch.labels).float().mean()
        if (images_seen + self.options.batch) % self.options.log_every < self.options.batch:
            values["accuracy_held_out"] = torch.tensor(self.accuracy(), device=self.device)
        return values, rates

    def accuracy(self) -> float:
        """The fraction of held-out images, 0 to 1, whose class has the greatest logit."""
        return (self.predictions(self.images) == self.labels).float().mean().item()

    @torch.no_grad()
    def predictions(self, images: Tensor) -> Tensor:
        """The most probable class of each of the images, uint8 (N, C, R, R): int64 (N,) on the CPU."""
        parts = [
            self.network(from_uint8(some.to(self.device), self.dtype)).argmax(1).cpu()
            for some in images.split(ACCURACY_BATCH)
        ]
        return torch.cat(parts)

    def picture(self) -> Image.Image:
        """Evenly spread held-out images with the predicted class; a wrong one is red, the true one behind."""
        count = min(self.options.sample_count, len(self.images))
        chosen = torch.arange(count) * len(self.images) // count
        found, truth = self.predictions(self.images[chosen]).tolist(), self.labels[chosen].tolist()
        names = [
            self.classes[a] if a == b else f"{self.classes[a]} ({self.classes[b]})"
            for a, b in zip(found, truth, strict=True)
        ]
        return captioned(self.images[chosen], names, [a != b for a, b in zip(found, truth, strict=True)])

    def facts(self) -> dict[str, Any]:
        """The names of the classes, and the held-out accuracy."""
        return {
            "classes": len(self.classes),
            "class_names": list(self.classes),
            "held_out": {"images": len(self.images), "accuracy": self.accuracy()},
        }


def build_classifier(recipe: ClassifierRecipe, classes: int) -> VisionTransformer:
    """The Vision Transformer with a logit for each class. Raises UserError where its sizes do not fit."""
    data, options = recipe.data, recipe.network
    check(options, "network")
    check_transformer("network", data.resolution, options.patch, options.width, options.heads)
    return VisionTransformer(options, resolution=data.resolution, channels=data.channels, outputs=classes)


class TrainedClassifier(NamedTuple):
    """A loaded classifier: images (B, C, R, R) in [-1, 1] -> network(images), logits (B, K) of `classes`."""

    network: VisionTransformer
    """The network, on the CPU and in eval mode."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    accuracy: float
    """Accuracy on the held-out images when the checkpoint was written, 0 to 1."""


def load_classifier(run: str | Path) -> TrainedClassifier:
    """The classifier of a run folder or of one checkpoint. Raises UserError where there is none."""
    tensors, description = read_run(Path(run))
    recipe = recipe_of(description)
    if not isinstance(recipe, ClassifierRecipe):
        raise UserError(f"{run} holds no classifier: train one with `vitgan train vit-classifier-small`.")
    network = load_network(lambda: build_classifier(recipe, description["classes"]), tensors, "network", run)
    return TrainedClassifier(network, tuple(description["class_names"]), description["held_out"]["accuracy"])


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """The image that is fitted."""

    image: int = option(0, least=0)
    """Index of the image in its source, from 0."""


@dataclass(frozen=True, kw_only=True)
class SirenRecipe(SupervisedRecipe):
    """The recipe of a SIREN that fits one image at the resolution of `data`, all pixels in every step."""

    draws_nothing = "an image fit, which draws no samples: load it by vitgan.engine.supervised.load_siren."

    name: str
    data: DataOptions
    target: TargetOptions = field(default_factory=TargetOptions)
    network: SirenOptions = field(default_factory=SirenOptions)
    optimiser: AdamOptions = field(default_factory=AdamOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)

    def __post_init__(self) -> None:
        check_kinds(self, "recipe")
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
