"""The recipes of runs that are no GAN: a classifier, and a network of sines that fits one image."""

from dataclasses import dataclass, field
from typing import Any

from vitgan.data import DataOptions
from vitgan.engine.recipe import Recipe, RunRecipe, TrainingOptions
from vitgan.engine.schedule import AdamOptions
from vitgan.errors import UserError
from vitgan.models import VisionTransformerOptions
from vitgan.models.siren import SirenOptions
from vitgan.options import from_dict


@dataclass(frozen=True, kw_only=True)
class HeldOutOptions:
    """The images that a classifier is never trained on, and is measured on."""

    share: float = 0.2
    """Of the images of every class."""
    most: int = 5000
    """Images, at most."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(f"--held-out.share must be between 0 and 1, not {self.share}.")
        if self.most < 1:
            raise UserError("--held-out.most must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe(RunRecipe):
    """A Vision Transformer that names the class of an image."""

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


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """What is fitted."""

    image: int = 0
    """Number of the image in its source, from 0."""


@dataclass(frozen=True, kw_only=True)
class SirenRecipe(RunRecipe):
    """A SIREN that fits one image of a source, at the resolution of `data`; all its pixels in every step."""

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


def _refuse_settings_of_a_game(training: TrainingOptions) -> None:
    plain = TrainingOptions()
    for name in ("generator_every", "shared_fakes", "accumulate", "activation_checkpointing", "compile"):
        if getattr(training, name) != getattr(plain, name):
            flag = name.replace("_", "-")
            raise UserError(f"--training.{flag} belongs to two networks in a game: leave it out here.")


AnyRecipe = Recipe | ClassifierRecipe | SirenRecipe


def read_recipe(value: Any) -> AnyRecipe:
    """A recipe of any kind from what `to_dict` gave. Raises UserError, naming the field, where it is none."""
    return from_dict(value, AnyRecipe)
