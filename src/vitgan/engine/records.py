"""The output of a run beside its checkpoints: log, events, samples, heartbeat, report and progress.

`RUN/events.jsonl` has a line for every start, stop and fault. `RUN/heartbeat.json` has the present state of
the run and is rewritten every few seconds: where its time stands still, the run hangs or is gone.
"""

import contextlib
import json
import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vitgan.data import ImageSet
from vitgan.distributed import collectives
from vitgan.engine.checkpoint import (
    DamagedCheckpoint,
    NewerCheckpoint,
    load_description,
    numbered,
    write_checkpoint,
)
from vitgan.engine.environment import environment
from vitgan.engine.grid import sample_files, sample_path, save_png
from vitgan.engine.loggers import RunLog, forget_after
from vitgan.engine.progress import Progress
from vitgan.engine.recipe import EvaluationOptions, RunRecipe, TrainingOptions
from vitgan.engine.report import write_report
from vitgan.errors import UserError
from vitgan.io import replacing
from vitgan.metrics import Evaluation, Evaluator, headline
from vitgan.metrics.protocol import better
from vitgan.models import Generator

EVALUATIONS, BEST = "evaluations.jsonl", "best"


class Watch:
    """Evaluates a run's generator and keeps the checkpoint that scored best, under `RUN/best/`."""

    def __init__(
        self,
        options: EvaluationOptions,
        folder: Path,
        images: ImageSet,
        device: torch.device,
        images_seen: int,
    ) -> None:
        self.folder = folder
        if collectives.rank() == 0:
            forget_after(folder / EVALUATIONS, images_seen)
        self.evaluator = Evaluator(
            images,
            features=options.features,
            metrics=options.chosen(),
            count=options.count,
            device=device,
        )

    def score(self, generator: Generator) -> Evaluation:
        """Evaluate `generator` against the run's images."""
        return self.evaluator.score(generator)

    def note(self, found: Evaluation, images_seen: int) -> None:
        """Append the evaluation, metrics and protocol, to `evaluations.jsonl`."""
        line = json.dumps({"images": images_seen, **found.to_dict()})
        with (self.folder / EVALUATIONS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def line(self, found: Evaluation, images_seen: int) -> str:
        """A line about the evaluation for the user."""
        name, value = headline(found.metrics)
        facts = found.protocol
        return (
            f"{images_seen:,} images: {name} {value:.4g} ({facts.features}, {facts.fakes:,} fakes against "
            f"{facts.reals:,} reals, protocol {facts.key()})"
        )

    def is_best(self, found: Evaluation) -> bool:
        """Whether its headline is better than every earlier one of its protocol; a NaN never is."""
        best = best_evaluation(self.folder)
        name, value = headline(found.metrics)
        before = None if best is None else best["metrics"].get(name)
        if best is None or before is None or best["protocol"]["key"] != found.protocol.key():
            return value == value
        return value > before if better(name) == "higher" else value < before

    def keep(self, images_seen: int, tensors: dict[str, torch.Tensor], description: dict[str, Any]) -> None:
        """Write the new best checkpoint, then delete the previous one."""
        place = self.folder / BEST
        write_checkpoint(place / f"{images_seen:012d}", images_seen, tensors, description)
        for old in numbered(place):
            if int(old.name) != images_seen:
                shutil.rmtree(old, ignore_errors=True)


def best_evaluation(folder: Path) -> dict[str, Any] | None:
    """The evaluation of the best checkpoint of the run in `folder`; None where none can be read."""
    for checkpoint in reversed(numbered(folder / BEST)):
        try:
            return load_description(checkpoint).get("evaluation")
        except (DamagedCheckpoint, NewerCheckpoint):
            continue
    return None


def passed(images_seen: int, every: int | None, batch: int) -> bool:
    """Whether the last step, of `batch` images, passed a multiple of `every` images."""
    return every is not None and images_seen % every < batch


def spacing(every: int, images_seen: int, most: int) -> int:
    """`every`, doubled until at most `most` multiples of it fit into `images_seen`."""
    while images_seen > most * every:
        every *= 2
    return every


MOST_SAMPLES = 200  # sample grids that stay, evenly spread over the run


def sample_spacing(options: TrainingOptions, images_seen: int) -> int:
    """Images between two sample grids of a run that has seen `images_seen` images.

    It is `options.sample_every`, doubled as the run grows: grids off the wider spacing are not drawn, and
    those that were drawn before are deleted.
    """
    return spacing(options.sample_every, images_seen, MOST_SAMPLES)


# In the order in which a step computes them: the first that is wrong is where it went wrong.
FIRST_TO_LAST = (
    "term_",
    "loss_discriminator",
    "gradient_norm_discriminator",
    "loss_generator",
    "gradient_norm_generator",
)


class Diverged(UserError):
    """Raised where a number of a training step is NaN, infinite or beyond `TrainingOptions.largest`.

    Attributes
        images: images seen before the step.
        term: the first such number's name in the log.
        values: every number of that step, by name.
    """

    def __init__(self, text: str, images: int, term: str, values: dict[str, float] | None = None) -> None:
        super().__init__(text)
        self.images, self.term, self.values = images, term, values or {}


class StepMetrics:
    """Collects the scalars of steps without waiting for the device; `read` returns their means.

    A number whose absolute value is above `largest` is treated as one that is not finite.
    """

    def __init__(self, largest: float = math.inf) -> None:
        self.largest = largest
        self._steps: list[tuple[int, dict[str, Tensor]]] = []

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(self, images_seen: int, values: dict[str, Tensor]) -> None:
        """Add the scalars of the step that began at `images_seen` images."""
        self._steps.append((images_seen, values))

    def read(self) -> dict[str, float]:
        """The mean of each scalar over all processes and over the steps since the last call that had it.

        Raises Diverged, with the image count, the scalar's name and the gradient norms, where one is out of
        bounds.
        """
        steps = [(images, list(values), torch.stack(list(values.values()))) for images, values in self._steps]
        self._steps.clear()
        if not steps:
            return {}
        numbers = torch.cat([values for _, _, values in steps]).cpu()
        collectives.average_gradients_([numbers])
        parts = numbers.split([len(names) for _, names, _ in steps])
        found = [
            dict(zip(names, part.tolist(), strict=True))
            for (_, names, _), part in zip(steps, parts, strict=True)
        ]
        for (images, _, _), values in zip(steps, found, strict=True):
            self._check(images, values)
        names = dict.fromkeys(name for values in found for name in values)
        columns = {name: [values[name] for values in found if name in values] for name in names}
        return {name: sum(column) / len(column) for name, column in columns.items()}

    def _check(self, images: int, values: dict[str, float]) -> None:
        most = min(self.largest, sys.float_info.max)
        wrong = [name for name, value in values.items() if not abs(value) <= most]
        if not wrong:
            return
        term = next((name for start in FIRST_TO_LAST for name in wrong if name.startswith(start)), wrong[0])
        how = "became" if not math.isfinite(values[term]) else "exploded to"
        norms = [
            f"{name.removeprefix('gradient_norm_').replace('gradient_norm', 'network')} {value:.4g}"
            for name, value in values.items()
            if name.startswith("gradient_norm")
        ]
        said = f" (gradient norms: {', '.join(norms)})" if norms else ""
        value = f"{values[term]:.4g}" if math.isfinite(values[term]) else f"{values[term]}"
        text = f"{term.removeprefix('term_')} {how} {value} at image {images}{said}"
        raise Diverged(text, images, term, values)


EVENTS, HEARTBEAT = "events.jsonl", "heartbeat.json"
SECONDS_BETWEEN_BEATS = 10.0


class Records:
    """Writes the files of one run, from `images_seen` on. Methods raise OSError where the disk is full."""

    def __init__(
        self,
        recipe: RunRecipe,
        folder: Path,
        device: torch.device,
        *,
        images_seen: int,
        seconds: float,
        quiet: bool,
    ) -> None:
        self.recipe, self.folder, self.device = recipe, folder, device
        self.log = RunLog(folder, images_seen, recipe.loggers, recipe.to_dict())
        options = recipe.training
        self.progress = Progress(
            images_seen=images_seen,
            target_images=options.images,
            target_seconds=None if options.minutes is None else options.minutes * 60,
            seconds=seconds,
            quiet=quiet,
        )
        self.message = self.progress.message
        self._beaten = -SECONDS_BETWEEN_BEATS
        self._speed = 0.0

    def scalars(self, images_seen: int, line: dict[str, float]) -> None:
        """Write a line of the log and update the progress."""
        self.log.scalars(images_seen, line)
        self._speed = line["images_per_second"]
        self.progress.update(images_seen, line["seconds"], line)

    def event(self, kind: str, images_seen: int, **facts: Any) -> None:
        """Append an event of the run, with the present time, to `events.jsonl`."""
        line = {"time": _now(), "event": kind, "images": images_seen, **facts}
        with (self.folder / EVENTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def beat(self, images_seen: int, seconds: float, state: str, *, now: bool = False) -> None:
        """Write the heartbeat, at most every 10 seconds unless `now`; a full disk is ignored.

        It also prints a line where the progress has printed none for long.
        """
        clock = time.monotonic()
        if not now and clock - self._beaten < SECONDS_BETWEEN_BEATS:
            return
        self._beaten = clock
        self.progress.beat(images_seen, seconds, state)
        facts = {
            "time": _now(),
            "state": state,
            "images": images_seen,
            "seconds": round(seconds, 1),
            "images_per_second": round(self._speed, 1),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "processes": collectives.world_size(),
            **_resources(self.folder, self.device),
        }
        with contextlib.suppress(OSError), replacing(self.folder / HEARTBEAT) as temporary:
            temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    def sample(self, images_seen: int, picture: Image.Image) -> None:
        """Write a sample grid, and delete the earlier ones that are off the present `sample_spacing`."""
        path = sample_path(self.folder, images_seen)
        path.parent.mkdir(exist_ok=True)
        save_png(path, picture)
        self.log.sample(images_seen, path)
        options = self.recipe.training
        every = sample_spacing(options, images_seen)
        for old in sample_files(self.folder):
            seen = int(old.stem)
            if seen < images_seen and not passed(seen, every, options.batch):
                old.unlink(missing_ok=True)

    def has_sample(self, images_seen: int) -> bool:
        """Whether there is a sample grid at `images_seen`."""
        return sample_path(self.folder, images_seen).exists()

    def diverged(self, error: Diverged, clocks: Mapping[str, float]) -> None:
        """Write the step that diverged, with all of its scalars, to the log and the events."""
        self.log.scalars(error.images, {**clocks, **error.values, f"diverged_{error.term}": 1.0})
        norms = {k: v for k, v in error.values.items() if k.startswith("gradient_norm")}
        shown = {key: value if abs(value) < float("inf") else str(value) for key, value in norms.items()}
        self.event("diverged", error.images, term=error.term, reason=str(error), **shown)

    def report(self, status: str) -> None:
        """Write the run's page `report.html`; `status` is a sentence on how the run stands."""
        write_report(
            self.folder,
            title=f"vitgan {self.recipe.name}",
            recipe=self.recipe.to_dict(),
            environment=environment(self.device),
            status=status,
        )

    def close(self) -> None:
        self.progress.close()
        self.log.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _resources(folder: Path, device: torch.device) -> dict[str, float]:
    """The memory of this process and of the GPU in MiB, and the free space of the run's disk in GiB."""
    found = {"disk_free_gib": round(shutil.disk_usage(folder).free / 2**30, 2)}
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found["memory_mib"] = round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    if device.type == "cuda":
        found["gpu_memory_mib"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return found
