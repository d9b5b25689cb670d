"""The Vision Transformer as a classifier (arXiv 2010.11929): its recipe, its task, and loading it.

Shapes: B batch, C channels, R resolution, K classes, N images.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vitgan.config import check, option
from vitgan.data import Batch, DataOptions, ImageSet
from vitgan.data.held_out import part, read, split
from vitgan.engine.checkpoint import recipe_of
from vitgan.engine.grid import captioned
from vitgan.engine.optim import AdamOptions
from vitgan.engine.recipe import TrainingOptions
from vitgan.engine.run_folder import read_run
from vitgan.engine.supervised import OneNetwork, SupervisedRecipe, _refuse_settings_of_a_game, _seeded
from vitgan.errors import UserError
from vitgan.models import VisionTransformer, VisionTransformerOptions, from_uint8
from vitgan.models.base import load_network
from vitgan.models.vit import check_transformer

ACCURACY_BATCH = 512  # images of one pass


@dataclass(frozen=True, kw_only=True)
class HeldOutOptions:
    """The held-out images, on which a classifier is not trained but measured."""

    share: float = option(0.2, least=0)
    """Fraction of the images of every class that is held out, between 0 and 1."""
    most: int = option(5000, least=0)
    """Most images that are held out."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(f"--held-out.share must be between 0 and 1, not {self.share}.")
        if self.most < 1:
            raise UserError("--held-out.most must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe(SupervisedRecipe):
    """The recipe of a Vision Transformer that classifies images."""

    draws_nothing = (
        "a classifier, which draws no samples: load it by vitgan.engine.classifier.load_classifier."
    )

    name: str
    data: DataOptions
    held_out: HeldOutOptions = field(default_factory=HeldOutOptions)
    network: VisionTransformerOptions
    optimiser: AdamOptions = field(default_factory=AdamOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)

    def __post_init__(self) -> None:
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
