"""What the tests of runs share."""

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch

from vitgan.adversarial import train_step
from vitgan.cli import main
from vitgan.engine.checkpoint import checkpoints, load_checkpoint
from vitgan.engine.loggers import read_log

Command = Callable[..., int]
# Everything that has a clock: lazy R1, bCR, warm-up, decay, the average's ramp.
ALL_ON = (
    *("--terms.r1.gamma", "0.1", "--terms.r1.every", "3", "--optimiser-generator.warm-up", "30"),
    *("--optimiser-discriminator.decay-from", "20", "--optimiser-discriminator.decay-half-life", "50"),
    *("--ema.half-life", "40", "--ema.ramp-up", "0.5", "--data.flip", "True"),
    *("--training.checkpoint-every", "8", "--training.log-every", "4", "--training.sample-every", "16"),
)


def final(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(checkpoints(folder)[-1])[0]


def images_seen(folder: Path) -> int:
    return int(checkpoints(folder)[-1].name)


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert different == []


def assert_log_is_whole(folder: Path, images: int) -> None:
    seen = [int(line["images"]) for line in read_log(folder)]
    assert seen == sorted(set(seen))
    assert seen[-1] == images


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], object]) -> None:
    """Do `act` in the middle of a step."""
    real = train_step

    def acting(*arguments):
        values = real(*arguments)
        if arguments[-1] == step:
            act()
        return values

    monkeypatch.setattr("vitgan.engine.compile.train_step", acting)


def fill(disk: Path) -> None:
    with (disk / "ballast").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def process(words: Sequence[str], environment: Mapping[str, str], said: Path, changed: str) -> None:
    """A forked process becomes `vitgan WORDS`: it runs the code `changed` first, and stderr is a file."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    with said.open("wb", 0) as file:
        os.dup2(file.fileno(), 2)
    exec(changed, {})
    sys.argv[1:] = words
    sys.exit(main())
