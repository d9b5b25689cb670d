"""A run's loop: signals are a wish to stop, and what a run keeps of itself is bounded and says how it is."""

import itertools
import json
import math
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vitgan import recipes
from vitgan.adversarial import train_step
from vitgan.cli import main
from vitgan.data import batches
from vitgan.engine.checkpoint import checkpoints, load_checkpoint
from vitgan.engine.environment import free_memory, within_memory
from vitgan.engine.loggers import read_log
from vitgan.engine.loop import WaitEnded, stop_on_signals
from vitgan.engine.records import passed, spacing

Command = Callable[..., int]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_wish(number: signal.Signals) -> None:
    with stop_on_signals() as interrupt:
        assert not interrupt
        signal.raise_signal(number)
        assert interrupt
        assert interrupt.signal_name == number.name


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_stops_at_once(second: signal.Signals) -> None:
    with stop_on_signals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)


def test_a_signal_ends_a_wait_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitgan.engine.loop.LONGEST_WAIT", 0.05)
    with stop_on_signals() as interrupt:
        with interrupt.ends_waits():
            signal.raise_signal(signal.SIGTERM)  # a wait that ends in time is left alone
        with pytest.raises(WaitEnded), interrupt.ends_waits():
            time.sleep(60)
        time.sleep(0.2)  # outside of a wait nothing is raised
    assert interrupt.signal_name == "SIGTERM"


