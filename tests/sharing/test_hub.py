"""Names of generators, and the Hub: what is pushed can be loaded by its id."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import vitgan
from standin_hub import Hub
from vitgan.cli import main
from vitgan.sharing import find
from vitgan.sharing.hub import packaged


def test_without_the_libraries_the_command_that_installs_them_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    said = refused(main(["export", str(run), "--format", "onnx", "--out", str(tmp_path / "a.onnx")]))
    assert 'pip install "vitgan[export]"' in said
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert 'pip install "vitgan[hub]"' in refused(main(["push", str(run), "me/digits"]))


# Names


def test_the_packages_own_digits_are_there_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "digits", "--out", "grid.png"]) == 0
    folder = find("digits")
    assert (folder / "model.safetensors").stat().st_size < 2 * 2**20
    images = vitgan.load("digits").sample(100, seed=0)
    assert images.shape == (100, 1, 8, 8)
    assert images.float().std(0).mean() > 20


def test_a_folder_comes_before_a_name_and_a_missing_one_is_no_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert find("digits") == Path("digits")
    monkeypatch.setattr("vitgan.sharing.hub.fetch", lambda identity: pytest.fail(f"asked for {identity}"))
    (tmp_path / "runs").mkdir()
    assert "is not a run folder" in refused(main(["sample", "runs/digtis", "--out", "x.png"]))
    assert find("a/b/c") == Path("a/b/c")


# The Hub


def test_what_is_pushed_can_be_loaded_by_its_id(hub: Hub, run: Path, trained: Path, tmp_path: Path) -> None:
    sample = ["sample", "me/digits", "--count", "5", "--seed", "3", "--out"]
    pushed, drawn, again, measured = hub.run(
        ["push", run, "me/digits", "--license", "CC0-1.0"],
        [*sample, "there.npz"],
        ["sample", "hf:me/digits", "--out", "again.png"],
        ["evaluate", "me/digits", "--data", "nowhere"],
    )
    assert pushed.code == 0, pushed.err
    assert 'vitgan.load("me/digits") loads it' in pushed.out
    files = hub.repositories["me/digits"]
    assert {*files} == {"config.json", "model.safetensors", "README.md", "samples.png"}
    assert b'vitgan.load("me/digits")' in files["README.md"]
    assert b"license: cc0-1.0\n" in files["README.md"]
    assert not any(str(trained).encode() in content for content in files.values())
    assert (drawn.code, drawn.err, again.code, again.err) == (0, "", 0, "")
    there = np.load(tmp_path / "there.npz")["images"]
    assert np.array_equal(there, vitgan.load(run).sample(5, seed=3).permute(0, 2, 3, 1).numpy())
    assert hub.downloaded.count("me/digits/model.safetensors") == 1
    assert "There is no image source 'nowhere'" in measured.err


def test_without_a_right_token_nothing_is_pushed(hub: Hub, run: Path) -> None:
    (done,) = hub.run(["push", run, "me/digits"], token="hf_wrong")
    assert done.code == 2
    assert "log in with `hf auth login`" in done.err
    assert len(done.err.splitlines()) == 1
    assert hub.repositories == {}


def test_a_generator_of_the_package_is_found_from_a_folder_that_may_not_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    assert find("digits") == packaged("digits")
    with pytest.raises(PermissionError):
        find("runs/digits")
