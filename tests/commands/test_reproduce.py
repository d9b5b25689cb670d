"""`vitgan reproduce`: mistakes that are refused before training, crashes, interrupts."""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import table_rows
from vitgan.commands import reproduce as command
from vitgan.engine.loop import Interrupt
from vitgan.errors import UserError
from vitgan.tables import reproduce
from vitgan.tables.plan import load_record

pytestmark = pytest.mark.faults

TESTS = Path(table_rows.__file__).parent
SCRIPT = """
import sys, pytest
import table_rows
from pathlib import Path
table_rows.use(pytest.MonkeyPatch())
patch = pytest.MonkeyPatch().setattr
patch("vitgan.tables.plan.Evaluator", table_rows.Measure)
patch("vitgan.tables.run.write_figures", lambda *arguments: None)
without_curves = "from vitgan.engine import report; report.panels = lambda lines: []; "
from vitgan.tables import reproduce, run
patch(run, "CODE", without_curves + run.CODE)
out, images, data = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
done = reproduce("architectures", rows=["vitgan"], images=images, data=data, out=out, device="cpu")
sys.exit(130 if done.interrupted else 1 if done.failed else 0)
"""


@pytest.fixture(autouse=True)
def _tiny_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    table_rows.use(monkeypatch)


def never(*arguments: object, **keywords: object) -> None:
    raise AssertionError((arguments, keywords))


def labelled(path: Path, count: int) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    np.savez(path, images=pixels, labels=np.arange(count) % 2)
    return str(path)


