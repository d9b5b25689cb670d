"""The recipe: everything that a run is, as one frozen dataclass of its parts' options."""

import abc
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Self

import torch

from vitgan.adversarial import (
    BCR,
    R1,
    Contrastive,
    CutMix,
    DiffAugment,
    Drift,
    GradientPenalty,
    Hinge,
    Logistic,
    PathLength,
    StrongAugment,
    Wasserstein,
)
from vitgan.config import brief, differences, from_dict, to_dict
from vitgan.data import DataOptions, ImageSet
from vitgan.engine.evaluation import EvaluationOptions
from vitgan.engine.optim import AdamOptions, EMAOptions
from vitgan.errors import UserError
from vitgan.models import (
    BigGANDiscriminatorOptions,
    BigGANGeneratorOptions,
    ContraDDiscriminatorOptions,
    StyleGAN2DiscriminatorOptions,
    StyleGAN2GeneratorOptions,
    TransGANDiscriminatorOptions,
    TransGANGeneratorOptions,
    UNetDiscriminatorOptions,
    VisionTransformerOptions,
    ViTGANGeneratorOptions,
)

Precision = Literal["fp32", "bf16", "auto"]


def activation_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """bf16 when asked for, or by "auto" where the hardware multiplies bf16 matrices; else fp32."""
    if precision == "auto":
        precision = "bf16" if _has_bf16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch names no public test for a CPU's bf16 units.
    tests = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(test() for test in tests if test is not None)


if TYPE_CHECKING:
    from vitgan.engine.task import Task

# Every part that a recipe can be made of.
GeneratorOptions = (
    ViTGANGeneratorOptions | StyleGAN2GeneratorOptions | BigGANGeneratorOptions | TransGANGeneratorOptions
)
DiscriminatorOptions = (
    VisionTransformerOptions
    | StyleGAN2DiscriminatorOptions
    | BigGANDiscriminatorOptions
    | TransGANDiscriminatorOptions
    | ContraDDiscriminatorOptions
    | UNetDiscriminatorOptions
)
Loss = Logistic | Hinge | Wasserstein
Augment = DiffAugment | StrongAugment
DiscriminatorTerm = BCR | R1 | GradientPenalty | Drift | Contrastive | CutMix


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How long, how often, and from which seed. Numbers of images are images seen."""

    batch: int = 128
    """Images of an update."""
    generator_every: int = 1
    """Discriminator updates for each generator update."""
    shared_fakes: bool = True
    """Both players' updates use the same fakes, made in one pass; False draws a set for each."""
    accumulate: int | None = None
    """Parts that a batch is computed in, by one process one after the other: less memory for the same update.

    None is one part for each process; but in fp32 on a CPU a single process sums the gradients of two halves,
    so that it trains bit for bit as two processes do.
    """
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of the transformer blocks; auto: on a CUDA GPU alone (a CPU gains little)."""
    images: int | None = None
    """Stop after this many images."""
    minutes: float | None = None
    """Stop after this many minutes of training, resumed ones counted in."""
    seed: int = 0
    """Of the weights, the order of the data, the latents and the augmentation."""
    precision: Precision = "auto"
    """Of the activations; auto is bf16 where the hardware computes in it, else fp32."""
    threads: int | None = None
    """CPU threads of torch; None leaves its own choice. Small steps gain nothing from more than one."""
    log_every: int = 6400
    """Images between two lines of the log."""
    sample_every: int = 100_000
    """Images between two sample grids."""
    sample_count: int = 64
    """Images of a sample grid."""
    checkpoint_every: int = 200_000
    """Images between two checkpoints."""
    checkpoint_minutes: float = 15.0
    """Minutes after which a checkpoint is due in any case."""
    keep: int = 3
    """Checkpoints kept, the newest."""
    keep_every: int | None = 1_000_000
    """Images between two checkpoints kept for good; doubled in a long run, so that there are 8 at most."""
    on_nan: Literal["stop", "rollback"] = "stop"
    """After a number that is not finite: stop, or go on from the last checkpoint with another seed."""
    largest: float = 1e8
    """A loss, term or gradient norm beyond it counts as not finite."""

    def __post_init__(self) -> None:
        for name in (
            "batch",
            "generator_every",
            "log_every",
            "sample_every",
            "sample_count",
            "checkpoint_every",
            "keep",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"--training.{name.replace('_', '-')} must be at least 1.")
        if self.accumulate is not None and self.accumulate < 1:
            raise UserError("--training.accumulate must be at least 1.")
        if self.batch % (self.accumulate or 1):
            raise UserError(
                f"--training.batch {self.batch} is not a multiple of --training.accumulate {self.accumulate}."
            )
        for flag in ("images", "minutes", "training.threads", "training.keep_every", "training.largest"):
            value = getattr(self, flag.removeprefix("training."))
            if value is not None and value <= 0:
                raise UserError(f"--{flag.replace('_', '-')} must be greater than 0, not {value}.")


# What may change between two commands on one run folder: it does not alter what a step computes, or (the
# precision, the place of the same data) is the user's to move to another machine.
RESUMABLE = (
    "data.source",
    "data.memory_mib",
    "data.workers",
    "training.images",
    "training.minutes",
    "training.precision",
    "training.accumulate",
    "training.activation_checkpointing",
    "training.compile",
    "training.threads",
    "training.log_every",
    "training.sample_every",
    "training.sample_count",
    "training.checkpoint_every",
    "training.checkpoint_minutes",
    "training.keep",
    "training.keep_every",
    "training.on_nan",
    "training.largest",
    "evaluation.every",
    "evaluation.features",
    "evaluation.metrics",
    "evaluation.count",
)


@dataclass(frozen=True, kw_only=True)
class RunRecipe(abc.ABC):
    """What the recipes of every kind of run share: frozen dataclasses of options, to JSON and back."""

    name: str
    data: DataOptions
    training: TrainingOptions
    evaluation = EvaluationOptions()
    """How the run is scored while it trains; a kind without a generator is never scored."""
    draws_nothing = ""
    """What the run is instead, as a clause, where it has no generator."""

    @abc.abstractmethod
    def begin(self, images: ImageSet, device: torch.device) -> "tuple[Task, ImageSet]":
        """What the recipe trains, at image 0, and the part of `images` that its batches are drawn from."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready object that `from_dict` reads back."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """Raises UserError, naming the field, where `value` is not a recipe of this kind."""
        return from_dict(value, cls)

    def conflicts(self, other: "RunRecipe") -> list[str]:
        """'field: mine -> other' for each difference that keeps `other` from continuing a run of this one."""
        lines = differences(self.to_dict(), other.to_dict())
        return [line for line in lines if line.split(":")[0] not in RESUMABLE]


