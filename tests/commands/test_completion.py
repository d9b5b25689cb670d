"""What `vitgan completion` prints, asked of the shells themselves."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vitgan.cli import main

Said = pytest.CaptureFixture[str]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a picture and two folders."""
    folder = tmp_path / "place"
    for name in ("empty", "images"):
        (folder / name).mkdir(parents=True)
    (folder / "picture.png").touch()
    return folder


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_flags_choices_recipes_and_files(
    place: Path, tmp_path: Path, capsys: Said
) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    cases = {
        "int": {"interpolate"},
        "data ": {"info", "pack"},
        "train vit-classifier-": {"vit-classifier-small"},
        "train digits-tr": {"digits-transgan-xl"},
        "train --dev": {"--device"},
        "train --device ": {"cpu", "cuda"},
        "train --generator.wi": {"--generator.width"},
        "train --out em": {"empty"},
        "train --data im": {"images"},
        "sample pic": {"picture.png"},
        "sample dig": {"digits"},
        "sample run --sc": {"--scale"},
        "sample run --scale ": {"1", "2", "4", "8"},
        "export run --format o": {"onnx"},
        "evaluate run --js": {"--json"},
        "reproduce gen": {"generator"},
        "bench --recipe siren-": {"siren-small"},
        "completion ": {"bash", "zsh", "fish"},
        "data pack images --q": {"--quiet"},
    }
    lines = [f"source {shlex.quote(str(tmp_path / 'script'))}"]
    for typed in cases:
        words = ["vitgan", *typed.split(" ")]
        quoted = " ".join(map(shlex.quote, words))
        lines.append(f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMPREPLY=(); _shtab_vitgan")
        lines.append('echo "${COMPREPLY[@]}"')
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)], capture_output=True, text=True, cwd=place, check=True
    )
    assert done.stderr == ""
    found = [set(line.split()) for line in done.stdout.splitlines()]
    assert dict(zip(cases, found, strict=True)) == cases


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_fish_completes(place: Path, tmp_path: Path, capsys: Said) -> None:
    assert main(["completion", "fish"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    cases = {
        "int": {"interpolate"},
        "train --dev": {"--device"},
        "train --device ": {"cpu", "cuda"},
        "train digits-tr": {"digits-transgan-xl"},
        "train --out em": {"empty/"},
        "sample pic": {"picture.png"},
        "sample dig": {"digits"},
    }
    asked = [f"complete -C {shlex.quote(f'vitgan {typed}')}; echo END" for typed in cases]
    lines = [f"source {shlex.quote(str(tmp_path / 'script'))}", *asked]
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(
        ["fish", "--no-config", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        cwd=place,
        check=True,
        env=os.environ | home,
    )
    answers = done.stdout.split("END\n")[: len(cases)]
    found = [{line.split("\t")[0] for line in answer.splitlines()} for answer in answers]
    assert dict(zip(cases, found, strict=True)) == cases


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_finds_the_script_as_the_help_says(tmp_path: Path, capsys: Said) -> None:
    assert main(["completion", "zsh"]) == 0
    (tmp_path / "_vitgan").write_text(capsys.readouterr().out)
    line = f"fpath+={shlex.quote(str(tmp_path))}; autoload -U compinit; compinit -u -D; print $_comps[vitgan]"
    done = subprocess.run(["zsh", "-fc", line], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("_vitgan\n", "")


@pytest.mark.parametrize(("shell", "flag"), [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")])
def test_the_script_is_one_of_its_shell(shell: str, flag: str, tmp_path: Path, capsys: Said) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    assert main(["completion", shell]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    subprocess.run([shell, flag, str(tmp_path / "script")], check=True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("interpolate", "truncation", "on-nan", "verify"):
        assert word in script


def test_bash_completes(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    done = subprocess.run(
        [sys.executable, "-m", "vitgan", "completion", "bash"], capture_output=True, text=True, check=True
    )
    (tmp_path / "script").write_text(done.stdout)
    asked = "source ./script; COMP_WORDS=(vitgan int); COMP_CWORD=1; _shtab_vitgan; echo ${COMPREPLY[@]}"
    found = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert found.stdout.split() == ["interpolate"]