@pytest.mark.parametrize("place", ["batch", "step"])
def test_a_run_that_waits_for_ever_is_saved_and_ends_by_a_signal(
    tiny_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A step that hangs is given up where all before it is saved, a batch that does not come at any time."""

    def hang(*_: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(60)

    def hanging(*words: Any, **more: Any) -> Iterator[Any]:
        real = batches(*words, **more)
        yield from itertools.islice(real, 2)
        yield hang()

    monkeypatch.setattr("vitgan.engine.loop.LONGEST_WAIT", 0.05)
    if place == "batch":
        monkeypatch.setattr("vitgan.engine.loop.batches", hanging)
    else:
        monkeypatch.setattr("vitgan.engine.gan.GANTask.step", hang)
    assert tiny_train(tmp_path / "run", "--images", "48") == 130
    seen = [int(path.name) for path in checkpoints(tmp_path / "run")]
    assert seen == ([8] if place == "batch" else [])
    assert events(tmp_path / "run")[-1]["signal"] == "SIGTERM"


def test_the_handlers_from_before_come_back_also_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), stop_on_signals():
        raise ZeroDivisionError
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_another_thread_leaves_signals_alone() -> None:
    seen: list[object] = []

    def work() -> None:
        with stop_on_signals() as interrupt:
            seen.append((bool(interrupt), signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_on_a_terminal_the_first_signal_gets_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bytes] = []
    monkeypatch.setattr(os, "isatty", lambda handle: handle == 2)
    monkeypatch.setattr(os, "write", lambda _handle, text: said.append(text) or len(text))
    with stop_on_signals():
        signal.raise_signal(signal.SIGINT)
    monkeypatch.undo()
    assert b"once more to stop at once" in b"".join(said)


EVERY = ("--training.log-every", "4", "--training.sample-every", "4", "--training.checkpoint-every", "4")


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_marks_are_never_more_than_the_most() -> None:
    for every, most in ((1, 8), (100, 3), (6400, 20_000)):
        for images in (0, every, most * every, most * every + 1, 10**9):
            spread = spacing(every, images, most)
            assert images // spread <= most
            assert spread == every or images // (spread // 2) > most - 1
            assert math.log2(spread / every).is_integer()


def test_a_mark_is_passed_by_one_step_only() -> None:
    assert [seen for seen in range(8, 81, 8) if passed(seen, 20, 8)] == [24, 40, 64, 80]
    assert not passed(8, None, 8)


def test_samples_and_lines_thin_out(
    tiny_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_curves: None
) -> None:
    del no_curves
    monkeypatch.setattr("vitgan.engine.records.MOST_SAMPLES", 5)
    monkeypatch.setattr("vitgan.engine.loop.MOST_LINES", 5)
    assert tiny_train(tmp_path / "run", "--images", "80", *EVERY, "--training.checkpoint-every", "1000") == 0
    pictures = sorted(int(path.stem) for path in (tmp_path / "run" / "samples").glob("*.png"))
    assert pictures == [0, 16, 32, 48, 64, 80]
    lines = [line["images"] for line in read_log(tmp_path / "run")]
    assert lines[:5] == [4, 8, 12, 16, 20]
    assert lines[5:] == [24, 32, 40, 48, 64, 80]


def test_of_checkpoints_the_newest_and_spread_out_ones_stay(
    tiny_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_curves: None
) -> None:
    del no_curves
    monkeypatch.setattr("vitgan.engine.loop.MOST_MILESTONES", 3)
    words = ("--training.keep-every", "8", "--training.keep", "2", "--images", "100")
    assert tiny_train(tmp_path / "run", *EVERY, *words) == 0
    assert [int(path.name) for path in checkpoints(tmp_path / "run")] == [64, 96, 100]


def test_the_heartbeat_says_how_the_run_stands(tiny_train: Command, tmp_path: Path, no_curves: None) -> None:
    del no_curves
    assert tiny_train(tmp_path / "run", "--images", "16", *EVERY) == 0
    beat = json.loads((tmp_path / "run" / "heartbeat.json").read_text())
    assert (beat["state"], beat["images"], beat["processes"]) == ("complete", 16, 1)
    assert beat["memory_mib"] > 50
    assert beat["disk_free_gib"] > 0
    assert [event["event"] for event in events(tmp_path / "run")] == ["started", "complete"]
    assert tiny_train(tmp_path / "run", "--images", "24", *EVERY) == 0
    assert [(e["event"], e["images"]) for e in events(tmp_path / "run")][2:] == [
        ("started", 16),
        ("complete", 24),
    ]


def test_what_a_killed_process_had_half_written_is_swept_away(
    tiny_train: Command, tmp_path: Path, no_curves: None
) -> None:
    del no_curves
    assert tiny_train(tmp_path / "run", "--images", "8", *EVERY) == 0
    mine = tmp_path / "run" / ".mine.tmp"
    left = [
        tmp_path / "run" / place for place in (".heartbeat.json.99.tmp", "samples/.000000000008.png.99.tmp")
    ]
    for path in (mine, *left):
        path.write_text("half")
    assert tiny_train(tmp_path / "run", "--images", "12", *EVERY) == 0
    assert mine.exists()
    assert [path for path in left if path.exists()] == []


@pytest.mark.slow
def test_a_dry_run_says_what_would_happen_and_writes_nothing(
    tiny_train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_train(tmp_path / "run", "--images", "4000", "--dry-run") == 0
    said = capsys.readouterr().out
    for what in ("parameters, generator", "memory", "images/s", "from now", "checkpoint", "free"):
        assert what in said
    assert "begins anew, 4,000 images left" in said
    assert not (tmp_path / "run").exists()
    assert tiny_train(tmp_path / "run", "--images", "8", *EVERY) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    capsys.readouterr()
    assert tiny_train(tmp_path / "run", "--images", "4000", "--dry-run") == 0
    assert "goes on at 8 images, 3,992 images left" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


class Spoilt:
    """`train_step` with a number made NaN, or another, in some steps."""

    def __init__(self, steps: dict[int, int], value: float = math.nan, name: str = "term_bcr_fake") -> None:
        self.left, self.value, self.name = dict(steps), value, name

    def __call__(self, *arguments: Any) -> dict[str, torch.Tensor]:
        values = train_step(*arguments)
        if self.left.get(arguments[-1], 0) > 0:
            self.left[arguments[-1]] -= 1
            values[self.name] = torch.full_like(values[self.name], self.value)
        return values


def test_minutes_that_were_too_few_are_said_with_the_command_that_goes_on(
    tiny_train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a run"
    short = ("--minutes", "0.001", "--training.enough", "64")
    assert tiny_train(folder, *short) == 0
    said = capsys.readouterr().err
    assert "digits needs about 64 images, which this machine did not reach in its minutes" in said
    words = shlex.split(said.splitlines()[-1])
    assert words[:2] == ["vitgan", "resume"]
    assert main(words[1:]) == 0
    said = capsys.readouterr().err
    assert "Done: 64 images" in said
    assert "needs about" not in said
    assert tiny_train(tmp_path / "asked", "--images", "8", *short[2:]) == 0
    assert "needs about" not in capsys.readouterr().err


def test_every_recipe_that_ends_by_minutes_says_how_many_images_it_needs() -> None:
    for name in recipes.INDEX:
        options = recipes.get(name).training
        assert (options.minutes is None) == (options.enough is None), name


BIG = (
    *("--data.resolution", "32", "--generator.patch", "4", "--discriminator.patch", "4"),
    *("--generator.width", "64", "--discriminator.width", "64", "--discriminator.depth", "2"),
)


@pytest.mark.parametrize("words", [("--dry-run",), ("--images", "256")], ids=["dry run", "run"])
def test_a_step_that_does_not_fit_is_refused_before_it_is_taken(
    tiny_train: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:
    free = 600 * 2**20
    monkeypatch.setattr("vitgan.engine.dry_run.free_memory", lambda: free)
    assert tiny_train(tmp_path / "run", *BIG, "--training.batch", "1024", *words) == 2
    said = capsys.readouterr().err
    found = re.search(
        r"A step would take about (.*) GiB, and 600 MiB .*: set --training.accumulate (\d+)", said
    )
    assert found is not None, said
    assert 1024 % int(found[2]) == 0
    assert float(found[1]) < 32
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_what_fits_is_not_refused_and_the_measuring_changes_nothing(
    tiny_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tiny_train(tmp_path / "plain", "--images", "8") == 0
    monkeypatch.setattr("vitgan.engine.dry_run.SURE", 2**50)
    assert tiny_train(tmp_path / "measured", "--images", "8") == 0
    first, second = (load_checkpoint(checkpoints(tmp_path / name)[-1])[0] for name in ("plain", "measured"))
    assert all(torch.equal(first[name], second[name]) for name in first)


WIDE = ("--generator.perceptron-width", "60000", "--generator.width", "64", "--generator.depth", "4")


def test_networks_that_do_not_fit_are_refused(
    tiny_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vitgan.engine.dry_run.free_memory", lambda: 40 * 2**20)
    monkeypatch.setattr("vitgan.engine.dry_run.SURE", 2**50)
    assert tiny_train(tmp_path / "run", "--images", "8", *WIDE) == 2
    assert "Not even a few images a step fit into the memory (40 MiB are free)" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_the_limits_of_process_and_container_count_as_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = free_memory()
    assert most is not None
    with within_memory(2**29):
        left = free_memory()
        assert left is not None
        assert 2**28 < left <= 2**29
        with pytest.raises(MemoryError):
            bytearray(2**30)
    (tmp_path / "memory.max").write_text("300000000\n")
    (tmp_path / "memory.current").write_text("200000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50000000\n")
    group = [(tmp_path, "memory.max", "memory.current")]
    monkeypatch.setattr("vitgan.engine.environment._control_groups", lambda: group)
    assert free_memory() == 150_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert (free_memory() or 0) > 150_000_000


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e12])
def test_a_number_that_is_none_is_named_with_its_image_and_the_gradients(
    value: float, tiny_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.setattr("vitgan.engine.compile.train_step", Spoilt({5: 1}, value))
    said = refused(tiny_train(tmp_path / "run", "--images", "40", "--quiet", *EVERY))
    assert "bcr_fake" in said
    assert "at image 20 (gradient norms: discriminator " in said
    assert "last good checkpoint is at image 20" in said
    (line,) = [line for line in read_log(tmp_path / "run") if "diverged_term_bcr_fake" in line]
    assert line["images"] == 20
    assert line["gradient_norm_generator"] > 0
    assert [event["event"] for event in events(tmp_path / "run")] == ["started", "diverged", "stopped"]


@pytest.mark.slow
def test_a_run_that_goes_back_draws_anew_and_is_resumed_bit_for_bit(
    tiny_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_curves: None
) -> None:
    del no_curves
    back = ("--on-nan", "rollback", *EVERY)
    monkeypatch.setattr("vitgan.engine.compile.train_step", Spoilt({5: 2}))
    assert tiny_train(tmp_path / "straight", "--images", "40", *back) == 0
    monkeypatch.setattr("vitgan.engine.compile.train_step", Spoilt({5: 2}))
    assert tiny_train(tmp_path / "parts", "--images", "28", *back) == 0
    assert tiny_train(tmp_path / "parts", "--images", "40", *back) == 0
    monkeypatch.undo()
    assert tiny_train(tmp_path / "healthy", "--images", "40", *back) == 0
    straight, parts, healthy = (
        load_checkpoint(checkpoints(tmp_path / name)[-1])[0] for name in ("straight", "parts", "healthy")
    )
    assert all(torch.equal(straight[name], parts[name]) for name in straight)
    assert any(not torch.equal(straight[name], healthy[name]) for name in straight)
    kinds = [event["event"] for event in events(tmp_path / "straight")]
    assert kinds == ["started", *["diverged", "rolled back"] * 2, "complete"]


def test_a_run_that_goes_back_in_vain_stops(
    tiny_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.setattr("vitgan.engine.compile.train_step", Spoilt({5: 1000}))
    said = refused(tiny_train(tmp_path / "run", "--images", "40", "--quiet", "--on-nan", "rollback", *EVERY))
    assert "at image 20" in said
    assert [event["event"] for event in events(tmp_path / "run")].count("rolled back") == 5
    assert int(checkpoints(tmp_path / "run")[-1].name) == 20
