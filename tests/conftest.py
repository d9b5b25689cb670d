"""What several test files share: networks so small that a run takes a second, and images to train them on."""

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from sizes import TINY
from standin_hub import Hub, serving

Command = Callable[..., int]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`python -m pytest tests/fuzz --fuzz-inputs 10000` is the long run."""
    parser.addoption(
        "--fuzz-inputs",
        type=int,
        default=None,
        metavar="N",
        help="random inputs for each parser (300, fixed)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Of several processes each computes with one thread: more would wait for each other."""
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that a test starts
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _source_read_once() -> Iterator[None]:
    """Tyro reads the source of every options class anew for each command line: most of its time."""
    with mock.patch("inspect.getsource", functools.cache(inspect.getsource)):
        yield


@pytest.fixture
def tiny() -> list[str]:
    """The settings of a tiny digits run."""
    return list(TINY)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Thirteen grey images of 8 x 8 pixels, which no batch of four divides."""
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (13, 8, 8), dtype=np.uint8))
    return path


@pytest.fixture
def tiny_train(images: Path) -> Command:
    """tiny_train(folder, *words) is `vitgan train digits` at tiny size on `images`; returns the exit code."""

    def run(folder: Path, *words: str | Path) -> int:
        return vitgan("train", "digits", "--data", images, "--out", folder, "--device", "cpu", *TINY, *words)

    return run


@pytest.fixture
def no_curves() -> Iterator[None]:
    """A report without its curves, which take longer to draw than a tiny run to train."""
    with mock.patch("vitgan.engine.report.panels", return_value=[]):
        yield


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A stand-in of the Hugging Face Hub, whose command line runs in `tmp_path`."""
    pytest.importorskip("huggingface_hub")
    with serving(tmp_path) as server:
        yield server


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refused(code) checks that `code` is 2 and stderr one clear line, and returns that line.

    What a run says before it is refused, its progress, may come first where `alone` is False.
    """

    def check(code: int, *, alone: bool = True) -> str:
        said = capsys.readouterr().err.splitlines()
        assert code == 2
        assert "Traceback" not in "".join(said)
        assert said[-1].startswith("vitgan: ")
        assert not alone or len(said) == 1, said
        return said[-1]

    return check


def vitgan(*words: str | Path) -> int:
    """The command line, in this process."""
    from vitgan.cli import main

    return main(_words(words))


def _words(words: Sequence[str | Path]) -> list[str]:
    return [str(word) for word in words]
