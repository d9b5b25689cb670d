"""What `vitgan bench` says to a user's mistake: one sentence, exit code 2, nothing measured."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vitgan import recipes
from vitgan.bench import steps
from vitgan.bench.settings import with_training
from vitgan.bench.steps import memory_of
from vitgan.cli import main
from vitgan.errors import UserError

pytestmark = pytest.mark.faults

Refused = Callable[..., str]


def run(*words: str | Path) -> int:
    return main(["bench", *map(str, words)])


@pytest.fixture(autouse=True)
def _nothing_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(*_: object, **__: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr("vitgan.bench.run.measure_steps", measure)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--recipe", "digit"), "There is no recipe 'digit': choose one of mnist"),
        (("--recipe", "siren-small"), "The recipe siren-small trains no GAN: choose another with --recipe."),
        (("--batch", "0"), "--batch must be at least 1, not 0."),
        (("--batch", "x"), "--batch: invalid int value: 'x'"),
        (("--threads", "0"), "--threads must be at least 1, not 0."),
        (("--steps", "-1"), "--steps must be at least 1, not -1."),
        (("--precision", "fp8"), "--precision: invalid choice: 'fp8'"),
        (("--parts", "step,stpe"), "--parts has no part 'stpe': choose of startup, memory"),
        (("--parts", ","), "--parts names no part: choose of startup, memory"),
        (("--data", "nowhere", "--parts", "step"), "There is no image source 'nowhere'"),
        (("digits",), "Unrecognized arguments: digits"),
    ],
)
def test_a_mistake_is_one_line(
    words: tuple[str, ...], sentence: str, refused: Refused, tmp_path: Path
) -> None:
    assert sentence in refused(run("--json", tmp_path / "x.json", *words))
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_not_there_is_refused(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "There is no CUDA GPU" in refused(run("--recipe", "digits", "--device", "cuda"))


def test_a_place_where_no_json_can_be_written_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    words = ("--recipe", "digits", "--parts", "step", "--device", "cpu", "--json")
    assert "is a folder: name a file with --json." in refused(run(*words, tmp_path))
    assert "cannot be written" in refused(run(*words, tmp_path / "file" / "x.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_batch_that_the_recipe_cannot_divide_is_refused() -> None:
    with pytest.raises(UserError, match="not a multiple"):
        with_training(with_training(recipes.get("digits"), batch=4, accumulate=2), batch=3)


def test_a_full_gpu_asks_for_a_lower_batch(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("vitgan.bench.run.measure_steps", full)
    words = ("--recipe", "digits", "--parts", "step", "--device", "cpu", "--quiet")
    assert "memory is full: lower --batch" in refused(run(*words))


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("raise SystemExit('first\\nThere is no memory.')", "is measured failed: There is no memory."),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended, perhaps for want of memory."),
    ],
)
def test_a_process_that_fails_says_why(code: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitgan.bench.steps.CODE", code)
    with pytest.raises(UserError) as caught:
        memory_of(recipes.get("digits"), data=None, device=torch.device("cpu"))
    assert str(caught.value).endswith(sentence)
    assert "\n" not in str(caught.value)


def test_what_goes_wrong_in_that_process_is_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    order = {"recipe": recipes.get("digits").to_dict(), "data": "gone.npy", "device": "cpu", "threads": 1}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(order)))
    with pytest.raises(SystemExit, match=r"There is no image source .gone\.npy."):
        steps.main()
