"""The command line: any words end in an exit code, and what is refused in one line."""

import argparse
import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from vitgan import recipes
from vitgan.cli import COMMANDS, build_parser, main
from vitgan.engine.loop import Outcome
from vitgan.errors import UserError

pytestmark = [pytest.mark.fuzz, pytest.mark.usefixtures("one_thread")]

Work = list[str]


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    return [text for action in parser._actions for text in action.option_strings]


def parsers() -> dict[str, argparse.ArgumentParser]:
    (found,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return found.choices


def settings_of(value: Any, where: str = "") -> list[str]:
    """--generator.width and so on."""
    if not isinstance(value, dict):
        return [f"--{where}".replace("_", "-")]
    parts = ((f"{where}.{key}".lstrip("."), part) for key, part in value.items() if key != "type")
    return [flag for place, part in parts for flag in settings_of(part, place) if "." in flag]


FLAGS = {name: options_of(parser) for name, parser in parsers().items()}
SETTINGS = sorted({flag for name in recipes.INDEX for flag in settings_of(recipes.get(name).to_dict())})
SETTINGS += [
    f"--terms.{term}" for term in ("bcr.real", "r1.gamma", "r1.every", "bcr.against", "drift.weight")
]
NUMBERS = [
    "0",
    "1",
    "-1",
    "7",
    "64",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "1e-320",
    "-0",
    "0x10",
    "1_0",
    "+3",
]
NUMBERS += ["9" * 30, "9" * 5000, "-" + "9" * 400, "٣", "1.0", "1e3", "None", "True", "False"]
NAMES = [
    "digits",
    "cifar10",
    "siren-small",
    "vit-classifier-small",
    "digits-unet-d",
    "digits-a-linear",
    "all",
]
NAMES += [
    "architectures",
    "generator",
    "vitgan",
    "fid,kid",
    "fid",
    "is,is",
    "classifier",
    "inception",
    "vgg16",
]
NAMES += [
    "cpu",
    "cuda",
    "fp32",
    "bf16",
    "auto",
    "info",
    "pack",
    "small",
    "rollback",
    "logistic",
    "l2",
    "clean",
]
PATHS = ["nowhere", "no/such/x.png", "x.npz", "x.npy", "images.npy", ".", "~", "~nobody", "a" * 300, "[", "*"]
JUNK = [
    "",
    " ",
    "-",
    "--",
    "---",
    "--=",
    "=",
    "--.",
    "--x.y",
    "--x.",
    "--generator",
    "--generator.",
    "--a.b=c",
]
JUNK += [
    "-h",
    "--help",
    "--version",
    "\udcff",
    "é",
    "\u202e",
    "\x1b[31m",
    "\n",
    "a\nb",
    "{a}",
    "%s",
    "@x",
    "'",
    '"',
]
TEXT = st.text(st.characters(exclude_characters="/\x00", exclude_categories=["Cs"]), max_size=6)
NEEDED = {
    "sample": ["nowhere", "--out", "x.png"],
    "evaluate": ["images.npy", "--data", "images.npy"],
    "reproduce": ["generator"],
    "inspect": ["nowhere"],
    "data": ["info", "images.npy"],
    "interpolate": ["nowhere", "--out", "x.gif"],
    "project": ["nowhere", "images.npy", "--out", "x"],
    "directions": ["nowhere"],
    "runs": ["."],
    "export": ["nowhere", "--out", "x"],
    "push": ["nowhere", "me-them"],
    "completion": ["bash"],
}
VALUES = st.one_of(*map(st.sampled_from, (NUMBERS, NAMES, PATHS, JUNK)), TEXT)


@st.composite
def words(draw: st.DrawFn) -> list[str]:
    """A command with some of its options, most with a value; at times anything at all."""
    command = draw(st.sampled_from([*COMMANDS, *("train", "sample", "inspect", "bench") * 2]))
    flags = FLAGS[command] + (SETTINGS if command == "train" else [])
    needed = NEEDED.get(command, []) if draw(st.integers(0, 4)) else []
    found = [command, *needed]
    for kind in draw(
        st.lists(st.sampled_from(["flag", "flag", "flag", "joined", "value", "bare"]), max_size=5)
    ):
        flag, value = draw(st.sampled_from(flags)), draw(VALUES)
        found += {"flag": [flag, value], "joined": [f"{flag}={value}"], "value": [value], "bare": [flag]}[
            kind
        ]
    if draw(st.integers(0, 9)) == 0:
        found[draw(st.integers(0, len(found) - 1))] = draw(VALUES)
    return found


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """The names of the actions that were reached, none of which does anything."""
    reached: Work = []

    def does(name: str, result: Any) -> Any:
        def act(*_: Any, **__: Any) -> Any:
            reached.append(name)
            return result

        return act

    def no_source(source: str) -> Any:
        raise UserError(f"There is no {source!r}.")

    class Generator:
        classes = 0
        class_names = ()

        def labels_of(self, *_: Any) -> None: ...

        def to(self, _: Any) -> "Generator":
            return self

        def sample(self, count: int, **_: Any) -> torch.Tensor:
            reached.append("sample")
            return torch.zeros(min(count, 2), 1, 8, 8, dtype=torch.uint8)

    monkeypatch.chdir(tmp_path)
    np.save("images.npy", np.zeros((2, 8, 8), np.uint8))
    evaluation = SimpleNamespace(to_dict=dict)
    table = SimpleNamespace(interrupted=False, failed=[], table={}, folder=Path("out"))
    for path, replacement in {
        "vitgan.train": does("train", Outcome(Path("out"), 8, 1.0, "complete")),
        "vitgan.load": lambda _, **__: Generator(),
        "vitgan.engine.grid.save_images": does("save", None),
        "vitgan.commands.evaluate._evaluate": does("evaluate", evaluation),
        "vitgan.commands.evaluate._text": does("text", ""),
        "vitgan.tables.reproduce": does("reproduce", table),
        "vitgan.diagnostics.inspect_run": does("inspect", {"figures": []}),
        "vitgan.diagnostics.inspection.table": does("table", ""),
        "vitgan.bench.run.bench": does("bench", {}),
        "vitgan.bench.table.table": does("table", ""),
        "vitgan.data.open_source": no_source,
        "vitgan.latent.walk": does("walk", torch.zeros(2, 1, 8, 8, dtype=torch.uint8)),
        "vitgan.latent.save_frames": does("save", None),
        "vitgan.latent.read_picture": does("read", None),
        "vitgan.latent.project": does("project", SimpleNamespace(losses=[1.0], difference=1.0)),
        "vitgan.commands.project._write": does("write", None),
        "vitgan.latent.directions.write_directions": does("directions", []),
        "vitgan.sharing.export_folder": does("export", None),
        "vitgan.sharing.export.push": does("push", "address"),
        "vitgan.engine.run_folder.load_generator": does("load", None),
        "vitgan.commands.explore.free_port": does("port", 1),
    }.items():
        monkeypatch.setattr(path, replacement)
    page = SimpleNamespace(serve=does("explore", None))
    monkeypatch.setitem(sys.modules, "vitgan.explore.app", page)
    return reached


def outcome(given: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and what was said, on streams as a shell gives them."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
    said = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", said)
        try:
            code = main(given)
        except SystemExit as end:
            code = 0 if end.code is None else int(end.code)
        out.flush()
        said.flush()
    return code, said.buffer.getvalue().decode()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_any_words_end_in_an_exit_code_and_mistakes_in_one_line(
    fuzz: Any, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(given: list[str]) -> None:
        code, said = outcome(given, monkeypatch)
        assert code in (0, 2, 130), given
        assert "Traceback" not in said
        lines = said.splitlines() if code == 2 else []
        assert code != 2 or (len(lines) == 1 and lines[0].startswith("vitgan: ")), (given, said)

    fuzz(check, words())
    assert {"train", "sample", "inspect", "bench"} <= set(work)  # what is stubbed is reached


def test_the_stubs_are_reached_by_right_words(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = (
        "train digits --generator.width 8 --generator.heads 2 --quiet",
        "sample nowhere --out x.png",
        "evaluate images.npy --data images.npy",
        "reproduce generator --images 8",
        "inspect nowhere",
        "bench --recipe digits",
    )
    for given in commands:
        assert outcome([*given.split()], monkeypatch) == (0, "")
    assert {*work} >= {"train", "sample", "save", "evaluate", "reproduce", "inspect", "bench"}
