"""All the measurements of one call, in one process on one machine."""

import sys
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from vitgan.bench import PARTS
from vitgan.bench.components import measure_attention, measure_sampling, measure_spectral, measure_startup
from vitgan.bench.flops import StepFlops, cost, countable, step_flops
from vitgan.bench.peak import measure_peak
from vitgan.bench.settings import Settings
from vitgan.bench.steps import ALLOCATED, RESIDENT, StepCost, measure_memory, measure_steps
from vitgan.data import ImageSet
from vitgan.engine.environment import environment, keep_freed_memory
from vitgan.engine.train import threads
from vitgan.errors import UserError

DEFINITIONS = {
    "mfu": "model FLOPs utilisation: FLOPs that the method asks for, times images/s, over the peak",
    "hfu": "hardware FLOPs utilisation: FLOPs that the step performs, times images/s, over the peak",
    "peak": "best median rate of square products over moments before, between and after the steps",
}


def bench(settings: Settings, command: str = "") -> dict[str, Any]:
    """Measure the parts that `settings` names; returns what `--json` writes.

    Raises UserError where the images cannot be opened, or the GPU's memory is full.
    """
    if settings.device.type == "cpu":
        keep_freed_memory()
    with threads(settings.threads or settings.recipe.training.threads):
        report: dict[str, Any] = {
            "environment": environment(settings.device),
            "command": command,
            "settings": settings.to_dict(),
            "recipe": settings.recipe.to_dict(),
            "definitions": DEFINITIONS,
        }
        measures = Measures(settings)
        try:
            for part in PARTS:
                if part in settings.parts:
                    measures.say(part)
                    report[part] = getattr(measures, part)()
        except torch.OutOfMemoryError as error:
            raise UserError("The GPU's memory is full: lower --batch, or free the GPU.") from error
    return report


class Measures:
    """The measurements, a method for each part, ready for JSON; a later one uses what an earlier one
    found."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.sizes = settings, settings.sizes
        self.images: ImageSet = settings.images()
        self._flops: StepFlops | None = None
        self._step_seconds: dict[str, float] = {}

    def say(self, part: str) -> None:
        """Print a line of progress to standard error."""
        if not self.settings.quiet:
            print(f"vitgan bench: {part}", file=sys.stderr, flush=True)

    def startup(self) -> dict[str, Any]:
        """How long the command line takes to start."""
        return asdict(measure_startup(self.sizes.launches))

    def peak(self) -> dict[str, Any]:
        """The peak rate of matrix products, by precision."""
        sizes = self.sizes
        sized = partial(measure_peak, sides=sizes.products, rounds=sizes.rounds, repeats=sizes.repeats)
        return {
            name: asdict(peak) for name, peak in sized(self.settings.precisions, self.settings.device).items()
        }

    def flops(self) -> dict[str, Any]:
        """FLOPs of a training step, divided by the images of its batch."""
        recipe, device = self.settings.recipe_at("fp32"), self.settings.device
        classes = len(self.images.classes)
        self._flops = step_flops(
            recipe, classes, count=lambda: cost(recipe, self.images, device).flops_per_image
        )
        found = {"method_per_image": self._flops.method, "performed_per_image": self._flops.performed}
        return found | {"performed_by": self._flops.by}

    def step(self) -> dict[str, Any]:
        """Rate and parts of the training step, by precision."""
        if self._flops is None and countable(self.settings.recipe):
            self.flops()
        steps = measure_steps(self.settings, self.images)
        self._step_seconds = {name: step.seconds.median for name, step in steps.items()}
        return {name: asdict(step) | self._utilisation(step) for name, step in steps.items()}

    def isn(self) -> dict[str, Any] | None:
        """The cost of spectral norm; None for a discriminator without it."""
        found = measure_spectral(self.settings, self.images, self._step_seconds)
        return None if found is None else asdict(found)

    def attention(self) -> list[dict[str, Any]]:
        """The cost of attention, a row for each size and precision."""
        return [asdict(row) for row in measure_attention(self.settings)]

    def sampling(self) -> list[dict[str, Any]]:
        """The rate of sampling, a row for each batch and precision."""
        return [asdict(row) for row in measure_sampling(self.settings, self.images)]

    def memory(self) -> dict[str, Any]:
        """Peak memory of the training step, by precision."""
        measure = ALLOCATED if self.settings.device.type == "cuda" else RESIDENT
        found = measure_memory(self.settings)
        kinds = {name: {kind: asdict(m) for kind, m in of.items()} for name, of in found.items()}
        return {"measure": measure} | kinds

    def _utilisation(self, step: StepCost) -> dict[str, float | None]:
        """MFU and HFU, shares of the peak; None where the FLOPs are not known."""
        scale = step.images_per_second / (1e9 * step.peak.gflops)
        method = None if self._flops is None else self._flops.method
        performed = None if self._flops is None else self._flops.performed
        return {
            "mfu": None if method is None else method * scale,
            "hfu": None if performed is None else performed * scale,
        }
