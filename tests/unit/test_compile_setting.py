"""`--training.compile`, as a run tells of it."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from vitgan.cli import main

Command = Callable[..., int]


@pytest.mark.usefixtures("no_curves")
def test_a_run_without_a_compiler_says_so_once_and_trains(
    tiny_train: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with mock.patch("torch.compile", side_effect=RuntimeError("No working C++ compiler found.")):
        assert tiny_train(tmp_path / "run", "--images", "8", "--training.compile", "on") == 0
    said = capsys.readouterr().err
    assert said.count("torch.compile does not work here (No working C++ compiler found)") == 1
    assert "The first step took" in said


@pytest.mark.usefixtures("no_curves")
def test_a_run_says_nothing_of_compiling_where_it_does_not(
    tiny_train: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with mock.patch("torch.compile", side_effect=AssertionError("not on a CPU")):
        assert tiny_train(tmp_path / "run", "--images", "8") == 0
    said = capsys.readouterr().err
    assert "ompil" not in said
    assert "The first step took" not in said


@pytest.mark.parametrize("recipe", ["vit-classifier-small", "siren-small"])
def test_settings_of_a_game_are_refused_where_there_is_none(recipe: str, refused: Callable) -> None:
    said = refused(main(["train", recipe, "--training.compile", "on"]))
    assert "--training.compile belongs to two networks in a game" in said
