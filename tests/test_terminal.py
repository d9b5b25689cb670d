"""What the commands print: to a person, to a script with --json and --quiet, and to no terminal."""

import argparse
import io
import json
import logging
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from sizes import TINY
from vitgan.cli import COMMANDS, _split, build_parser, main
from vitgan.terminal import can_draw, counted, hush, json_of

PAGES = [*((command,) for command in COMMANDS), ("data", "info"), ("data", "pack")]
Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run, images of which one is no image, a picture, a file and an empty folder."""
    folder = tmp_path_factory.mktemp("terminal")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    (folder / "images").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
    (folder / "images" / "bad.png").write_bytes(b"")
    Image.fromarray(pixels[0]).save(folder / "picture.png")
    (folder / "file").write_text("mine")
    (folder / "empty").mkdir()
    np.save(folder / "set.npy", pixels)
    words = ["--data", str(folder / "set.npy"), "--out", str(folder / "run"), "--images", "8", "--quiet"]
    assert main(["train", "digits", *TINY, *words, "--device", "cpu"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(place)
    yield
    hush(False)


# --json and --quiet
TRAIN = f"train digits {shlex.join(TINY)} --data set.npy --images 8 --device cpu --out"
WRITERS = {
    "sample": "sample run --count 4 --out grid.png",
    "interpolate": "interpolate run --frames 3 --out walk.gif",
    "directions": "directions run --count 1",
    "project": "project run picture.png --steps 2 --out found",
    "inspect": "inspect run --count 4",
    "info": "data info images",
    "packed": "data info packed --verify",
    "export": "export run --out exported",
    "rows": "reproduce generator --list",
    "settings": "train digits --settings",
    "train": f"{TRAIN} run",
}


@pytest.fixture(scope="module")
def packed(place: Path) -> Iterator[None]:
    """A packed folder; of `inspect` the pictures, which take seconds to draw, are left out."""
    assert main(["data", "pack", str(place / "images"), str(place / "packed"), "--workers", "0"]) == 0
    with mock.patch("vitgan.diagnostics.figures.draw", return_value=[]):
        yield


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize("words", [*WRITERS.values(), "list", "runs ."], ids=[*WRITERS, "list", "runs"])
def test_json_is_one_document_on_stdout(words: str, capsys: Said) -> None:
    assert main([*shlex.split(words), "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert isinstance(found, (dict, list))
    assert found
    assert said.err == "" or words.startswith("train")


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize("words", WRITERS.values(), ids=list(WRITERS))
def test_quiet_is_silence(words: str, capsys: Said) -> None:
    assert main([*shlex.split(words), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_packing_says_its_numbers(capsys: Said, tmp_path: Path) -> None:
    words = ["data", "pack", "images", str(tmp_path / "out"), "--workers", "0"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["left_out"], found["new"]) == (12, 1, True)
    assert main([*words, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("\n1 was left out; skipped.jsonl names it.\n")


@pytest.mark.parametrize("given", [[], ["-"], ["file.json"]])
def test_evaluate_prints_json_or_writes_it(
    given: list[str], capsys: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"protocol": {"settings": {}, "key": "0"}, "metrics": {"fid": float("nan")}}
    protocol = SimpleNamespace(to_dict=lambda: {"settings": {}, "key": "0"})
    found = SimpleNamespace(metrics=facts["metrics"], protocol=protocol, to_dict=lambda: facts)
    monkeypatch.setattr("vitgan.commands.evaluate._evaluate", lambda *_: found)
    path = [str(tmp_path / word) if word.endswith("json") else word for word in given]
    assert main(["evaluate", "run", "--quiet", "--json", *path]) == 0
    said = capsys.readouterr()
    text = (tmp_path / "file.json").read_text() if given == ["file.json"] else said.out
    assert json.loads(text) == facts | {"metrics": {"fid": None}}
    assert (said.out == "", said.err) == (given == ["file.json"], "")


def test_a_number_that_is_not_finite_is_null() -> None:
    found = json.loads(json_of({"a": float("nan"), "b": [float("inf"), 1.5], "c": Path("x")}))
    assert found == {"a": None, "b": [None, 1.5], "c": "x"}


def test_an_error_under_quiet_and_json_is_one_line_on_stderr(capsys: Said) -> None:
    for flag in ("--quiet", "--json"):
        assert main(["sample", "nowhere", "--out", "x.png", flag]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1


# Mistakes


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("trian", "There is no command 'trian': `vitgan --help` lists them. Did you mean train?"),
        ("data inof digits", "choose info or pack. Did you mean info?"),
        ("train cifar", "Did you mean cifar10?"),
        ("train digits-vitagn", "Did you mean digits-vitgan?"),
        ("train --imgaes 3", "no option --imgaes: see `vitgan train --help`. Did you mean --images?"),
        ("sample run --ot x.png", "no option --ot: see `vitgan sample --help`. Did you mean --out?"),
        ("data pack a b --resolutoin=3", "no option --resolutoin"),
        ("export run --format onxx --out x", "choose safetensors, onnx or pt2. Did you mean onnx?"),
        ("completion bsh", "choose bash, zsh or fish. Did you mean bash?"),
        ("reproduce generater", "Did you mean generator?"),
        ("reproduce generator --list --rows a-liner", "Did you mean a-linear?"),
        ("bench --parts stp", "Did you mean step?"),
        ("evaluate run --metrics fdi", "Did you mean fid?"),
        ("evaluate --json run", "--json takes the next word for its file, so it comes last"),
        ("sample dgits --out x.png", "Did you mean digits?"),
        ("sample rnu --out x.png", "Did you mean run?"),
        ("sample file --out x.png", "file is a file and is not a run folder"),
        ("sample run --out x.jpg", "end --out in .png or .npz, or name a folder"),
        ("sample run --out file/x.png", "file cannot be read or written"),
        ("project run empty --out found", "it is a folder): give the file of a picture"),
        ("evaluate run --json empty", "empty is a folder: name a file with --json"),
        ("inspect run --json file/x.json", "file/x.json cannot be written"),
        ("runs file", "file is a file: give a folder of runs"),
        ("list extra", "Unrecognized arguments: extra: see `vitgan list --help`"),
    ],
)
def test_a_mistake_says_what_to_do(words: str, sentence: str, refused: Callable) -> None:
    assert sentence in refused(main(words.split()))


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("onnxruntime", "export run --format onnx --out x.onnx", "export"),
        ("huggingface_hub", "push run USER/name", "hub"),
        ("imageio_ffmpeg", "interpolate run --frames 2 --out walk.mp4", "video"),
        ("datasets", "data info hf:USER/name", "hub"),
    ],
)
def test_a_missing_extra_is_a_command_of_pip(
    module: str, words: str, extra: str, refused: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert f'pip install "vitgan[{extra}]"' in refused(main(words.split()))


def test_an_unfinished_file_has_its_own_name_in_the_message(
    refused: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", ".grid.png.123.tmp")

    monkeypatch.setattr("vitgan.engine.grid.save_images", full)
    said = refused(main(["sample", "run", "--out", "grid.png"]))
    assert said.startswith("vitgan: grid.png cannot be read or written (No space left on device):")


def test_counts_are_grouped_and_plural() -> None:
    assert [counted(n, "image") for n in (0, 1, 1234)] == ["0 images", "1 image", "1,234 images"]


# Help


def help_of(words: tuple[str, ...], capsys: Said) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [(), *PAGES], ids=" ".join)
def test_help_fits_80_columns_and_its_examples_are_commands(
    words: tuple[str, ...], capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = help_of(words, capsys)
    assert [line for line in said.splitlines() if len(line) > 80] == []
    assert "\x1b" not in said
    examples = said.partition("examples:\n")[2].splitlines()
    own = [line.strip() for line in examples if line.strip().startswith("vitgan")]
    assert any(" ".join(("vitgan", *words)) in line for line in examples)
    for line in own:
        parts = shlex.split(re.split(r" {3,}| > | && ", line)[0])[1:]
        settings: list[str] = []
        if parts[0] == "train":
            parts, settings = _split(parts)
        build_parser().parse_args(parts, argparse.Namespace(overrides=settings))


def test_commands_stand_beside_their_lines(capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = help_of((), capsys).splitlines()
    for command in COMMANDS:
        assert any(re.match(rf"    {command}  +\w", line) for line in lines), command


def test_settings_are_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings are a file of TOML on a terminal, too, without boxes or colour."""
    monkeypatch.setenv("COLUMNS", "80")
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    assert main(["train", "digits", "--settings"]) == 0
    lines = shown.getvalue().splitlines()
    assert tomllib.loads(shown.getvalue())["generator"]["width"] == 64
    assert [line for line in lines if len(line) > 80 or re.search("[\x1b│─╭]|-{3,}", line)] == []


