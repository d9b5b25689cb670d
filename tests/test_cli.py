"""The command line: what it prints and refuses, and what it does not import."""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import vitgan
from vitgan.cli import COMMANDS, main
from vitgan.io import home

HEAVY = ("torch", "torchvision", "matplotlib", "tensorboard", "sklearn", "tyro")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def leave(words: list[str]) -> int | str | None:
    """The code with which argparse or tyro leaves after printing help."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    return caught.value.code


# What there is to read


def test_help_list_and_an_unknown_recipe_import_nothing_heavy() -> None:
    loaded = f"assert not (loaded := set(sys.modules) & set({HEAVY})), loaded\n"
    code = (
        "import sys, contextlib, io\nimport vitgan\n" + loaded + "from vitgan.cli import main\n"
        "for words in (['--help'], ['train', '--help'], ['sample', '--help'], ['--version'], ['list']):\n"
        "    with contextlib.suppress(SystemExit): main(words)\n" + loaded + "errors = io.StringIO()\n"
        "with contextlib.redirect_stderr(errors): assert main(['train', 'x']) == 2\n" + loaded
    )
    assert "usage: vitgan" in python(code)


def test_the_module_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vitgan", "list"], capture_output=True, text=True, check=True
    )
    recipes, _, rows = done.stdout.partition("\n\n")
    assert [line.split()[0] for line in recipes.splitlines()] == vitgan.recipes.names()
    assert all(f"\n  {row} " in rows for table in vitgan.recipes.ROWS.values() for row in table)


@pytest.mark.parametrize("command", [[], ["train"], ["sample"], ["data"], ["list"]])
def test_help_says_how_a_command_is_used(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert leave([*command, "--help"]) == 0
    assert f"usage: {' '.join(['vitgan', *command])}" in capsys.readouterr().out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(["--version"]) == 0
    assert capsys.readouterr().out == f"vitgan {vitgan.__version__}\n"


def test_list_names_every_recipe_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == vitgan.recipes.names()
    assert all(vitgan.recipes.summary(line.split()[0]) in line for line in lines)


def test_settings_keep_a_name_that_is_not_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vitgan.recipes.settings import read_settings

    source = "caf\udce9/\u00e9"
    assert main(["train", "digits", "--data", source, "--settings"]) == 0
    (tmp_path / "a.toml").write_text(capsys.readouterr().out, "utf-8")
    assert read_settings(tmp_path / "a.toml")["data"]["source"] == source


def test_settings_are_listed_with_their_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "cifar10", "--settings"]) == 0
    said = capsys.readouterr().out
    found = tomllib.loads(said)
    assert found["generator"]["width"] == 384
    assert found["discriminator"]["spectral_norm"] == "improved"
    assert found["loss"]["type"] == "logistic"
    assert found["terms"][0]["type"] == "bcr"
    assert found["ema"]["half_life"] == 1_000_000


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "COMMAND"),
        (["trian"], "'trian'"),
        (["list", "--all"], "--all"),
        (["train", "digit"], "no recipe 'digit': choose one of mnist"),
        (["train", "digits", "cifar10"], "cifar10"),
        (["train", "--imges", "3"], "--imges"),
        (["train", "--images", "x"], "--images: invalid int value: 'x'"),
        (["train", "--images", "0"], "--images must be greater than 0, not 0"),
        (["train", "--minutes", "-1"], "--minutes must be greater than 0, not -1"),
        (["train", "--seed", "-1"], "seed must be at least 0"),
        (["train", "--device", "tpu"], "--device: invalid choice: 'tpu'"),
        (["train", "--precision", "fp8"], "--precision: invalid choice: 'fp8'"),
        (["train", "digits", "--generator.wdith", "8"], "did you mean --generator.width?"),
        (["train", "digits", "--generator.width"], "--generator.width needs a value"),
        (
            ["train", "digits", "--data.flip", "--images", "640"],
            "--data.flip needs a value, as --data.flip True",
        ),
        (["train", "--data.flip", "--training.batch", "8"], "--data.flip needs a value, as --data.flip True"),
        (["train", "--training.batch", "--json"], "--training.batch needs a value"),
        (["train", "--data.flop", "--images", "640"], "--data.flop: did you mean --data.flip?"),
        (["train", "digits", "--generator.width", "--quiet"], "--generator.width"),
        (["train", "--data", "nowhere", "--out", "never"], "no image source 'nowhere'"),
        (["sample"], "RUN, --out"),
        (["sample", "nowhere", "--out", "x.png"], "nowhere is not a run folder"),
        (["sample", "nowhere", "--out", "x.png", "--count", "0"], "--count must be at least 1"),
        (["sample", "nowhere", "--out", "x.png", "--truncation", "-0.1"], "--truncation must be from 0 to 1"),
        (["sample", "nowhere", "--out", "x.png", "--truncation", "nan"], "--truncation must be from 0 to 1"),
        (["sample", "nowhere", "--out", "x.png", "--seed", "-1"], "--seed must be at least 0"),
        (["data", "info", "nowhere"], "no image source 'nowhere'"),
        (["data", "pick", "digits"], "'pick'"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    words: list[str], sentence: str, refused: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(main(words))
    assert list(tmp_path.iterdir()) == []


def test_a_setting_before_the_recipe_does_not_take_its_place(
    refused: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`--generator.width 8` has a value, and 8 is not the recipe."""
    monkeypatch.chdir(tmp_path)
    words = ["--generator.width", "8", "--generator.heads", "3", "--seed", "1"]
    assert "--generator.width 8 is not a multiple" in refused(main(["train", *words, "digits"]))
    assert "There is no setting --generator.width: did you mean --generator.widths?" in refused(
        main(["train", *words])
    )  # the default recipe's has widths


