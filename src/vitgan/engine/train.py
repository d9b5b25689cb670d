"""The training loop and what surrounds a step: clocks, log, samples, checkpoints, stops."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from vitgan.data import Batch, ImageSet, batches
from vitgan.engine.checkpoint import load_newest, prune, save_checkpoint
from vitgan.engine.environment import environment
from vitgan.engine.evaluation import EvaluationOptions, Watch
from vitgan.engine.folder import check, claimed, unwritable
from vitgan.engine.images import save_png
from vitgan.engine.interrupt import Interrupt, stop_on_signals
from vitgan.engine.log import RunLog
from vitgan.engine.memory import keep_freed_memory
from vitgan.engine.metrics import Diverged, StepMetrics
from vitgan.engine.progress import Progress
from vitgan.engine.recipe import Recipe
from vitgan.engine.report import write_report
from vitgan.engine.schedule import AdamOptions
from vitgan.engine.supervised import build_task
from vitgan.engine.supervised_recipes import AnyRecipe
from vitgan.engine.task import Task
from vitgan.errors import UserError


def choose_device(name: str | None) -> torch.device:
    """ "cpu", "cuda", or with None whichever there is. Raises UserError for a GPU that is not there."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "There is no CUDA GPU that torch can use here: leave --device out, or give --device cpu."
        )
    return torch.device(name)


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended."""

    folder: Path
    images_seen: int
    seconds: float
    ended: Literal["complete", "interrupted"]


def train(recipe: AnyRecipe, folder: Path, *, device: torch.device, quiet: bool = False) -> Outcome:
    """Train `recipe` in `folder`, from its newest checkpoint if it has one, until its images or minutes.

    Raises UserError on a user's mistake, a full disk, or numbers that are not finite; the last checkpoint
    is kept. SIGINT and SIGTERM end it after the present step, saved.
    """
    check(folder, recipe)
    if device.type == "cpu":
        keep_freed_memory()
    images = recipe.data.build()
    try:
        with ExitStack() as stack:
            stack.enter_context(threads(recipe.training.threads))
            task, images = build_task(recipe, images, device)
            stack.enter_context(claimed(folder, recipe))
            interrupt = stack.enter_context(stop_on_signals())
            run = Run(recipe, folder, images, task, device, quiet)
            stack.callback(run.close)
            try:
                return run.train(interrupt)
            except Diverged as error:
                raise run.diverged(error) from error
    except torch.OutOfMemoryError as error:
        raise UserError("The GPU's memory is full: lower --training.batch, or free the GPU.") from error
    except OSError as error:
        raise unwritable(folder, error) from error


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Within it torch computes with `count` CPU threads; None leaves the number as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Run:
    """One run while it trains."""

    def __init__(
        self, recipe: AnyRecipe, folder: Path, images: ImageSet, task: Task, device: torch.device, quiet: bool
    ) -> None:
        self.recipe, self.folder, self.images, self.task = recipe, folder, images, task
        self.options, self.device = recipe.training, device
        self.evaluation = recipe.evaluation if isinstance(recipe, Recipe) else EvaluationOptions()
        self.images_seen, self.seconds = 0, 0.0
        self.metrics = StepMetrics()
        notes = self._resume()
        self.saved_images = self.images_seen
        self.log = RunLog(folder, self.images_seen)
        minutes = self.options.minutes
        self.progress = Progress(
            images_seen=self.images_seen,
            target_images=self.options.images,
            target_seconds=None if minutes is None else minutes * 60,
            seconds=self.seconds,
            quiet=quiet,
        )
        for note in [*notes, self.task.note]:
            if note is not None:
                self.progress.message(note)
        self._first_step = True
        self.watch = self._watch()
        self._began = time.perf_counter() - self.seconds
        self._logged = (self.images_seen, self.seconds)
        self._saved_seconds = self.seconds

    def train(self, interrupt: Interrupt) -> Outcome:
        """The loop."""
        if not self._finished():
            stream = batches(
                self.images,
                batch=self.options.batch,
                seed=self.options.seed,
                images_seen=self.images_seen,
                device=self.device,
            )
            if self.images_seen == 0:
                self._sample()
            with closing(stream):
                while not self._finished() and not interrupt:
                    self._step(next(stream))
                    self._after_step()
            self._save()
        ended = "complete" if self._finished() else "interrupted"
        self._end(ended, interrupt)
        return Outcome(self.folder, self.images_seen, self.seconds, ended)

    def _step(self, batch: Batch) -> None:
        values, self.rates = self.task.step(batch, self.images_seen)
        self.metrics.add(self.images_seen, values)
        self.images_seen += self.options.batch
        before, self.seconds = self.seconds, time.perf_counter() - self._began
        if self._first_step and self.task.note is not None:
            self.progress.message(f"The first step took {self.seconds - before:.0f} seconds.")
        self._first_step = False

    def _after_step(self) -> None:
        scores = self._evaluate() if self.watch and self._due(self.evaluation.every) else {}
        if scores or self._due(self.options.log_every):
            self._write_log(scores)
        if self._due(self.options.sample_every):
            self._sample()
        waited = self.seconds - self._saved_seconds
        if self._due(self.options.checkpoint_every) or waited > 60 * self.options.checkpoint_minutes:
            self._save()

    def _watch(self) -> Watch | None:
        """What scores the run while it trains, if its recipe asks for that."""
        options = self.evaluation
        if options.every is None or self.task.generator is None:
            return None
        return Watch(options, self.folder, self.images, self.device, self.images_seen)

    def _evaluate(self) -> dict[str, float]:
        """Score, keep the checkpoint if it is the best, give what the log shows. No training time passes."""
        assert self.watch is not None
        assert self.task.generator is not None
        start = time.perf_counter()
        found = self.watch.score(self.task.generator, self.images_seen)
        if self.watch.is_best(found):
            description = self._description() | {"evaluation": found.to_dict()}
            self.watch.keep(self.images_seen, self.task.tensors(), description)
        self.progress.message(self.watch.line(found, self.images_seen))
        self._began += time.perf_counter() - start
        shown = {name: value for name, value in found.metrics.items() if not name.startswith("class_share")}
        key = (
            found.protocol.key()
        )  # a run may go on with another protocol: its numbers get a curve of their own
        return {f"evaluation_{name}_{key}": value for name, value in shown.items()}

    def _due(self, every: int | None) -> bool:
        """Whether the last step passed a multiple of `every` images."""
        return every is not None and self.images_seen % every < self.options.batch

    def _finished(self) -> bool:
        images, minutes = self.options.images, self.options.minutes
        enough_images = images is not None and self.images_seen >= images
        return enough_images or (minutes is not None and self.seconds >= 60 * minutes)

    def _write_log(self, scores: dict[str, float] | None = None) -> None:
        if not self.metrics:
            return
        values = self.metrics.read()
        images, seconds = self._logged
        speed = (self.images_seen - images) / max(self.seconds - seconds, 1e-9)
        clocks = {"seconds": self.seconds, "step": self.images_seen // self.options.batch}
        line = clocks | {"images_per_second": speed} | values | self.rates | (scores or {})
        self.log.scalars(self.images_seen, line)
        self.progress.update(self.images_seen, self.seconds, values)
        self._logged = (self.images_seen, self.seconds)

    def _sample(self) -> None:
        """A picture of what the task can do."""
        (self.folder / "samples").mkdir(exist_ok=True)
        path = self.folder / "samples" / f"{self.images_seen:012d}.png"
        save_png(path, self.task.picture())
        self.log.sample(self.images_seen, path)

    def _save(self) -> None:
        """A checkpoint, unless a number since the last one was not finite."""
        self._write_log()
        if self.images_seen == self.saved_images:
            return
        tensors = self.task.tensors()
        if any(not torch.isfinite(tensor).all() for tensor in tensors.values()):
            raise Diverged(f"a weight became NaN or infinite at image {self.images_seen}")
        save_checkpoint(self.folder, self.images_seen, tensors, self._description())
        prune(self.folder, self.options.keep, newest=self.images_seen)
        self.saved_images, self._saved_seconds = self.images_seen, self.seconds

    def _description(self) -> dict[str, Any]:
        """What a checkpoint says beside its tensors."""
        return {
            "seconds": self.seconds,
            "recipe": self.recipe.to_dict(),
            **self.task.facts(),
            "data": {"fingerprint": self.images.fingerprint, "images": len(self.images)},
            "environment": environment(self.device),
        }

    def _resume(self) -> list[str]:
        """Load the newest checkpoint that is whole; returns the lines to say about it."""
        notes: list[str] = []
        found = load_newest(self.folder, notes.append)
        if found is None:
            return notes
        tensors, description = found
        if description["data"]["fingerprint"] != self.images.fingerprint:
            raise UserError(
                f"{self.folder} was trained on other images ({description['data']['images']:,} then, "
                f"{len(self.images):,} now): give the same --data, or another folder with --out."
            )
        self.task.load(tensors)
        self.images_seen, self.seconds = description["images"], description["seconds"]
        return [*notes, f"Resuming {self.folder} at {self.images_seen:,} images."]

    def _end(self, ended: str, interrupt: Interrupt) -> None:
        if self.images_seen and not (self.folder / "samples" / f"{self.images_seen:012d}.png").exists():
            self._sample()
        self.report(ended)
        done = f"{self.images_seen:,} images in {self.seconds / 60:.1f} minutes"
        if ended == "complete":
            self.progress.message(f"Done: {done}. Report: {self.folder / 'report.html'}")
        else:
            saved = "saved" if self.images_seen else "nothing to save yet"
            self.progress.message(
                f"Stopped by {interrupt.signal_name}, {saved}: {done}. The same command goes on."
            )

    def report(self, status: str) -> None:
        """Write the run's page."""
        write_report(
            self.folder,
            title=f"vitgan {self.recipe.name}",
            recipe=self.recipe.to_dict(),
            environment=environment(self.device),
            status=status,
        )

    def diverged(self, error: Diverged) -> UserError:
        """The sentence for numbers that are not finite, with the report written."""
        self.report(f"stopped: {error}")
        parts = (f.name for f in fields(self.recipe) if isinstance(getattr(self.recipe, f.name), AdamOptions))
        rates = [f"--{name.replace('_', '-')}.learning-rate" for name in parts]
        return UserError(
            f"Training stopped: {error}. {self.saved_so_far()} "
            f"Lower the learning rate{'s' * (len(rates) > 1)} ({', '.join(rates)}) and use another --out."
        )

    def saved_so_far(self) -> str:
        if self.saved_images == 0:
            return "There is no checkpoint yet."
        return f"The last good checkpoint is at image {self.saved_images:,}."

    def close(self) -> None:
        self.progress.close()
        self.log.close()