@pytest.mark.parametrize(
    ("table", "settings", "sentence"),
    [
        ("architecture", {}, "no table 'architecture': choose architectures, generator, discriminator"),
        ("architectures", {"rows": ["vit"]}, "no row 'vit': choose from vanilla, diverging, vitgan"),
        ("architectures", {"rows": []}, "asked for no row"),
        ("architectures", {"minutes": 1, "images": 5}, "two budgets"),
        ("architectures", {"minutes": 0}, "--minutes must be greater than 0, not 0"),
        ("architectures", {"minutes": float("nan")}, "--minutes must be greater than 0"),
        ("architectures", {"images": -1}, "--images must be greater than 0, not -1"),
        ("architectures", {"jobs": 0}, "--jobs must be greater than 0"),
        ("architectures", {"seed": -1}, "--seed must be at least 0"),
        ("architectures", {"size": "paper"}, "need a budget"),
        ("architectures", {"data": "nowhere"}, "no image source 'nowhere'"),
        ("architectures", {"resolution": 10}, "The row vanilla cannot be built: .*patch"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_trained(
    table: str,
    settings: dict[str, Any],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vitgan.tables.run.train_together", never)
    monkeypatch.setattr("vitgan.tables.plan.Evaluator", never)
    with pytest.raises(UserError, match=sentence):
        reproduce(table, out=tmp_path / "out", device="cpu", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("count", "settings", "sentence"),
    [
        (13, {"features": "classifier", "data": "unlabelled"}, "needs labels"),
        (4, {"data": "labelled"}, "needs at least"),
        (40, {"data": "labelled", "count": 3}, "needs at least"),
        (40, {"data": "labelled", "features": "nothing-of-the-kind"}, "no features"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_trained(
    count: int,
    settings: dict[str, Any],
    sentence: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vitgan.tables.run.train_together", never)
    data = labelled(tmp_path / "set.npz", count) if settings["data"] == "labelled" else str(images)
    with pytest.raises(UserError, match=sentence):
        reproduce(
            "architectures", **settings | {"data": data}, out=tmp_path / "out", device="cpu", quiet=True
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_curves")
def test_other_settings_than_those_of_the_folder_are_refused(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table_rows.use_here(monkeypatch)
    monkeypatch.setattr("vitgan.tables.run.write_figures", lambda *arguments: None)  # noqa: ARG005
    same: dict[str, Any] = {"rows": ["vitgan"], "images": 16, "data": str(images), "device": "cpu"}
    reproduce("architectures", **same, out=tmp_path / "out", quiet=True)
    moved = tmp_path / "moved.npy"
    moved.write_bytes(images.read_bytes())
    reproduce("architectures", **same | {"data": str(moved)}, out=tmp_path / "out", quiet=True)
    monkeypatch.setattr("vitgan.tables.run.train_together", never)
    for change, sentence in (
        ({"images": 32}, "images: 16 -> 32"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"data": "digits"}, "data: .*images.npy -> digits|data: .*moved.npy -> digits"),
        ({"images": None, "minutes": 1}, "minutes: None -> 1"),
    ):
        with pytest.raises(UserError, match=sentence):
            reproduce("architectures", **same | change, out=tmp_path / "out", quiet=True)


@pytest.mark.usefixtures("no_curves")
def test_a_row_that_fails_is_named_and_the_others_go_on(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table_rows.use_here(monkeypatch)
    monkeypatch.setattr("vitgan.tables.run.write_figures", lambda *arguments: None)  # noqa: ARG005
    in_the_way = tmp_path / "out" / "rows" / "vanilla" / "samples"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    options = parsed(
        "architectures",
        "--rows",
        "vanilla,vitgan",
        "--images",
        "16",
        "--data",
        images,
        "--out",
        tmp_path / "out",
    )
    assert command.run(options) == 1
    found = load_record(in_the_way.parent)
    assert found is not None
    assert found.status == "failed"
    assert "samples" in found.reason
    assert "vanilla: failed" in capsys.readouterr().out
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["failed", "complete"]
    in_the_way.unlink()
    assert command.run(options) == 0


def parsed(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add(parser)
    return parser.parse_args([*map(str, words), "--device", "cpu"])


def test_the_list_shows_the_printed_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(parsed("architectures", "--list")) == 0
    said = capsys.readouterr().out
    assert "vanilla    Vanilla-ViT  cifar10 12.7 / 8.4\n" in said
    assert "lsun-bedroom 2.65 / -" in said


def test_the_command_imports_no_torch() -> None:
    code = "import sys, vitgan.commands.reproduce; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_process_that_dies_is_a_failed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitgan.tables.run import Order, train_together

    def after(code: str) -> str:
        monkeypatch.setattr("vitgan.tables.run.CODE", code)
        train_together([Order(recipe=table_rows.TINY, folder=tmp_path, device="cpu")], Interrupt())
        found = load_record(tmp_path)
        assert found is not None
        assert found.status == "failed"
        return found.reason

    assert after("import os; os.kill(os.getpid(), 9)") == "killed by SIGKILL"
    assert after("raise KeyError('why')") == "exit code 1: KeyError: 'why'"


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(tmp_path: Path, images: Path) -> None:
    """The child is told, saves, and a second command ends the row, each in a process of its own."""
    out = tmp_path / "out"
    log = out / "rows" / "vitgan" / "log.jsonl"
    running = start(out, 2_000_000, images)
    wait_for(lambda: log.exists() and log.stat().st_size > 0, running)
    running.send_signal(signal.SIGTERM)
    assert running.wait(300) == 130
    found = load_record(out / "rows" / "vitgan")
    assert found is not None
    assert found.status == "interrupted"
    assert found.images_seen > 0
    settings = json.loads((out / "settings.json").read_text())
    (out / "settings.json").write_text(json.dumps(settings | {"images": found.images_seen + 16}))
    assert start(out, found.images_seen + 16, images).wait(300) == 0
    ended = load_record(out / "rows" / "vitgan")
    assert ended is not None
    assert (ended.status, ended.images_seen) == ("complete", found.images_seen + 16)
    assert ended.peak_memory is not None
    assert found.peak_memory is not None
    assert ended.peak_memory >= found.peak_memory > 0


def start(out: Path, images: int, data: Path) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(out), str(images), str(data)], env=environment)


def wait_for(done: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    guard = threading.Timer(300, process.kill)
    guard.start()
    while not done():
        assert process.poll() is None, "it ended too soon"
        time.sleep(0.05)
    guard.cancel()
