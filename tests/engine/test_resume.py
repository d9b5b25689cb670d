"""A run that is stopped or killed: the same command goes on, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vitgan
from tiny_runs import ALL_ON, Command, assert_log_is_whole, assert_same, at_step, final, images_seen
from vitgan.data import ImageSet
from vitgan.engine import loop as engine
from vitgan.engine.checkpoint import TENSORS, checkpoints
from vitgan.engine.gan import GANTask
from vitgan.sharing import export_folder

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("no_curves")]


def test_the_state_holds_everything_that_training_moves(tiny_train: Command, straight: Callable) -> None:
    state = straight(tiny_train, 48)
    parts = {name.split(".")[0] for name in state}
    assert parts == {
        *("generator", "discriminator", "average", "optimiser_generator", "optimiser_discriminator")
    }
    assert any("initial_" in name for name in state)
    assert state["optimiser_discriminator.class_token.step"].item() == 12
    weights = [name for name in state if name.startswith("generator.")]
    assert all(f"optimiser_{name}.exp_avg_sq" in state for name in weights)


@pytest.mark.parametrize("stop", [4, 24, 32])
def test_a_run_in_two_parts_is_the_run_in_one_bit_for_bit(
    stop: int, tiny_train: Command, straight: Callable, tmp_path: Path
) -> None:
    for images in (stop, 48):
        assert tiny_train(tmp_path / "run", "--images", str(images), *ALL_ON) == 0
        assert images_seen(tmp_path / "run") == images
    assert_same(final(tmp_path / "run"), straight(tiny_train, 48))
    assert_log_is_whole(tmp_path / "run", 48)


def test_a_set_read_as_needed_goes_on_bit_for_bit_too(
    tiny_train: Command, straight: Callable, tmp_path: Path
) -> None:
    for images in ("20", "48"):
        words = ("--images", images, *ALL_ON, "--data.memory-mib", "0", "--data.workers", "0")
        assert tiny_train(tmp_path / "run", *words) == 0
    assert_same(final(tmp_path / "run"), straight(tiny_train, 48))


def test_schedules_and_averages_of_several_lengths_go_on_bit_for_bit(
    tiny_train: Command, tmp_path: Path
) -> None:
    words = ["--loss", "relativistic", "--terms", "approximate-r1,approximate-r2,centring"]
    words += ["--augment", "none"]
    words += [
        "--burn-in.images",
        "32",
        "--burn-in.rate",
        "2",
        "--burn-in.gamma",
        "4",
        "--burn-in.beta2",
        "0.9",
    ]
    words += ["--ema.lengths", "0.05,0.1"]
    assert tiny_train(tmp_path / "whole", "--images", "48", *words) == 0
    for images in ("20", "48"):
        assert tiny_train(tmp_path / "parts", "--images", images, *words) == 0
    state = final(tmp_path / "whole")
    assert_same(final(tmp_path / "parts"), state)
    count = sum(name.startswith("generator.") for name in state)
    for average in ("average", "average_0.05", "average_0.1"):
        assert sum(name.startswith(f"{average}.") for name in state) == count
    usual, short, long = (vitgan.load(tmp_path / "whole", average=length) for length in (None, 0.05, 0.1))
    weights = [next(model.mapping.parameters()) for model in (usual, short, long)]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    with pytest.raises(vitgan.UserError, match=r"has no average of length 0\.3; it keeps 0\.05, 0\.1"):
        vitgan.load(tmp_path / "whole", average=0.3)
    export_folder(tmp_path / "whole", tmp_path / "export", average=0.1)
    assert torch.equal(next(vitgan.load(tmp_path / "export").mapping.parameters()), weights[2])
    with pytest.raises(vitgan.UserError, match=r"no average of length 0\.1; it keeps none beside"):
        vitgan.load(tmp_path / "export", average=0.1)


def test_a_finished_run_stays_as_it_is(tiny_train: Command, tmp_path: Path) -> None:
    assert tiny_train(tmp_path / "run", "--images", "8") == 0
    before = (checkpoints(tmp_path / "run")[-1] / TENSORS).stat().st_mtime_ns
    assert tiny_train(tmp_path / "run", "--images", "8") == 0
    assert (checkpoints(tmp_path / "run")[-1] / TENSORS).stat().st_mtime_ns == before
    assert_log_is_whole(tmp_path / "run", 8)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_command_goes_on(
    number: signal.Signals,
    tiny_train: Command,
    straight: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    command = (tmp_path / "run", "--images", "48", *ALL_ON)
    at_step(monkeypatch, 4, lambda: signal.raise_signal(number))
    assert tiny_train(*command) == 130
    assert images_seen(tmp_path / "run") == 20
    said = capsys.readouterr().err
    assert f"Stopped by {number.name}, saved: 20 images" in said
    assert "The same command goes on." in said
    assert "interrupted" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    monkeypatch.undo()
    assert tiny_train(*command) == 0
    assert "Resuming" in capsys.readouterr().err
    assert_same(final(tmp_path / "run"), straight(tiny_train, 48))
    assert_log_is_whole(tmp_path / "run", 48)


def test_a_second_signal_ends_at_once(
    tiny_train: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_step(monkeypatch, 4, twice)
    assert tiny_train(tmp_path / "run", "--images", "48", *ALL_ON) == 130
    assert images_seen(tmp_path / "run") == 16
    assert capsys.readouterr().err.splitlines()[-1] == "vitgan: Interrupted."


def test_a_signal_before_the_first_checkpoint_saves_what_there_is(
    tiny_train: Command, straight: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Within the first step that step is saved; before it there is nothing to save, and no error."""
    at_step(monkeypatch, 0, lambda: signal.raise_signal(signal.SIGTERM))
    assert tiny_train(tmp_path / "run", "--images", "48", *ALL_ON) == 130
    assert images_seen(tmp_path / "run") == 4
    monkeypatch.undo()
    monkeypatch.setattr(engine.Run, "_sample", lambda _: signal.raise_signal(signal.SIGTERM))
    assert tiny_train(tmp_path / "none", "--images", "48", *ALL_ON) == 130
    assert checkpoints(tmp_path / "none") == []
    monkeypatch.undo()
    for folder in (tmp_path / "run", tmp_path / "none"):
        assert tiny_train(folder, "--images", "48", *ALL_ON) == 0
        assert_same(final(folder), straight(tiny_train, 48))


