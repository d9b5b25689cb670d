"""The recipe: all settings of a run, as one frozen dataclass of the options of its parts."""

import abc
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Self

import torch

from vitgan.compat import multiplies_bf16
from vitgan.config import brief, check, differences, from_dict, missing_parts, option, part, to_dict
from vitgan.data import DataOptions, ImageSet
from vitgan.engine.loggers import Logger, TensorBoard
from vitgan.engine.task import Task
from vitgan.errors import UserError
from vitgan.metrics.protocol import METRICS, metric_name, parse_metrics

FORMAT, MOST_FORMAT = 2, 10**6
"""Number of the format of all that a run writes, and the largest number that is read as one.

Format 2: parts name their module, fields may be missing, loggers are parts.
"""
MOST_IMAGES, MOST_CLASSES = 2**62, 2**31
Test = Callable[[Any], bool]


def whole_number(least: int, most: int = MOST_IMAGES) -> Test:
    """A test whether a value is an integer from `least` to `most`."""
    return lambda value: type(value) is int and least <= value <= most


def number(value: Any) -> bool:
    """Whether `value` is a number; NaN and infinity, which a measurement may give, are numbers too."""
    return type(value) in (int, float)


def text(value: Any) -> bool:
    """Whether `value` is a string."""
    return isinstance(value, str)


def each(test: Test) -> Test:
    """A test whether a value is a list whose items all pass `test`."""
    return lambda value: isinstance(value, list) and all(map(test, value))


def every(test: Test) -> Test:
    """A test whether a value is a JSON object whose values all pass `test`."""
    return lambda value: isinstance(value, dict) and all(map(test, value.values()))


def fields(**tests: Test) -> Test:
    """A test whether a value is a JSON object that has all these fields, each of which passes its test."""
    return lambda value: (
        isinstance(value, dict) and all(name in value and test(value[name]) for name, test in tests.items())
    )


def known(**tests: Test) -> Test:
    """A test whether a value is a JSON object in which each of these fields passes, where it is present."""
    return lambda value: (
        isinstance(value, dict) and all(test(value[name]) for name, test in tests.items() if name in value)
    )


def both(first: Test, second: Test) -> Test:
    """A test whether a value passes both tests."""
    return lambda value: first(value) and second(value)


def pair(value: Any) -> bool:
    """Whether `value` is a list of two strings."""
    return each(text)(value) and len(value) == 2


REQUIRED: dict[str, Test] = {
    "images": whole_number(0),
    "seconds": lambda value: number(value) and 0 <= value < math.inf,
    "sha256": lambda value: text(value) and re.fullmatch("[0-9a-f]{64}", value) is not None,
    "recipe": fields(type=text),
    "classes": whole_number(0, MOST_CLASSES),
    "data": both(
        fields(fingerprint=text, images=whole_number(0)),
        known(labels=text, folder=text, block_parts=whole_number(1), blocks=each(pair)),
    ),
}
OPTIONAL: dict[str, Test] = {
    "rollbacks": whole_number(0, 2**31),
    "environment": every(text),
    "class_names": each(text),
    "class_counts": each(whole_number(0)),
    "held_out": fields(images=whole_number(0), accuracy=number),
    "image_shape": each(whole_number(1)),
    "license": text,
    "evaluation": fields(protocol=fields(key=text), metrics=every(number)),
}


def wrong_field(body: dict[str, Any]) -> str | None:
    """The first field of `body` that is missing or not of its type; None where all are right."""
    for name, test in REQUIRED.items():
        if name not in body or not test(body[name]):
            return name
    for name, test in OPTIONAL.items():
        if name in body and not test(body[name]):
            return name
    if body["recipe"]["type"] == "ClassifierRecipe":
        for name in ("class_names", "held_out"):
            if name not in body:
                return name
    for name in ("class_names", "class_counts"):
        if name in body and len(body[name]) != body["classes"]:
            return name
    return None


Precision = Literal["fp32", "bf16", "auto"]


