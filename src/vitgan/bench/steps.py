"""The whole training step, its rate and its parts."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from itertools import count
from typing import Any

import torch

from vitgan.bench.peak import Peak, PeakMeter, Seconds, seconds
from vitgan.bench.settings import Settings, open_images, with_training
from vitgan.data import ImageSet, batches
from vitgan.engine import compile as graphs
from vitgan.engine.environment import keep_freed_memory, resident
from vitgan.engine.gan import GANTask, Recipe, build_networks
from vitgan.engine.recipe import Precision, TrainingOptions
from vitgan.engine.train import threads
from vitgan.errors import UserError
from vitgan.spans import Recorder, span

WARM_UP = 2  # steps
OTHER = "other"
UPDATES = ("discriminator optimiser", "generator optimiser", "moving average")


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What a training step costs at one precision."""

    images_per_second: float
    """Images a second: the batch over the median time of a step."""
    seconds: Seconds
    first_seconds: float
    """Seconds of the very first step: it touches fresh memory, and compiles where the recipe asks for
    that."""
    parts: dict[str, float]
    """Seconds of a step by span, the mean over the steps; they add up to a whole step."""
    shares: dict[str, float]
    """Shares of the parts in their sum, by span."""
    groups: dict[str, float]
    """Shares in the step of data, augmentation, and the optimisers with the moving average."""
    peak: Peak
    """The peak rate of matrix products before, between and after the steps."""


class Stepper:
    """A task that has taken its first step, and the batches for the next ones."""

    def __init__(self, recipe: Recipe, images: ImageSet, device: torch.device) -> None:
        self.task, self.device = GANTask(recipe, images, device), device
        self.recorder = Recorder(device)
        options = recipe.training
        self.stream = batches(images, batch=options.batch, seed=options.seed, images_seen=0, device=device)
        self._positions = count(0, options.batch)
        self.first_seconds = seconds(self.step, device)

    def step(self) -> None:
        """Take the next batch and the step on it; what is in no span of its own is "other"."""
        with span(OTHER):
            with span("data"):
                batch = next(self.stream)
            self.task.step(batch, next(self._positions))

    def timed(self, *, recorded: bool) -> float:
        """Take a step and return its seconds; `recorded` adds its parts to the recorder's."""
        with self.recorder.listening() if recorded else nullcontext():
            return seconds(self.step, self.device)


@contextmanager
def steppers(settings: Settings, images: ImageSet) -> Iterator[dict[Precision, Stepper]]:
    """A context that yields a warmed-up stepper for each precision, and ends their readers on leaving."""
    with ExitStack() as stack:
        made: dict[Precision, Stepper] = {}
        for precision in settings.precisions:
            made[precision] = Stepper(settings.recipe_at(precision), images, settings.device)
            stack.enter_context(closing(made[precision].stream))
            for _ in range(WARM_UP - 1 + (graphs.WARM_UP if settings.device.type == "cuda" else 0)):
                made[precision].step()
        yield made


def measure_steps(settings: Settings, images: ImageSet) -> dict[str, StepCost]:
    """Time `settings.steps` steps of each precision, the precisions and the peak of products in turn.

    On a GPU the parts are of as many further steps, which are run without their graph: the recorder waits for
    the device at every border. A
    term that comes every few steps weighs in the parts by the steps that had it, in the median hardly.
    """
    sides, repeats = settings.sizes.products, settings.sizes.repeats
    meters = {name: PeakMeter(name, settings.device, sides, repeats) for name in settings.precisions}
    times: dict[str, list[float]] = {name: [] for name in settings.precisions}
    on_cpu = settings.device.type == "cpu"
    with steppers(settings, images) as made:
        for _ in range(settings.steps):
            for name, stepper in made.items():
                meters[name].sample()
                times[name].append(stepper.timed(recorded=on_cpu))
        for meter in meters.values():
            meter.sample()
        for stepper in made.values():
            for _ in range(0 if on_cpu else settings.steps):
                stepper.timed(recorded=True)
        batch = settings.recipe.training.batch
        return {
            name: _cost(batch, times[name], stepper, meters[name].peak()) for name, stepper in made.items()
        }