# Terminals and what is none


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2


def test_a_bar_is_drawn_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("os.get_terminal_size", lambda _: os.terminal_size((80, 24)))
    assert can_draw(Terminal())
    assert not can_draw(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not can_draw(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    hush(True)
    assert not can_draw(Terminal())


def test_a_run_whose_output_is_no_terminal_prints_plain_lines(tmp_path: Path, capsys: Said) -> None:
    assert main([*shlex.split(TRAIN), str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert not set(said.err) & {"\r", "\x1b"}
    assert "" not in said.err.splitlines()


def python(*words: str, **settings: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "vitgan", *words], stderr=subprocess.PIPE, text=True, check=False, **settings
    )


def test_a_closed_pipe_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = python("list", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("word", ["list", "--help"])
def test_a_full_disk_is_one_line(word: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = python(word, stdout=full)
    assert done.returncode == 2
    assert re.fullmatch(r"vitgan: .*No space left.*\n", done.stderr)


def test_an_interrupt_is_one_line_and_130(capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vitgan.load", interrupted)
    assert main(["sample", "run", "--out", "grid.png"]) == 130
    assert capsys.readouterr() == ("", "vitgan: Interrupted.\n")


def test_only_this_packages_warnings_are_printed(capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    hush(False)
    logging.getLogger("a.library").warning("for its developers")
    logging.getLogger("vitgan").warning("an image was left out")
    hush(True)
    logging.getLogger("vitgan").warning("not asked for")
    assert capsys.readouterr().err == "vitgan: an image was left out\n"
