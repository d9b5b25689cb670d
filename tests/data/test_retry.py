"""A set that becomes unreachable while it is read, and reading workers that are killed."""

import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from tiny_runs import Command, assert_log_is_whole, assert_same, at_step, final, images_seen
from vitgan.data import DataOptions, batches
from vitgan.data import dataset as images_module
from vitgan.data.reading import fetch
from vitgan.errors import UserError

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]

LAZY = ("--images", "48", "--training.checkpoint-every", "8", "--data.memory-mib", "0", "--data.workers")


def build(folder: Path, **changes: Any) -> Any:
    return DataOptions(source=str(folder), resolution=4, **changes).build()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Thirteen grey images of 8 x 8 pixels as files, which `tiny_train` trains on here."""
    pixels = np.random.default_rng(0).integers(0, 256, (13, 8, 8), dtype=np.uint8)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, one in enumerate(pixels):
        Image.fromarray(one).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture
def undisturbed(tiny_train: Command, no_curves: None, tmp_path: Path) -> dict[str, torch.Tensor]:
    """The final checkpoint's tensors of a run of 48 images that is not disturbed."""
    del no_curves
    assert tiny_train(tmp_path / "undisturbed", *LAZY, "0") == 0
    return final(tmp_path / "undisturbed")


def wait_by(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have `act` called in place of the pauses between the retries of an unreachable set."""
    monkeypatch.setattr("vitgan.data.retry.time", SimpleNamespace(sleep=lambda _seconds: act()))


def empty(folder: Path, away: Path) -> None:
    """Move the folder's content away, which leaves it like the mount point of a disk that is gone."""
    away.mkdir(exist_ok=True)
    for path in list(folder.iterdir()):
        path.rename(away / path.name)


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("how", [Path.rename, empty])
def test_a_folder_that_goes_away_and_comes_back_leaves_the_run_as_it_would_have_been(
    how: Callable[[Path, Path], object],
    workers: str,
    images: Path,
    tiny_train: Command,
    undisturbed: dict[str, torch.Tensor],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    away = tmp_path / "away"
    at_step(monkeypatch, 3, lambda: how(images, away))
    wait_by(monkeypatch, lambda: how(away, images))
    assert tiny_train(tmp_path / "run", *LAZY, workers) == 0
    said = caplog.text
    assert f"{images} cannot be reached (No such file or directory): waiting for it, at most 300" in said
    assert (said.count("waiting for it"), said.count("It is back after")) == (1, 1)
    assert "skipped" not in said
    assert_same(final(tmp_path / "run"), undisturbed)
    assert_log_is_whole(tmp_path / "run", 48)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_folder_that_stays_away_ends_the_run_and_the_same_command_goes_on(
    workers: str,
    images: Path,
    tiny_train: Command,
    undisturbed: dict[str, torch.Tensor],
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    away, before = tmp_path / "away", set(multiprocessing.active_children())
    monkeypatch.setenv("VITGAN_DATA_PATIENCE", "0.2")
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: images.rename(away))
        began = time.monotonic()
        said = refused(tiny_train(tmp_path / "run", *LAZY, workers), alone=False)
        assert time.monotonic() - began < 20
    assert f"{images} cannot be reached any more (No such file or directory): see that it is there" in said
    assert said.endswith("goes on from its last checkpoint with the same command.")
    assert set(multiprocessing.active_children()) <= before
    assert 16 <= images_seen(tmp_path / "run") < 48
    away.rename(images)
    assert tiny_train(tmp_path / "run", *LAZY, workers) == 0
    assert_same(final(tmp_path / "run"), undisturbed)
    assert_log_is_whole(tmp_path / "run", 48)


def test_a_folder_that_goes_away_while_it_is_read_into_memory_is_waited_for(
    images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def gone(*arguments: Any) -> Any:
        images.rename(tmp_path / "away")
        return decode(*arguments)

    expected, decode = build(images).pixels, images_module._decode
    monkeypatch.setattr(images_module, "_decode", gone)
    wait_by(monkeypatch, lambda: (tmp_path / "away").rename(images))
    found = build(images)
    assert torch.equal(found.pixels, expected)
    assert found.skipped == []
    assert caplog.text.count("waiting for it") == 1


def test_one_file_that_is_gone_is_not_waited_for(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = build(images, memory_mib=0, workers=0)
    (images / "03.png").unlink()
    wait_by(monkeypatch, lambda: pytest.fail("waited"))
    assert torch.equal(found.get([3]), found.get([4]))
    assert [(item.name, "No such file" in item.reason) for item in found.skipped] == [("03.png", True)]


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_patience_that_is_no_number_of_seconds_is_refused(
    text: str, images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VITGAN_DATA_PATIENCE", text)
    found = build(images, memory_mib=0, workers=0)
    images.rename(tmp_path / "away")
    with pytest.raises(UserError, match=f"VITGAN_DATA_PATIENCE is '{text}', but must be a number of seconds"):
        found.get([0])


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """A function that gives the reading workers; they are forked, a lost one is noticed within 0.2 s."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("what a test changes must be changed in the readers too")
    before = set(multiprocessing.active_children())
    fork = functools.partial(DataLoader, multiprocessing_context="fork")
    monkeypatch.setattr("vitgan.data.loader.DataLoader", fork)
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    return lambda: sorted(set(multiprocessing.active_children()) - before, key=lambda one: one.pid)


def test_a_reader_that_is_killed_leaves_the_run_as_it_would_have_been(
    readers: Callable[[], list[Any]],
    tiny_train: Command,
    undisturbed: dict[str, torch.Tensor],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def kill() -> None:
        reader = readers()[0]
        os.kill(reader.pid, signal.SIGKILL)
        reader.join()

    at_step(monkeypatch, 3, kill)
    assert tiny_train(tmp_path / "run", *LAZY, "2") == 0
    assert caplog.text.count("A data worker was lost") == 1
    assert_same(final(tmp_path / "run"), undisturbed)
    assert_log_is_whole(tmp_path / "run", 48)
    assert readers() == []


def test_readers_that_die_each_time_end_it_with_a_sentence(
    readers: Callable[[], list[Any]],
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = os.getpid()

    def fetch_or_die(*arguments: Any) -> Any:
        if os.getpid() != trainer:
            os.kill(os.getpid(), signal.SIGKILL)
        return fetch(*arguments)

    monkeypatch.setattr("vitgan.data.loader.fetch", fetch_or_die)
    found = build(images, memory_mib=0, workers=1)
    with pytest.raises(UserError, match=r"The data workers ended 4 times in a row .*: memory may be short"):
        next(batches(found, batch=2, seed=0, images_seen=0, device="cpu"))
    assert caplog.text.count("A data worker was lost") == 3
    assert readers() == []
