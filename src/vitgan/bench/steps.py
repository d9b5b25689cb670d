"""The whole training step, its rate and its parts."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count

import torch

from vitgan.bench.peak import Peak, PeakMeter, Seconds, seconds
from vitgan.bench.settings import Settings
from vitgan.data import ImageSet, batches
from vitgan.engine import compile as graphs
from vitgan.engine.gan import GANTask, Recipe
from vitgan.engine.recipe import Precision
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
