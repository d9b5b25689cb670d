"""Tiny runs in processes of their own, and what must be left of them.

Children are forked from this process, which has imported everything and never computes with torch itself: a
start takes milliseconds, so hundreds of kills take minutes.
"""

import hashlib
import importlib
import io
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import torch

from vitgan.cli import main
from vitgan.engine.checkpoint import TENSORS, checkpoints
from vitgan.engine.loggers import read_log

for name in ("vitgan.engine.train", "vitgan.recipes", "torch._dynamo", "matplotlib.figure"):
    importlib.import_module(name)  # once, and not in every child
importlib.import_module("torch.utils.tensorboard")

IMAGES = 96  # of a run, in steps of 4
PART = {"depth": 1, "width": 8, "heads": 2, "perceptron-width": 16}
# Everything that has a clock: lazy R1, bCR, warm-up, decay, the average's ramp, flips.
SETTINGS = {
    **{f"generator.{name}": value for name, value in PART.items()},
    **{f"discriminator.{name}": value for name, value in PART.items()},
    **{"generator.latent-dim": 8, "generator.mapping-depth": 2},
    **{"terms.r1.gamma": 0.1, "terms.r1.every": 3, "optimiser-generator.warm-up": 30},
    **{"optimiser-discriminator.decay-from": 20, "optimiser-discriminator.decay-half-life": 50},
    **{"ema.half-life": 40, "ema.ramp-up": 0.5, "data.flip": True},
    **{"training.batch": 4, "training.sample-count": 4, "training.precision": "fp32", "training.threads": 1},
    **{"training.checkpoint-every": 8, "training.log-every": 4, "training.sample-every": 16},
}
FINE = 0
REFUSED = 2


class Failed(Exception):
    """What should have held did not."""


def require(holds: object, text: str) -> None:
    """Raise Failed with `text` unless it holds."""
    if not holds:
        raise Failed(text)


@dataclass
class Ended:
    """A process that is over: exit code, minus a signal's number, and what it said on stderr."""

    code: int
    said: str


@dataclass
class Trial:
    """A folder of one's own, a source of images in it, and runs on that."""

    folder: Path
    quick: bool
    dice: Random = field(default_factory=Random)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def data(self) -> Path:
        """Thirteen grey images of 8 x 8 pixels, which no batch of four divides."""
        path = self.folder / "images.npy"
        if not path.exists():
            np.save(path, np.random.default_rng(0).integers(0, 256, (13, 8, 8), dtype=np.uint8))
        return path

    def words(self, *more: object, run: Path | None = None, data: Path | str | None = None) -> list[str]:
        """The command line of a run to `IMAGES` images."""
        settings = [word for name, value in SETTINGS.items() for word in (f"--{name}", value)]
        places = ["--data", data or self.data, "--out", run or self.run, "--device", "cpu"]
        return [str(word) for word in ["train", "digits", *places, "--images", IMAGES, *settings, *more]]

    def start(self, words: Sequence[str], arm: Callable[[], object] | None = None) -> "Child":
        """`vitgan WORDS` in a process of its own, after `arm` there."""
        return Child(words, arm)

    def ended(self, words: Sequence[str], arm: Callable[[], object] | None = None) -> Ended:
        """The same, waited for."""
        return self.start(words, arm).wait()

    def clear(self) -> None:
        """Delete the run."""
        shutil.rmtree(self.run, ignore_errors=True)


class Child:
    """A forked process that runs a command of `vitgan`."""

    def __init__(self, words: Sequence[str], arm: Callable[[], object] | None) -> None:
        self._said = tempfile.TemporaryFile("w+b")  # noqa: SIM115
        sys.stdout.flush()
        sys.stderr.flush()
        self.began = time.monotonic()
        self.number = os.fork()
        if self.number == 0:
            code = 70
            try:
                code = self._live(words, arm)
            finally:
                os._exit(code)

    def _live(self, words: Sequence[str], arm: Callable[[], object] | None) -> int:
        os.dup2(self._said.fileno(), 2)
        sys.stderr = io.TextIOWrapper(open(2, "wb", 0, closefd=False), write_through=True)  # noqa: SIM115
        torch.set_num_threads(1)
        if arm is not None:
            arm()
        return main(list(words))

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, if it still runs."""
        with suppress(ProcessLookupError):
            os.kill(self.number, number)

    def runs(self) -> bool:
        """Whether it has not ended."""
        return os.waitid(os.P_PID, self.number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait until something holds while it runs."""
        deadline = time.monotonic() + seconds
        while not condition():
            require(self.runs(), "the process ended too early: " + self.said())
            require(time.monotonic() < deadline, "nothing happened for long: " + self.said())
            time.sleep(0.002)

    def said(self) -> str:
        """What is on its stderr by now."""
        return os.pread(self._said.fileno(), 2**20, 0).decode()

    def wait(self, seconds: float = 120.0) -> Ended:
        """Its end."""
        deadline = time.monotonic() + seconds
        while self.runs():
            if time.monotonic() > deadline:
                self.kill()
                os.waitpid(self.number, 0)
                raise Failed(f"the process did not end in {seconds:.0f} seconds: {self.said()}")
            time.sleep(0.002)
        _, status = os.waitpid(self.number, 0)
        ended = Ended(os.waitstatus_to_exitcode(status), self.said())
        self._said.close()
        return ended


def fine(ended: Ended) -> str:
    """What a process said that must have ended well."""
    require(ended.code == FINE, f"exit code {ended.code}: {ended.said}")
    require("Traceback" not in ended.said, f"a traceback: {ended.said}")
    return ended.said


def refused(ended: Ended, *parts: str) -> str:
    """The last line of a process that must have ended with one clear sentence, with these parts in it."""
    require(ended.code == REFUSED, f"exit code {ended.code}: {ended.said}")
    require("Traceback" not in ended.said, f"a traceback: {ended.said}")
    line = ended.said.rstrip().splitlines()[-1]
    for part in parts:
        require(re.search(part, line), f"{part!r} is not in: {line}")
    return line


def newest(run: Path) -> int:
    """Images seen at the newest checkpoint; 0 without one."""
    return max((int(path.name) for path in checkpoints(run)), default=0)


def weights(run: Path) -> str:
    """The hash of everything in the newest checkpoint's tensors."""
    return hashlib.sha256((checkpoints(run)[-1] / TENSORS).read_bytes()).hexdigest()


def whole(run: Path, images: int = IMAGES) -> None:
    """Require that a finished run has its log without gaps and nothing half written."""
    require(newest(run) == images, f"the newest checkpoint is at {newest(run)}, not {images} images")
    seen = [int(line["images"]) for line in read_log(run)]
    require(seen == list(range(4, images + 1, 4)), f"the log has lines at {seen}")
    left = [path.name for path in run.rglob("*.tmp")]
    require(not left, f"{left} were left behind")