def activation_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of activations: bf16 for "bf16", or for "auto" where the hardware has it; else fp32."""
    if precision == "auto":
        precision = "bf16" if multiplies_bf16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Settings of the training loop. All numbers of images count images seen, with repetition."""

    batch: int = option(128, least=1)
    """Images of an update, over all processes."""
    generator_every: int = option(1, least=1)
    """Discriminator updates for each generator update."""
    shared_fakes: bool = True
    """Use the same fakes, of one forward pass, in both players' updates; False draws a set for each."""
    judge_real_again: bool = False
    """The generator's loss sees the real images' logits of the updated discriminator, which takes a further
    forward pass; else those of the discriminator's update. A loss that ignores them is not affected."""
    accumulate: int | None = option(None, least=1)
    """Micro-batches of a batch, whose gradients are accumulated: less memory for the same update.

    None is one for each process; but in fp32 on a CPU a single process sums the gradients of two halves, so
    that it trains bit for bit as two processes do.
    """
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of the transformer blocks; auto: on a CUDA GPU only (a CPU gains little)."""
    images: int | None = option(None, above=0)
    """Stop after this many images."""
    minutes: float | None = option(None, above=0)
    """Stop after this many minutes of training, those before a resume included."""
    enough: int | None = option(None, above=0)
    """Images from which on the recipe's samples are more than noise; a run that its minutes end earlier says
    so."""
    seed: int = option(0, least=0)
    """Seed of the weights, the order of the data, the latents and the augmentation."""
    precision: Precision = "auto"
    """Precision of the activations; auto is bf16 where the hardware computes in it, else fp32."""
    threads: int | None = option(None, above=0)
    """CPU threads of torch; None is torch's own choice. Small steps gain nothing from more than one."""
    log_every: int = option(6400, least=1)
    """Images between two lines of the log."""
    sample_every: int = option(100_000, least=1)
    """Images between two sample grids."""
    sample_count: int = option(64, least=1)
    """Images of a sample grid."""
    checkpoint_every: int = option(200_000, least=1)
    """Images between two checkpoints."""
    checkpoint_minutes: float = option(15.0, least=0)
    """Most minutes of training between two checkpoints."""
    keep: int = option(3, least=1)
    """Number of newest checkpoints that are kept."""
    keep_every: int | None = option(1_000_000, above=0)
    """Images between two checkpoints kept for good; doubled in a long run, so that there are 8 at most."""
    on_nan: Literal["stop", "rollback"] = "stop"
    """After a number that is not finite: stop, or go on from the last checkpoint with another seed."""
    largest: float = option(1e8, above=0)
    """Absolute value beyond which a loss, term or gradient norm counts as not finite."""

    def __post_init__(self) -> None:
        check(self, "training")
        if self.batch % (self.accumulate or 1):
            raise UserError(
                f"--training.batch {self.batch} is not a multiple of --training.accumulate {self.accumulate}."
            )


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Evaluation of a run while it trains."""

    every: int | None = option(None, least=1)
    """Images seen between two evaluations; None evaluates never."""
    features: str = "inception"
    """inception, classifier, a file of Inception weights, or an extractor registered in torch-fidelity."""
    metrics: str = "fid"
    """Of fid, is, kid, prdc and metrics of one's own, separated by commas. fid picks the best checkpoint;
    without it the first metric of one's own does."""
    count: int = option(10_000, least=1)
    """Generated images of an evaluation."""

    def __post_init__(self) -> None:
        check(self, "evaluation")

    def chosen(self) -> tuple[str, ...]:
        """The metrics by name, in the usual order.

        Raises UserError for one that is unknown, and where none can pick the best checkpoint. It is not asked
        when options are read: a run can be used without the file of the metrics that it was scored by.
        """
        found = parse_metrics(self.metrics)
        if "fid" not in found and set(map(metric_name, found)) <= set(METRICS):
            raise UserError("--evaluation.metrics needs fid: the Frechet distance picks the best checkpoint.")
        return found


# Settings that a resumed run may change: they do not alter what a step computes, or (the precision, the place
# of the same data) must be free to differ on another machine.
RESUMABLE = (
    "data.source",
    "data.memory_mib",
    "data.workers",
    "start.source",
    "training.images",
    "training.minutes",
    "training.enough",
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
    """The base of the recipes of all kinds of runs, frozen dataclasses that go to JSON and back."""

    name: str
    data: DataOptions
    training: TrainingOptions
    loggers: tuple[Logger, ...] = part("logger", factory=lambda: (TensorBoard(),))
    """Further destinations of the log, beside `log.jsonl`."""
    evaluation = EvaluationOptions()
    """Evaluation of the run while it trains; a kind without a generator is never evaluated."""
    draws_nothing = ""
    """Where a kind of run has no generator: what it holds instead, as a clause for error messages."""

    @abc.abstractmethod
    def begin(self, images: ImageSet, device: torch.device) -> tuple[Task, ImageSet]:
        """The task that the recipe trains, at image 0, and the images from which its batches are drawn."""

    def to_dict(self) -> dict[str, Any]:
        """The recipe as an object ready for JSON, which `from_dict` reads."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """The recipe that `to_dict` wrote as `value`.

        Raises UserError, naming the field, where `value` is not a recipe of this kind.
        """
        return from_dict(value, cls)

    def conflicts(self, other: "RunRecipe") -> list[str]:
        """A line 'field: mine -> other' for each difference that keeps `other` from resuming its run."""
        lines = differences(self.to_dict(), other.to_dict())
        return [line for line in lines if re.split(r"[:\[]", line)[0] not in RESUMABLE]

    def require_parts(self) -> None:
        """Raise UserError, naming the `--use` that is missing, where a part's class is not registered."""
        for missing in missing_parts(self):
            raise missing.refusal()


KINDS = {"Recipe": "gan", "ClassifierRecipe": "supervised", "SirenRecipe": "supervised"}
"""Where in `vitgan.engine` each kind of recipe is defined, by the "type" that is written with it."""


def check_recipe(recipe: Any) -> None:
    """Raise UserError where `recipe` is none, or a field of it holds what it must not.

    What derives from a recipe's class is refused, for it would be written and read back as that class.
    """
    name = type(recipe).__name__
    known = getattr(import_module(f"vitgan.engine.{KINDS[name]}"), name) if name in KINDS else None
    if type(recipe) is not known:
        raise UserError(
            f"The recipe is {brief(recipe)}, but must be the name of one, or of the class {', '.join(KINDS)} "
            "itself: its parts may be of classes of your own."
        )
    check(recipe, "recipe")


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""By format number: a function from a recipe as that format wrote it to one as the next format does.

A new field needs none: where it is missing it takes its default, which must be the earlier behaviour. A field
that is renamed or moved takes an entry here and a higher `vitgan.engine.recipe.FORMAT`.
"""


def read_recipe(value: Any, written: int = FORMAT) -> RunRecipe:
    """The recipe, of any kind, that `to_dict` wrote as `value` in the format number `written`.

    A part whose class is not registered, as one of the user's own, becomes a `MissingPart`. Raises UserError,
    naming the field, where `value` is not a recipe.
    """
    for number in range(written, FORMAT):
        value = MIGRATIONS.get(number, lambda same: same)(value)
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in KINDS:
        raise UserError(f"recipe.type is {brief(kind)}, but must be one of {', '.join(KINDS)}.")
    return getattr(import_module(f"vitgan.engine.{KINDS[kind]}"), kind).from_dict(value)