@dataclass(frozen=True, kw_only=True)
class Recipe(RunRecipe):
    """A GAN's run. `dataclasses.replace` makes an ablation of it."""

    name: str
    data: DataOptions
    generator: GeneratorOptions
    discriminator: DiscriminatorOptions
    loss: Loss = field(default_factory=Logistic)
    augment: Augment = field(default_factory=DiffAugment)
    terms: tuple[DiscriminatorTerm, ...] = ()
    generator_terms: tuple[PathLength, ...] = ()
    optimiser_generator: AdamOptions = field(default_factory=AdamOptions)
    optimiser_discriminator: AdamOptions = field(default_factory=AdamOptions)
    ema: EMAOptions = field(default_factory=EMAOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)

    @property
    def image_by_image(self) -> bool:
        """Whether nothing in a step mixes images of a batch, as a batch norm or a contrastive loss does."""
        networks = (
            isinstance(self.generator, ViTGANGeneratorOptions),
            isinstance(self.discriminator, VisionTransformerOptions),
        )
        mixing = any(isinstance(term, Contrastive) and term.active for term in self.terms)
        return all(networks) and not mixing and not any(term.active for term in self.generator_terms)

    def parts(self, device: torch.device, ranks: int) -> int:
        """How many parts one of `ranks` processes computes its share of a batch in."""
        options = self.training
        if options.accumulate is not None:
            return -(-options.accumulate // ranks)
        exact = device.type == "cpu" and activation_dtype(options.precision, device) == torch.float32
        halves = exact and ranks == 1 and self.image_by_image and options.batch % 2 == 0
        return 2 if halves else 1

    def __post_init__(self) -> None:
        clean = any(isinstance(t, BCR) and t.active and t.against == "clean" for t in self.terms)
        if clean and not self.augment.active:
            raise UserError(
                "bCR against clean images compares each image with itself when nothing is augmented: "
                "set --terms.bcr.against augmented, or --augment to something."
            )

    def begin(self, images: ImageSet, device: torch.device) -> "tuple[Task, ImageSet]":
        """The game at image 0, and the images that its batches are drawn from: all of them."""
        from vitgan.engine.gan import GANTask  # it is built of this module's recipe

        return GANTask(self, images, device), images


KINDS = {"Recipe": "recipe", "ClassifierRecipe": "classifier", "SirenRecipe": "siren"}
"""Where in `vitgan.engine` each kind of recipe is defined, by the "type" that is written with it."""


def read_recipe(value: Any) -> RunRecipe:
    """A recipe of any kind from what `to_dict` gave. Raises UserError, naming the field, where it is none."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in KINDS:
        raise UserError(f"recipe.type is {brief(kind)}, but must be one of {', '.join(KINDS)}.")
    return getattr(import_module(f"vitgan.engine.{KINDS[kind]}"), kind).from_dict(value)
