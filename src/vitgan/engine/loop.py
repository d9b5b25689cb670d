"""One run while it trains: the loop, its clocks, and when to log, draw, score and save.

Every process of a run goes through the same loop; the first alone has `records` and writes.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch

from vitgan.data import Batch, ImageSet, batches
from vitgan.distributed import collectives
from vitgan.engine.checkpoint import data_facts, prune, restore, save_checkpoint
from vitgan.engine.environment import environment
from vitgan.engine.gan import GANTask
from vitgan.engine.recipe import RunRecipe
from vitgan.engine.records import Diverged, Records, StepMetrics, Watch, passed, sample_spacing, spacing
from vitgan.engine.run_folder import read_run
from vitgan.engine.task import Task
from vitgan.metrics import Evaluation

STDERR = 2
TWICE = 3.0  # seconds: torchrun passes a signal on to processes whose terminal has sent it already
LONGEST_WAIT = 2.0  # seconds that a wait for data may take after a signal


class WaitEnded(BaseException):
    """Raised within `Interrupt.ends_waits` when a signal came and the wait did not end in time.

    It is no Exception, because what reads images takes any Exception for that of a damaged image.
    """


class Interrupt:
    """A request to stop that came as a signal; false until one has come."""

    def __init__(self) -> None:
        self.number = 0
        self._asked = 0.0
        self._pause = TWICE if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
        self._waiting, self._overdue = False, False
        self._timer: threading.Timer | None = None

    @property
    def signal_name(self) -> str | None:
        return signal.Signals(self.number).name if self.number else None

    def __bool__(self) -> bool:
        return self.number > 0

    def ask(self, number: int, frame: FrameType | None = None) -> None:  # noqa: ARG002
        """The signal handler. The first signal is recorded, a second one raises KeyboardInterrupt at once."""
        if self._overdue:  # the signal that `_end_wait` has sent
            self._overdue = False
            if self._waiting:
                raise WaitEnded
            return
        if self:
            if time.monotonic() - self._asked >= self._pause:
                raise KeyboardInterrupt
            return
        self.number, self._asked = number, time.monotonic()
        if self._waiting:
            self._set_timer()
        with contextlib.suppress(OSError):
            if os.isatty(STDERR):  # by the system's write: Python's own may not be entered twice
                os.write(STDERR, b"\nStopping after this step; once more to stop at once, unsaved.\n")

    @contextlib.contextmanager
    def ends_waits(self) -> Iterator[None]:
        """A context for a wait that may never end: WaitEnded is raised in it 2 seconds after a signal."""
        self._waiting = True
        try:
            if self:
                self._set_timer()
            yield
        finally:
            self._waiting = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _set_timer(self) -> None:
        self._timer = threading.Timer(LONGEST_WAIT, self._end_wait, (threading.get_ident(),))
        self._timer.daemon = True
        self._timer.start()

    def _end_wait(self, thread: int) -> None:
        """Send the signal once more to the waiting thread, so that a system call in it returns."""
        if self._waiting:
            self._overdue = True
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(thread, self.number)
            else:
                signal.raise_signal(self.number)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Interrupt]:
    """A context within which SIGINT and SIGTERM set the Interrupt that it yields.

    Outside the main thread, where Python allows no handlers, signals stay as they are.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.signal(number, interrupt.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


MOST_LINES = 20_000  # of the log before the images between two lines double
MOST_MILESTONES = 8  # checkpoints kept for good before the images between two double
MOST_ROLLBACKS = 5  # without a checkpoint in between


@dataclass(frozen=True)
class Outcome:
    """The end of a call of `train`: the run's folder, the images seen and seconds trained in all, and whether
    the run is complete."""

    folder: Path
    images_seen: int
    seconds: float
    ended: Literal["complete", "interrupted"]


def lacking_images(recipe: RunRecipe, images_seen: int, seconds: float) -> int:
    """How many images a run that its minutes have ended lacks of those that its recipe needs; 0 for none.

    A run that has seen the `images` that it was asked for lacks none.
    """
    options = recipe.training
    asked_for = options.images is not None and images_seen >= options.images
    in_time = options.minutes is None or seconds < 60 * options.minutes
    return 0 if options.enough is None or asked_for or in_time else max(options.enough - images_seen, 0)


class Run:
    """A run in this process: the training loop, its clocks, and what is due when."""

    def __init__(
        self, recipe: RunRecipe, folder: Path, images: ImageSet, task: Task, device: torch.device, quiet: bool
    ) -> None:
        self.recipe, self.folder, self.images, self.task = recipe, folder, images, task
        self.options, self.device, self.quiet = recipe.training, device, quiet
        self.evaluation = recipe.evaluation
        self.records: Records | None = None
        self._first_step, self._tries, self.rollbacks, self._stop = True, 0, 0, 0
        self._restore()
        self._watch = self._build_watch()

    def _restore(self) -> None:
        """Load the newest checkpoint, or begin at image 0, and open the records there."""
        restored = restore(self.folder, self.images, self.task)
        self.images_seen, self.seconds = restored.images_seen, restored.seconds
        began = [] if restored.found else self._begin()
        self.rollbacks = max(self.rollbacks, restored.rollbacks)
        self.saved_images = restored.images_seen if restored.found else None
        self.metrics = StepMetrics(self.options.largest)
        self._began = time.perf_counter() - self.seconds
        self._logged, self._saved_seconds = (self.images_seen, self.seconds), self.seconds
        if collectives.rank() == 0:
            self.close()
            clocks = {"images_seen": self.images_seen, "seconds": self.seconds}
            self.records = Records(self.recipe, self.folder, self.device, **clocks, quiet=self.quiet)
            for note in [*restored.notes, *began, self.task.note if self._first_step else None]:
                if note is not None:
                    self.records.message(note)

    def _begin(self) -> list[str]:
        """Load the weights that the recipe's `start` names, which rank 0 reads; returns lines that say so."""
        start = getattr(self.recipe, "start", None)
        if start is None or start.source is None:
            return []
        tensors = None
        with collectives.errors_shared():
            if collectives.rank() == 0:
                from vitgan.sharing.hub import find

                tensors = read_run(find(start.source))[0]
        with collectives.errors_shared():
            assert isinstance(self.task, GANTask)
            return self.task.start_from(collectives.broadcast_tensors(tensors), start.source)

    def train(self, interrupt: Interrupt) -> Outcome:
        """Train until the images or minutes are reached or a signal comes, with rollbacks where allowed."""
        self._on_main(
            lambda records: records.event("started", self.images_seen, processes=collectives.world_size())
        )
        going = not self._finished()
        while going:
            try:
                self._train(interrupt)
                going = False
            except Diverged as error:
                self._diverged(error)
        ended = "complete" if self._finished() else "interrupted"
        self._on_main(lambda records: self._end(records, ended))
        return Outcome(self.folder, self.images_seen, self.seconds, ended)

    def _train(self, interrupt: Interrupt) -> None:
        """The training loop. Raises Diverged where a number is out of bounds."""
        stream = batches(
            self.images,
            batch=self.options.batch,
            seed=self._seed(),
            images_seen=self.images_seen,
            device=self.device,
            rank=collectives.rank(),
            ranks=collectives.world_size(),
        )
        if self.images_seen == 0:
            self._sample()
            self._save()
        (self._stop,) = map(int, collectives.all_reduce_max([interrupt.number]))
        with closing(stream):
            while not self._finished() and not self._stop:
                if not self._stepped(stream, interrupt):
                    break
                self._agree(interrupt)
                self._after_step()
        self._save()

    def _stepped(self, stream: Iterator[Batch], interrupt: Interrupt) -> bool:
        """Take a step; False where a signal came and the next batch, or the step, did not end in time.

        Only a step before which all is saved is given up. Of several processes the one that waits raises
        KeyboardInterrupt, as the others are in the midst of the step.
        """
        saved = self.images_seen in (0, self.saved_images) and collectives.world_size() == 1
        try:
            with interrupt.ends_waits():
                batch = next(stream)
            with interrupt.ends_waits() if saved else contextlib.nullcontext():
                self._step(batch)
        except WaitEnded:
            if collectives.world_size() > 1:
                raise KeyboardInterrupt from None
            self._stop = interrupt.number
            return False
        return True

    def _seed(self) -> int:
        """The seed of random numbers drawn now: the recipe's, and another one after each rollback."""
        if self.rollbacks == 0:
            return self.options.seed
        return int(np.random.SeedSequence((self.options.seed, self.rollbacks)).generate_state(1)[0])

    def _step(self, batch: Batch) -> None:
        values, self.rates = self.task.step(batch, self.images_seen, self._seed())
        self.metrics.add(self.images_seen, values)
        self.images_seen += self.options.batch

    def _agree(self, interrupt: Interrupt) -> None:
        """Share rank 0's clock and any process's signal, so that all ranks stop after the same step."""
        clock = time.perf_counter() - self._began if collectives.rank() == 0 else 0.0
        before = self.seconds
        self.seconds, number = collectives.all_reduce_max([clock, interrupt.number])
        self._stop = int(number)
        if self._first_step and self.task.note is not None and self.records is not None:
            self.records.message(f"The first step took {self.seconds - before:.0f} seconds.")
        self._first_step = False

    def _after_step(self) -> None:
        scores = self._evaluate() if self._watch and self._due(self.evaluation.every) else {}
        if scores or self._due(spacing(self.options.log_every, self.images_seen, MOST_LINES)):
            self._write_log(scores)
        if self._due(sample_spacing(self.options, self.images_seen)):
            self._sample()
        marks = (self.options.checkpoint_every, self.options.keep_every)
        waited = self.seconds - self._saved_seconds
        if any(map(self._due, marks)) or waited > 60 * self.options.checkpoint_minutes:
            self._save()
        self._beat("training")

    def _due(self, every: int | None) -> bool:
        return passed(self.images_seen, every, self.options.batch)

    def _finished(self) -> bool:
        images, minutes = self.options.images, self.options.minutes
        enough_images = images is not None and self.images_seen >= images
        return enough_images or (minutes is not None and self.seconds >= 60 * minutes)

    def _on_main(self, action: Callable[[Records], object]) -> None:
        """Run `action` on rank 0 while the others wait; an error there is raised on every rank."""
        with collectives.errors_shared():
            if self.records is not None:
                action(self.records)

    def _beat(self, state: str, *, now: bool = False) -> None:
        if self.records is not None:
            self.records.beat(self.images_seen, self.seconds, state, now=now)

    def _build_watch(self) -> Watch | None:
        """The evaluation of the run while it trains; None where its recipe asks for none."""
        options = self.evaluation
        if options.every is None or self.task.generator is None:
            return None
        watch = None
        for turn in (True, False):  # rank 0 first: the others find its work in the cache
            with collectives.errors_shared():
                if (collectives.rank() == 0) is turn:
                    watch = Watch(options, self.folder, self.images, self.device, self.images_seen)
        return watch

    def _evaluate(self) -> dict[str, float]:
        """Evaluate, keep the checkpoint if it is the best, and return what the log shows.

        The time it takes does not count as training.
        """
        assert self._watch is not None
        assert self.task.generator is not None
        start = time.perf_counter()
        self._beat("evaluating", now=True)
        found = self._watch.score(self.task.generator)
        self._on_main(lambda records: self._keep(found, records))
        self._began += time.perf_counter() - start
        shown = {name: value for name, value in found.metrics.items() if not name.startswith("class_share")}
        # A run may go on with another protocol: its numbers get a curve of their own.
        return {f"evaluation_{name}_{found.protocol.key()}": value for name, value in shown.items()}

    def _keep(self, found: Evaluation, records: Records) -> None:
        assert self._watch is not None
        self._watch.note(found, self.images_seen)
        if self._watch.is_best(found):
            description = self._description() | {"evaluation": found.to_dict()}
            self._watch.keep(self.images_seen, self.task.tensors(), description)
        records.message(self._watch.line(found, self.images_seen))

    def _write_log(self, scores: dict[str, float] | None = None) -> None:
        if not self.metrics:
            return
        values = self.metrics.read()
        images, seconds = self._logged
        speed = (self.images_seen - images) / max(self.seconds - seconds, 1e-9)
        line = self._clocks() | {"images_per_second": speed} | values | self.rates | (scores or {})
        self._on_main(lambda records: records.scalars(self.images_seen, line))
        self._logged = (self.images_seen, self.seconds)

    def _clocks(self) -> dict[str, float]:
        return {"seconds": self.seconds, "step": self.images_seen // self.options.batch}

    def _sample(self) -> None:
        """Write a sample grid at the present number of images."""
        self._on_main(lambda records: records.sample(self.images_seen, self.task.picture()))

    def _save(self) -> None:
        """Write a checkpoint. Raises Diverged where a number or weight since the last is out of bounds."""
        self._write_log()
        nothing_yet = self.images_seen == 0 and self.options.on_nan == "stop"
        if nothing_yet or self.images_seen == self.saved_images:
            return
        self._beat("saving", now=True)
        tensors = self.task.tensors()
        wrong = next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)
        if wrong is not None:
            text = f"a weight ({wrong}) became NaN or infinite at image {self.images_seen}"
            raise Diverged(text, self.images_seen, "weight")
        self._on_main(lambda _: self._write_checkpoint(tensors))
        self.saved_images, self._saved_seconds, self._tries = self.images_seen, self.seconds, 0

    def _write_checkpoint(self, tensors: dict[str, torch.Tensor]) -> None:
        save_checkpoint(self.folder, self.images_seen, tensors, self._description())
        prune(self.folder, self.options.keep, newest=self.images_seen, for_good=self._is_milestone)

    def _is_milestone(self, images_seen: int) -> bool:
        every = self.options.keep_every
        if every is None or images_seen < every:
            return False
        return passed(images_seen, spacing(every, self.images_seen, MOST_MILESTONES), self.options.batch)

    def _description(self) -> dict[str, Any]:
        """The description that a checkpoint has beside its tensors."""
        return {
            "seconds": self.seconds,
            "rollbacks": self.rollbacks,
            "recipe": self.recipe.to_dict(),
            **self.task.facts(),
            "data": data_facts(self.images),
            "environment": environment(self.device),
        }

    def _diverged(self, error: Diverged) -> None:
        """Record the error, then roll back to the last checkpoint with other random numbers, or raise it."""
        self._on_main(lambda records: records.diverged(error, self._clocks()))
        if self.options.on_nan == "stop" or self.saved_images is None or self._tries == MOST_ROLLBACKS:
            raise error
        tries, self.rollbacks = self._tries + 1, self.rollbacks + 1
        said = (
            f"{error}. Going back to image {self.saved_images:,} with other random numbers "
            f"({tries} of {MOST_ROLLBACKS})."
        )
        self._on_main(lambda records: records.message(said))
        self._restore()
        self._tries = tries
        facts = {"rollbacks": self.rollbacks, "reason": str(error)}
        self._on_main(lambda records: records.event("rolled back", self.images_seen, **facts))

    def _end(self, records: Records, ended: str) -> None:
        if self.images_seen and not records.has_sample(self.images_seen):
            records.sample(self.images_seen, self.task.picture())
        records.report(ended)
        name = signal.Signals(self._stop).name if self._stop else None
        records.event(ended, self.images_seen, signal=name)
        records.beat(self.images_seen, self.seconds, ended, now=True)
        done = f"{self.images_seen:,} images in {self.seconds / 60:.1f} minutes"
        if ended == "complete":
            records.message(f"Done: {done}. Report: {self.folder / 'report.html'}")
            if lacking := lacking_images(self.recipe, self.images_seen, self.seconds):
                more = lacking * self.seconds / max(60 * self.images_seen, 1)
                enough = self.options.enough
                records.message(
                    f"{self.recipe.name} needs about {enough:,} images, which this machine did not reach in "
                    "its minutes: the samples may still be noise. The same command with --images "
                    f"{enough} and without --minutes goes on, for about {more:.0f} minutes."
                )
        else:
            saved = "saved" if self.images_seen else "nothing to save yet"
            records.message(f"Stopped by {name}, {saved}: {done}. The same command goes on.")

    def stopped(self, reason: str) -> None:
        """Write to report, events and heartbeat that the run has stopped and why; a full disk is ignored."""
        if self.records is None:
            return
        with suppress(OSError):
            self.records.report(f"stopped: {reason}")
            self.records.event("stopped", self.images_seen, reason=reason)
            self.records.beat(self.images_seen, self.seconds, f"stopped: {reason}", now=True)

    def saved_so_far(self) -> str:
        if not self.saved_images:
            return "There is no checkpoint yet."
        return f"The last good checkpoint is at image {self.saved_images:,}."

    def close(self) -> None:
        if self.records is not None:
            self.records.close()
