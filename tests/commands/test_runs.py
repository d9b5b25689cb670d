"""`vitgan runs` lists the runs of a folder and how each stands."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vitgan.cli import main

Command = Callable[..., int]


@pytest.fixture
def run(tiny_train: Command, tmp_path: Path, no_curves: None) -> Path:
    del no_curves
    assert tiny_train(tmp_path / "run", "--images", "8") == 0
    return tmp_path / "run"


# Runs


def test_runs_are_listed_with_their_state(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "recipe.json").write_text("{")
    beat = json.loads((run / "heartbeat.json").read_text())
    assert main(["runs", str(tmp_path), "--json"]) == 0
    broken, found = json.loads(capsys.readouterr().out)
    assert (broken["run"], broken["recipe"], broken["state"]) == ("broken", None, None)
    assert (found["run"], found["recipe"], found["images"], found["state"]) == (
        "run",
        "digits",
        8,
        "complete",
    )
    assert found["data"].endswith("images.npy")
    assert (run / found["last sample"]).exists()
    beat |= {"state": "training", "time": "2026-01-01T00:00:00+00:00"}
    (run / "heartbeat.json").write_text(json.dumps(beat))
    assert main(["runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["run", "recipe", "data", "images"]
    assert "gone, or silent for" in lines[2]


def test_a_folder_without_runs_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable
) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert "There are no runs in" in capsys.readouterr().out
    assert "There is no folder" in refused(main(["runs", str(tmp_path / "none")]))
