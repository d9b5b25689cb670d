"""The training loop and what surrounds a step: clocks, log, samples, checkpoints, stops."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from vitgan.adversarial import Game, train_step
from vitgan.data import Batch, ImageSet, batches
from vitgan.engine.checkpoint import load_newest, prune, save_checkpoint
from vitgan.engine.ema import update_average
from vitgan.engine.environment import environment
from vitgan.engine.folder import check, claimed, unwritable
from vitgan.engine.images import grid, save_png
from vitgan.engine.interrupt import Interrupt, stop_on_signals
from vitgan.engine.log import RunLog
from vitgan.engine.memory import keep_freed_memory
from vitgan.engine.metrics import Diverged, StepMetrics
from vitgan.engine.progress import Progress
from vitgan.engine.recipe import Recipe
from vitgan.engine.report import write_report
from vitgan.engine.state import State, activation_dtype, build_state, step_generator
from vitgan.errors import UserError
from vitgan.models import to_uint8


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


def train(recipe: Recipe, folder: Path, *, device: torch.device, quiet: bool = False) -> Outcome:
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
            state = build_state(recipe, images, device)
            stack.enter_context(claimed(folder, recipe))
            interrupt = stack.enter_context(stop_on_signals())
            run = Run(recipe, folder, images, state, quiet)
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

    def __init__(self, recipe: Recipe, folder: Path, images: ImageSet, state: State, quiet: bool) -> None:
        self.recipe, self.folder, self.images, self.state = recipe, folder, images, state
        self.options = recipe.training
        self.device = device = next(state.average.parameters()).device
        self.metrics = StepMetrics()
        notes = self._resume()
        self.saved_images = self.state.images_seen
        self.log = RunLog(folder, self.state.images_seen)
        minutes = self.options.minutes
        self.progress = Progress(
            images_seen=self.state.images_seen,
            target_images=self.options.images,
            target_seconds=None if minutes is None else minutes * 60,
            seconds=self.state.seconds,
            quiet=quiet,
        )
        for note in notes:
            self.progress.message(note)
        self.game = Game(
            loss=recipe.loss,
            augment=recipe.augment,
            terms=tuple(term for term in recipe.terms if term.active),
            dtype=activation_dtype(self.options.precision, device),
        )
        self.labels = self._sample_labels()
        self.latents = self.state.average.latents(self.options.sample_count, seed=self.options.seed).to(
            device
        )
        self._began = time.perf_counter() - self.state.seconds
        self._logged = (self.state.images_seen, self.state.seconds)
        self._saved_seconds = self.state.seconds

    def train(self, interrupt: Interrupt) -> Outcome:
        """The loop."""
        state, batch = self.state, self.options.batch
        if not self._finished():
            stream = batches(
                self.images,
                batch=batch,
                seed=self.options.seed,
                images_seen=state.images_seen,
                device=self.device,
            )
            if state.images_seen == 0:
                self._sample()
            with closing(stream):
                while not self._finished() and not interrupt:
                    self._step(next(stream))
                    self._after_step()
            self._save()
        ended = "complete" if self._finished() else "interrupted"
        self._end(ended, interrupt)
        return Outcome(self.folder, state.images_seen, state.seconds, ended)

    def _step(self, batch: Batch) -> None:
        recipe, state, size = self.recipe, self.state, self.options.batch
        players, seen = state.players, state.images_seen
        self.rates = {
            "learning_rate_generator": recipe.optimiser_generator.set_rate(
                players.optimiser_generator, seen, size
            ),
            "learning_rate_discriminator": recipe.optimiser_discriminator.set_rate(
                players.optimiser_discriminator, seen, size
            ),
        }
        rng = step_generator(self.options.seed, seen, self.device)
        values = train_step(players, self.game, batch.images, batch.labels, rng, seen // size)
        self.metrics.add(seen, values)
        state.images_seen += size
        update_average(state.average, players.generator, recipe.ema.decay(size, state.images_seen))
        state.seconds = time.perf_counter() - self._began

    def _after_step(self) -> None:
        if self._due(self.options.log_every):
            self._write_log()
        if self._due(self.options.sample_every):
            self._sample()
        waited = self.state.seconds - self._saved_seconds
        if self._due(self.options.checkpoint_every) or waited > 60 * self.options.checkpoint_minutes:
            self._save()

    def _due(self, every: int) -> bool:
        """Whether the last step passed a multiple of `every` images."""
        return self.state.images_seen % every < self.options.batch

    def _finished(self) -> bool:
        images, minutes = self.options.images, self.options.minutes
        enough_images = images is not None and self.state.images_seen >= images
        return enough_images or (minutes is not None and self.state.seconds >= 60 * minutes)

    def _write_log(self) -> None:
        if not self.metrics:
            return
        values = self.metrics.read()
        state, (images, seconds) = self.state, self._logged
        speed = (state.images_seen - images) / max(state.seconds - seconds, 1e-9)
        clocks = {"seconds": state.seconds, "step": state.images_seen // self.options.batch}
        self.log.scalars(state.images_seen, clocks | {"images_per_second": speed} | values | self.rates)
        self.progress.update(state.images_seen, state.seconds, values)
        self._logged = (state.images_seen, state.seconds)

    def _sample(self) -> None:
        """A grid of the fixed latents by the averaged generator."""
        with torch.no_grad():
            images = self.state.average(self.latents, self.labels)
        (self.folder / "samples").mkdir(exist_ok=True)
        path = self.folder / "samples" / f"{self.state.images_seen:012d}.png"
        save_png(path, grid(to_uint8(images)))
        self.log.sample(self.state.images_seen, path)

    def _sample_labels(self) -> torch.Tensor | None:
        classes = self.state.average.classes
        return torch.arange(self.options.sample_count, device=self.device) % classes if classes else None

    def _save(self) -> None:
        """A checkpoint, unless a number since the last one was not finite."""
        self._write_log()
        if self.state.images_seen == self.saved_images:
            return
        description = {
            "seconds": self.state.seconds,
            "recipe": self.recipe.to_dict(),
            "classes": self.state.average.classes,
            "data": {"fingerprint": self.images.fingerprint, "images": len(self.images)},
            "environment": environment(self.device),
        }
        tensors = self.state.tensors()
        if any(not torch.isfinite(tensor).all() for tensor in tensors.values()):
            raise Diverged(f"a weight became NaN or infinite at image {self.state.images_seen}")
        save_checkpoint(self.folder, self.state.images_seen, tensors, description)
        prune(self.folder, self.options.keep, newest=self.state.images_seen)
        self.saved_images, self._saved_seconds = self.state.images_seen, self.state.seconds

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
        self.state.load(tensors)
        self.state.images_seen, self.state.seconds = description["images"], description["seconds"]
        return [*notes, f"Resuming {self.folder} at {self.state.images_seen:,} images."]

    def _end(self, ended: str, interrupt: Interrupt) -> None:
        state = self.state
        if state.images_seen and not (self.folder / "samples" / f"{state.images_seen:012d}.png").exists():
            self._sample()
        self.report(ended)
        done = f"{state.images_seen:,} images in {state.seconds / 60:.1f} minutes"
        if ended == "complete":
            self.progress.message(f"Done: {done}. Report: {self.folder / 'report.html'}")
        else:
            saved = "saved" if state.images_seen else "nothing to save yet"
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
        return UserError(
            f"Training stopped: {error}. {self.saved_so_far()} Lower the learning rates "
            "(--optimiser-generator.learning-rate, --optimiser-discriminator.learning-rate) "
            "and use another --out."
        )

    def saved_so_far(self) -> str:
        if self.saved_images == 0:
            return "There is no checkpoint yet."
        return f"The last good checkpoint is at image {self.saved_images:,}."

    def close(self) -> None:
        self.progress.close()
        self.log.close()