def process(folder: Path, images: Path, tiny: list[str], *words: str) -> subprocess.Popen[str]:
    """`python -m vitgan train`, returned once it has its first checkpoint."""
    command = ["train", "digits", "--data", images, "--out", folder, "--device", "cpu", *tiny, *ALL_ON]
    child = subprocess.Popen(
        [sys.executable, "-m", "vitgan", *map(str, command), *words],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    deadline = time.monotonic() + 120
    while not checkpoints(folder):
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return child


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_goes_on_bit_for_bit(
    images: Path, tiny: list[str], tiny_train: Command, tmp_path: Path
) -> None:
    child = process(tmp_path / "run", images, tiny, "--images", "4000")
    time.sleep(np.random.default_rng().uniform(0, 0.5))
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    end = str(images_seen(tmp_path / "run") + 12)
    for folder in (tmp_path / "run", tmp_path / "straight"):
        assert tiny_train(folder, "--images", end, *ALL_ON) == 0
        assert_log_is_whole(folder, int(end))
    assert_same(final(tmp_path / "run"), final(tmp_path / "straight"))
    left = [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.endswith(".tmp")]
    assert left == []


@pytest.mark.slow
def test_a_second_process_is_refused_and_ctrl_c_from_outside_gives_130(
    images: Path, tiny: list[str], tiny_train: Command, refused: Callable, tmp_path: Path
) -> None:
    child = process(tmp_path / "run", images, tiny, "--minutes", "5")
    try:
        assert "Another process is training in" in refused(tiny_train(tmp_path / "run", *ALL_ON))
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=120)[1]
    finally:
        child.kill()
        child.communicate()
    assert child.returncode == 130
    assert "Stopped by SIGINT, saved" in said
    assert "Traceback" not in said
    vitgan.load(tmp_path / "run")


def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs have all classes of a source, folders by their names as text, and record no names of them."""
    number = ImageSet._set_labels

    def every_class(self: ImageSet, *arguments: Any) -> None:
        number(self, *arguments)
        self.number_classes(self.every_class)

    monkeypatch.setattr(ImageSet, "_set_labels", every_class)
    monkeypatch.setattr(GANTask, "facts", lambda self: {"classes": self.generator.classes})


def gaps(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    path = folder / "gaps.npz"
    np.savez(path, images=rng.integers(0, 256, (12, 8, 8), dtype=np.uint8), labels=np.arange(12) % 2 * 9)
    return path


def numbered_folders(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for index in range(12):
        path = folder / "folders" / ("1", "2", "10")[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    return folder / "folders"


@pytest.mark.parametrize(
    ("source", "names", "before"),
    [
        (gaps, ("0", "9"), tuple("0123456789")),
        (numbered_folders, ("1", "2", "10"), ("1", "10", "2")),
    ],
)
def test_a_run_that_was_begun_with_other_classes_goes_on_with_them(
    source: Callable[[Path], Path],
    names: tuple[str, ...],
    before: tuple[str, ...],
    tiny_train: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = ("--data", source(tmp_path), "--data.labels", "True", "--images")
    with monkeypatch.context() as patched:
        as_before(patched)
        assert tiny_train(tmp_path / "straight", *words, "16") == 0
        assert tiny_train(tmp_path / "run", *words, "8") == 0
    old = vitgan.load(tmp_path / "run")
    assert (old.classes, old.class_names, old.class_counts) == (len(before), (), ())
    caplog.clear()
    for images in ("12", "16"):
        assert tiny_train(tmp_path / "run", *words, images) == 0
    assert_same(final(tmp_path / "run"), final(tmp_path / "straight"))
    found = vitgan.load(tmp_path / "run")
    assert found.class_names == before
    assert {name for name, count in zip(before, found.class_counts, strict=True) if count} == set(names)
    assert len(caplog.records) == (0 if len(names) == len(before) else 2)
    assert all("as it was begun" in record.getMessage() for record in caplog.records)
    assert {before[label] for label in found.labels_of(None, 100, 0).tolist()} == set(names)  # type: ignore[union-attr]
    # A new run has the classes that there are.
    assert tiny_train(tmp_path / "new", *words, "8") == 0
    assert tiny_train(tmp_path / "new", *words, "12") == 0
    new = vitgan.load(tmp_path / "new")
    assert new.class_names == names
    assert sum(new.class_counts) == 12
    assert min(new.class_counts) > 0


def test_labels_with_gaps_are_said_once_at_the_start(
    tiny_train: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("--data", gaps(tmp_path), "--images", "4", "--data.labels")
    assert tiny_train(tmp_path / "run", *words, "True") == 0
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.endswith("has images of 2 of 10 classes, which alone count: 0 (0), 1 (9).")
    caplog.clear()
    assert tiny_train(tmp_path / "plain", *words, "False") == 0
    assert not caplog.records