def _cost(batch: int, times: list[float], stepper: Stepper, peak: Peak) -> StepCost:
    median = Seconds.over(times)
    parts = {name: value / len(times) for name, value in stepper.recorder.seconds.items()}
    shares = {name: value / sum(parts.values()) for name, value in parts.items()}
    return StepCost(
        images_per_second=batch / median.median,
        seconds=median,
        first_seconds=stepper.first_seconds,
        parts=parts,
        shares=shares,
        groups={
            "data": shares.get("data", 0.0),
            "augment": shares.get("augment", 0.0),
            "optimisers and moving average": sum(shares.get(name, 0.0) for name in UPDATES),
        },
        peak=peak,
    )


CODE = "from vitgan.bench.steps import main; main()"
STEPS = 3
MIB = 2**20
CHECKPOINTING = "activation_checkpointing"
RESIDENT = "resident memory of a fresh process at its highest over 3 steps, nothing subtracted"
ALLOCATED = "GPU memory allocated by torch at its highest over 3 steps of a fresh process"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of a process that takes a few training steps; None where the system does not tell."""

    peak_mib: float | None
    """Peak in MiB: resident memory of the process on a CPU, torch's allocations on a GPU."""
    before_mib: float | None
    """Memory in MiB before images and networks were made: on a CPU that of interpreter and libraries."""


def measure_memory(settings: Settings) -> dict[str, dict[str, Memory]]:
    """Peak memory by precision, then "plain" and, where the networks can, "activation_checkpointing"."""
    kinds = _kinds(settings.recipe)
    return {
        precision: {
            kind: memory_of(
                with_training(settings.recipe_at(precision), **changes),
                data=settings.data,
                device=settings.device,
            )
            for kind, changes in kinds.items()
        }
        for precision in settings.precisions
    }


def _kinds(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Training options by name: with checkpointing only where both networks can."""
    networks = build_networks(replace(recipe, data=replace(recipe.data, labels=False)), None)
    can = all(getattr(network, "can_recompute", False) for network in networks)
    if CHECKPOINTING not in {field.name for field in fields(TrainingOptions)} or not can:
        return {"plain": {}}
    return {"plain": {CHECKPOINTING: False}, CHECKPOINTING: {CHECKPOINTING: True}}


def memory_of(recipe: Recipe, *, data: str | None, device: torch.device) -> Memory:
    """Memory of the steps of `recipe`, in a new process with as many threads as this one. Raises UserError
    where they fail."""
    order = {"recipe": recipe.to_dict(), "data": data, "device": str(device)}
    order["threads"] = torch.get_num_threads()
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it was ended, perhaps for want of memory"]
        raise UserError(f"The steps whose memory is measured failed: {lines[-1].rstrip('.')}.")
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Take the steps that JSON on standard input describes, and print what they took."""
    order = json.loads(sys.stdin.read())
    recipe, device = Recipe.from_dict(order["recipe"]), torch.device(order["device"])
    with threads(order["threads"]):
        try:
            memory = steps_here(recipe, order["data"], device)
        except (UserError, torch.OutOfMemoryError) as error:
            sys.exit(" ".join(str(error).split()))
    print(json.dumps(asdict(memory)))


def steps_here(recipe: Recipe, data: str | None, device: torch.device) -> Memory:
    """The peak of this process over the first steps of `recipe`."""
    before = _now(device)
    if device.type == "cpu":
        keep_freed_memory()
    images = open_images(recipe.data, data, recipe.training.batch)
    task, options = GANTask(recipe, images, device), recipe.training
    stream = batches(images, batch=options.batch, seed=options.seed, images_seen=0, device=device)
    for step in range(STEPS):
        task.step(next(stream), step * options.batch)
    stream.close()
    return Memory(peak_mib=_highest(device), before_mib=before)


def _now(device: torch.device) -> float | None:
    return torch.cuda.memory_allocated(device) / MIB if device.type == "cuda" else _mib(resident())


def _highest(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return _mib(resident(highest=True))


def _mib(size: int | None) -> float | None:
    return None if size is None else size / MIB