@pytest.mark.parametrize(
    ("words", "images", "minutes"),
    [
        ([], None, 4),
        (["--images", "9"], 9, None),
        (["--minutes", "9"], None, 9),
        (["--images", "9", "--minutes", "8"], 9, 8),
        (["--images", "9", "--training.minutes", "3"], 9, 3),
    ],
)
def test_images_or_minutes_replace_the_recipes_own_end(
    words: list[str], images: int | None, minutes: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def train(recipe, **_):
        asked.append(recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr(vitgan, "train", train)
    assert main(["train", "digits", *words]) == 130
    assert (asked[0].training.images, asked[0].training.minutes) == (images, minutes)


def test_data_info_counts_images_classes_and_what_is_unreadable(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for index in range(3):
        path = tmp_path / "data" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 12)).save(path)
    (tmp_path / "data" / "b" / "bad.png").write_bytes(b"")
    assert main(["data", "info", str(tmp_path / "data")]) == 0
    lines = [line.split(None, 1) for line in capsys.readouterr().out.splitlines()]
    assert ["images", "3"] in lines
    assert ["classes", "2"] in lines
    assert ["a", "2"] in lines
    assert ["b", "1"] in lines
    assert ["unreadable", "1"] in lines
    assert any(name == "b/bad.png" for name, _ in lines)
    assert any("10 x 12" in rest for _, rest in lines)


def test_data_info_says_the_numbers_of_named_classes_and_which_have_no_images(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    content = {"labels": [["0.png", 0], ["1.png", 2]], "classes": ["cat", "bird", "dog"]}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(content))
    for index in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / f"{index}.png")
    assert main(["data", "pack", str(tmp_path / "data"), str(tmp_path / "packed"), "--quiet"]) == 0
    for name in ("data", "packed"):
        assert main(["data", "info", str(tmp_path / name)]) == 0
        *lines, note = capsys.readouterr().out.splitlines()
        found = [line.split(None, 1) for line in lines]
        for line in (["classes", "2"], ["numbers", "0 (cat), 1 (dog)"], ["cat", "1"], ["dog", "1"]):
            assert line in found
        assert not any(first == "bird" for first, *_ in found)
        assert note.endswith("has images of 2 of 3 classes, which alone count: 0 (cat), 1 (dog).")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_ends_with_examples_of_it(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    examples = capsys.readouterr().out.partition("examples:\n")[2].splitlines()
    assert examples
    assert all(len(line) <= 100 for line in examples)
    assert any(line.strip().startswith(f"vitgan {command}") for line in examples)


NOBODY = """
import os, pwd, sys
def unknown(number): raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = unknown
pwd.getpwnam = unknown
from vitgan.cli import main
sys.argv = ["vitgan", *sys.argv[1:]]
sys.exit(main())
"""


def test_a_user_without_a_home_or_a_name_has_a_cache_among_the_temporary_files(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4)).save(buffer, "PNG")
        member = tarfile.TarInfo("a.png")
        member.size = buffer.tell()
        buffer.seek(0)
        tar.addfile(member, buffer)
    lost = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "VITGAN_CACHE", "VITGAN_DATA")
    environment = {name: value for name, value in os.environ.items() if name not in lost}
    environment |= {"TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        code = [sys.executable, "-c", NOBODY, *words]
        return subprocess.run(
            code, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    info = run("data", "info", f"wds:{tmp_path / 'set.tar'}")
    assert (info.returncode, info.stderr) == (0, "")
    home = tmp_path / "temporary" / f"vitgan-{os.getuid()}"
    assert home.stat().st_mode & 0o077 == 0
    strange = run("data", "info", "~nobody-at-all/images")
    assert (strange.returncode, "Traceback" in strange.stderr) == (2, False)
    assert not (tmp_path / "~").exists()


def test_a_home_in_place_of_a_missing_one_is_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", missing)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert home() == home() == tmp_path / f"vitgan-{os.getuid()}"
    home().chmod(0o777)
    other = home()  # somebody else could have put something there
    assert other.parent == tmp_path
    assert other != tmp_path / f"vitgan-{os.getuid()}"
