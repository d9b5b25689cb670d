"""The recipe: everything that a run is, as one frozen dataclass of its parts' options."""

import abc
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Self

import torch

from vitgan.compat import cpu_multiplies_bf16
from vitgan.config import brief, check, differences, from_dict, missing_parts, option, part, to_dict
from vitgan.data import DataOptions, ImageSet
from vitgan.engine.loggers import Logger, TensorBoard
from vitgan.engine.schema import FORMAT
from vitgan.engine.task import Task
from vitgan.errors import UserError
from vitgan.metrics.protocol import parse_metrics

Precision = Literal["fp32", "bf16", "auto"]


def activation_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """bf16 when asked for, or by "auto" where the hardware multiplies bf16 matrices; else fp32."""
    if precision == "auto":
        precision = "bf16" if _has_bf16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_multiplies_bf16()


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How long, how often, and from which seed. Numbers of images are images seen."""

    batch: int = option(128, least=1)
    """Images of an update."""
    generator_every: int = option(1, least=1)
    """Discriminator updates for each generator update."""
    shared_fakes: bool = True
    """Both players' updates use the same fakes, made in one pass; False draws a set for each."""
    judge_real_again: bool = False
    """The generator's loss sees the real images' logits of the updated discriminator, at one more pass; else
    those of the discriminator's update. A loss that does not look at them does the same either way."""
    accumulate: int | None = option(None, least=1)
    """Parts that a batch is computed in, by one process one after the other: less memory for the same update.

    None is one part for each process; but in fp32 on a CPU a single process sums the gradients of two halves,
    so that it trains bit for bit as two processes do.
    """
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of the transformer blocks; auto: on a CUDA GPU alone (a CPU gains little)."""
    images: int | None = option(None, above=0)
    """Stop after this many images."""
    minutes: float | None = option(None, above=0)
    """Stop after this many minutes of training, resumed ones counted in."""
    seed: int = option(0, least=0)
    """Of the weights, the order of the data, the latents and the augmentation."""
    precision: Precision = "auto"
    """Of the activations; auto is bf16 where the hardware computes in it, else fp32."""
    threads: int | None = option(None, above=0)
    """CPU threads of torch; None leaves its own choice. Small steps gain nothing from more than one."""
    log_every: int = option(6400, least=1)
    """Images between two lines of the log."""
    sample_every: int = option(100_000, least=1)
    """Images between two sample grids."""
    sample_count: int = option(64, least=1)
    """Images of a sample grid."""
    checkpoint_every: int = option(200_000, least=1)
    """Images between two checkpoints."""
    checkpoint_minutes: float = option(15.0, least=0)
    """Minutes after which a checkpoint is due in any case."""
    keep: int = option(3, least=1)
    """Checkpoints kept, the newest."""
    keep_every: int | None = option(1_000_000, above=0)
    """Images between two checkpoints kept for good; doubled in a long run, so that there are 8 at most."""
    on_nan: Literal["stop", "rollback"] = "stop"
    """After a number that is not finite: stop, or go on from the last checkpoint with another seed."""
    largest: float = option(1e8, above=0)
    """A loss, term or gradient norm beyond it counts as not finite."""

    def __post_init__(self) -> None:
        check(self, "training")
        if self.batch % (self.accumulate or 1):
            raise UserError(
                f"--training.batch {self.batch} is not a multiple of --training.accumulate {self.accumulate}."
            )


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What a run measures of itself, how often."""

    every: int | None = option(None, least=1)
    """Images between two evaluations; None for none."""
    features: str = "inception"
    """inception, classifier, a file of Inception weights, or an extractor registered in torch-fidelity."""
    metrics: str = "fid"
    """Of fid, is, kid, prdc, separated by commas; fid, which picks the best checkpoint, among them."""
    count: int = option(10_000, least=1)
    """Generated images of an evaluation."""

    def __post_init__(self) -> None:
        check(self, "evaluation")
        if "fid" not in parse_metrics(self.metrics):
            raise UserError("--evaluation.metrics needs fid: the Frechet distance picks the best checkpoint.")


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
    "loggers",
)


@dataclass(frozen=True, kw_only=True)
class RunRecipe(abc.ABC):
    """What the recipes of every kind of run share: frozen dataclasses of options, to JSON and back."""

    name: str
    data: DataOptions
    training: TrainingOptions
    loggers: tuple[Logger, ...] = part("logger", factory=lambda: (TensorBoard(),))
    """What the numbers of the log go to beside `log.jsonl`."""
    evaluation = EvaluationOptions()
    """How the run is scored while it trains; a kind without a generator is never scored."""
    draws_nothing = ""
    """What the run is instead, as a clause, where it has no generator."""

    @abc.abstractmethod
    def begin(self, images: ImageSet, device: torch.device) -> tuple[Task, ImageSet]:
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
        return [line for line in lines if re.split(r"[:\[]", line)[0] not in RESUMABLE]

    def require_parts(self) -> None:
        """Raise UserError, naming the `--use` that is missing, where a part's class is not here."""
        for missing in missing_parts(self):
            raise missing.refusal()


KINDS = {"Recipe": "gan", "ClassifierRecipe": "classifier", "SirenRecipe": "siren"}
"""Where in `vitgan.engine` each kind of recipe is defined, by the "type" that is written with it."""

MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""By format: makes what that format wrote of a recipe what the next one would have written.

A field that is new needs none: where it is missing it has its default, which is what was done before.
Whatever is renamed or moved raises `vitgan.engine.schema.FORMAT` and has its entry here.
"""


def read_recipe(value: Any, written: int = FORMAT) -> RunRecipe:
    """A recipe of any kind from what `to_dict` gave in the format `written`.

    A part of somebody's own whose class is not registered is a `MissingPart`. Raises UserError, naming the
    field, where it is no recipe.
    """
    for number in range(written, FORMAT):
        value = MIGRATIONS.get(number, lambda same: same)(value)
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in KINDS:
        raise UserError(f"recipe.type is {brief(kind)}, but must be one of {', '.join(KINDS)}.")
    return getattr(import_module(f"vitgan.engine.{KINDS[kind]}"), kind).from_dict(value)
