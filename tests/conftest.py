"""What several test files share: tiny runs and their images, a small disk, a stand-in of the Hub, fuzzing."""

import ctypes
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from sizes import QUICK_CLASSIFIER, TINY
from standin_hub import Hub, serving
from tiny_runs import ALL_ON, Command, final

Fuzz = Callable[..., None]

INPUTS = 300


def pytest_addoption(parser: pytest.Parser) -> None:
    """`python -m pytest --slow` runs all tests; `-m fuzz --fuzz-inputs 10000` is the long run of the fuzz."""
    parser.addoption("--slow", action="store_true", help="run the slow tests too")
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests are left out unless --slow, `-m` or the names of tests ask for them.

    Files with slow tests come first, so that no worker is left alone with one at the end.
    """
    slow = [item for item in items if item.get_closest_marker("slow")]
    named = any("::" in word for word in config.args)
    if not (config.getoption("--slow") or config.option.markexpr or named):
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    first = {item.path for item in slow}
    items.sort(key=lambda item: item.path not in first)


@pytest.fixture(scope="session", autouse=True)
def no_curves() -> Iterator[Callable[[list[dict]], str]]:
    """Reports without their curves, which take five times as long to draw as a tiny run to train."""
    from vitgan.engine import report

    drawn = report._curves
    with mock.patch.object(report, "_curves", return_value=""):
        yield drawn


@pytest.fixture
def curves(no_curves: Callable[[list[dict]], str]) -> Iterator[None]:
    """Reports with their curves."""
    with mock.patch("vitgan.engine.report._curves", no_curves):
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


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, whose average lags behind its generator."""
    folder = tmp_path_factory.mktemp("trained")
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (9, 8, 8), dtype=np.uint8))
    part = "--{0}.depth 1 --{0}.width 8 --{0}.heads 2 --{0}.perceptron-width 16 "
    sizes = (part.format("generator") + part.format("discriminator")).split()
    words = ["--training.batch", "4", "--generator.latent-dim", "5", "--ema.ramp-up", "None"]
    words += ["--data", str(folder / "images.npy"), "--images", "24", "--training.checkpoint-every", "8"]
    words += ["--out", str(folder / "run"), "--device", "cpu", "--quiet"]
    assert vitgan("train", "digits", *sizes, *words) == 0
    return folder / "run"


@pytest.fixture
def quick_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--features classifier` trains a small network for a moment; the real one takes many seconds."""
    from vitgan.metrics.classifier import ClassifierOptions

    options = ClassifierOptions(**QUICK_CLASSIFIER)
    monkeypatch.setattr("vitgan.metrics.evaluator.ClassifierOptions", lambda: options)


@pytest.fixture
def own_parts_forgotten() -> Iterator[None]:
    """What a test registers, itself or by `--use`, is gone after it; the package's own parts stay."""
    from vitgan import registry

    before = list(registry._parts)
    yield
    registry._parts[:] = [part for part in registry._parts if part.module is None or part in before]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, torch.Tensor]]:
    """straight(train, images) is the state after `images` images without a stop."""
    known: dict[int, dict[str, torch.Tensor]] = {}

    def run(train: Command, images: int) -> dict[str, torch.Tensor]:
        if images not in known:
            folder = tmp_path_factory.mktemp("straight")
            assert train(folder, "--images", str(images), *ALL_ON) == 0
            known[images] = final(folder)
        return known[images]

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a small disk needs Linux and root")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=4m"):
        pytest.skip(f"a small disk cannot be mounted here ({os.strerror(ctypes.get_errno())})")
    try:
        yield folder
    finally:
        libc.umount2(os.fsencode(folder), 2)  # lazily: a test that failed may hold a file


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


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A test that computes with one thread only."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fuzz(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Fuzz:
    """fuzz(check, strategy) calls check(input) for each input and fails on the first that it raises for."""
    from hypothesis import HealthCheck, given, seed, settings

    asked = request.config.getoption("--fuzz-inputs")
    unhurried = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)

    def run(check: Callable[[Any], None], inputs: Any) -> None:
        number = 0

        @settings(
            max_examples=asked or INPUTS,
            deadline=None,
            database=None,
            derandomize=asked is None,
            suppress_health_check=unhurried,
        )
        @given(inputs)
        def each(value: Any) -> None:
            nonlocal number
            number += 1
            check(value)

        if asked is not None:
            chosen = random.SystemRandom().getrandbits(64)
            each = seed(chosen)(each)
            with capsys.disabled():
                print(f"\n{request.node.name}: seed {chosen}", flush=True)
        each()
        assert number >= (asked or INPUTS)

    return run


def vitgan(*words: str | Path) -> int:
    """The command line, in this process."""
    from vitgan.cli import main

    return main(_words(words))


def _words(words: Sequence[str | Path]) -> list[str]:
    return [str(word) for word in words]
