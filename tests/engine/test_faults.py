"""A run that is damaged, out of space, out of numbers or asked for by mistake: what is lost and said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vitgan
from tiny_runs import ALL_ON, Command, assert_log_is_whole, assert_same, fill, final, images_seen
from vitgan.adversarial import BCR, R1
from vitgan.cli import main
from vitgan.engine import loop as engine
from vitgan.engine.checkpoint import TENSORS, checkpoints, load_checkpoint

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("no_curves")]


# Damage


def truncate(folder: Path) -> None:
    path = folder / TENSORS
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [truncate, shutil.rmtree, lambda folder: (folder / TENSORS).unlink()])
def test_a_damaged_newest_checkpoint_costs_its_images_only(
    damage: Callable[[Path], object],
    tiny_train: Command,
    straight: Callable,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert tiny_train(tmp_path / "run", "--images", "32", *ALL_ON) == 0
    damage(checkpoints(tmp_path / "run")[-1])
    capsys.readouterr()
    assert tiny_train(tmp_path / "run", "--images", "48", *ALL_ON, "--training.keep", "1") == 0
    said = capsys.readouterr().err
    assert ("000000000032 is damaged" in said) == (damage is not shutil.rmtree)
    assert "Resuming" in said
    assert "at 24 images" in said
    assert_same(final(tmp_path / "run"), straight(tiny_train, 48))
    assert_log_is_whole(tmp_path / "run", 48)


def test_all_damaged_is_refused_and_nothing_is_deleted(
    tiny_train: Command, refused: Callable, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert tiny_train(tmp_path / "run", "--images", "16", *ALL_ON) == 0
    for folder in checkpoints(tmp_path / "run"):
        truncate(folder)
    capsys.readouterr()
    lines = (tmp_path / "run" / "log.jsonl").read_bytes()
    assert "Every checkpoint" in refused(tiny_train(tmp_path / "run", "--images", "32", *ALL_ON))
    assert len(checkpoints(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == lines
    grid = tmp_path / "grid.png"
    assert "Every checkpoint" in refused(main(["sample", str(tmp_path / "run"), "--out", str(grid)]))


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"type": "Recipe"}'])
def test_without_its_recipe_file_the_checkpoints_still_know_the_recipe(
    content: bytes | None,
    tiny_train: Command,
    refused: Callable,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert tiny_train(tmp_path / "run", "--images", "8") == 0
    capsys.readouterr()
    path = tmp_path / "run" / "recipe.json"
    path.unlink() if content is None else path.write_bytes(content)
    said = refused(tiny_train(tmp_path / "run", "--images", "12", "--training.seed", "1"))
    assert "training.seed: 0 -> 1" in said
    assert tiny_train(tmp_path / "run", "--images", "12") == 0


# Full disk


@pytest.mark.parametrize("place", ["_save", "_sample", "_write_log", "_end"])
def test_a_full_disk_keeps_the_last_checkpoint_and_the_same_command_goes_on(
    place: str,
    small_disk: Path,
    tiny_train: Command,
    straight: Callable,
    refused: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = getattr(engine.Run, place)

    def filling(run: engine.Run, *arguments: Any) -> None:
        if run.images_seen >= 32:
            fill(small_disk)
        real(run, *arguments)

    monkeypatch.setattr(engine.Run, place, filling)
    command = (small_disk / "run", "--images", "48", *ALL_ON)
    said = refused(tiny_train(*command), alone=False)
    assert "is full" in said
    assert "delete what you do not need" in said
    kept = images_seen(small_disk / "run")
    assert kept == {"_save": 24, "_sample": 24, "_write_log": 24, "_end": 48}[place]
    assert f"The last checkpoint, at image {kept}, is kept" in said
    vitgan.load(small_disk / "run")
    assert "is full" in refused(tiny_train(*command), alone=False)  # it still is
    monkeypatch.undo()
    (small_disk / "ballast").unlink()
    assert tiny_train(*command) == 0
    assert_same(final(small_disk / "run"), straight(tiny_train, 48))
    assert_log_is_whole(small_disk / "run", 48)


def test_a_disk_that_is_full_from_the_start_is_said(
    small_disk: Path, tiny_train: Command, refused: Callable
) -> None:
    fill(small_disk)
    said = refused(tiny_train(small_disk / "run", "--images", "8"), alone=False)
    assert "is full" in said
    assert "No checkpoint is there yet" in said


def test_a_full_disk_is_said_when_samples_are_written(
    small_disk: Path, tiny_train: Command, refused: Callable, capsys
) -> None:
    assert tiny_train(small_disk / "run", "--images", "8") == 0
    capsys.readouterr()
    fill(small_disk)
    for name in ("grid.png", "array.npz", "folder"):
        said = refused(main(["sample", str(small_disk / "run"), "--out", str(small_disk / name)]))
        assert "No space left" in said
    assert not (small_disk / "grid.png").exists()


# Numbers that are not finite


@pytest.mark.parametrize("term", [BCR, R1])
def test_nan_in_a_term_stops_at_its_image_and_keeps_the_last_good_checkpoint(
    term: type[BCR] | type[R1],
    tiny_train: Command,
    straight: Callable,
    refused: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    real = term.losses

    def poisoned(self, seen):
        losses = real(self, seen)
        return {name: value * (float("nan") if seen.step == 9 else 1) for name, value in losses.items()}

    monkeypatch.setattr(term, "losses", poisoned)
    command = (tmp_path / "run", "--images", "48", *ALL_ON)
    said = refused(tiny_train(*command), alone=False)
    assert f"{'r1' if term is R1 else 'bcr_real'} became nan at image 36" in said
    assert "The last good checkpoint is at image 32" in said
    assert all(tensor.isfinite().all() for tensor in final(tmp_path / "run").values())
    assert "became nan" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    monkeypatch.undo()
    assert tiny_train(*command) == 0
    assert_same(final(tmp_path / "run"), straight(tiny_train, 48))


def test_a_learning_rate_that_explodes_stops_and_spoils_no_checkpoint(
    tiny_train: Command, refused: Callable, tmp_path: Path
) -> None:
    words = ("--optimiser-discriminator.learning-rate", "1e30", *ALL_ON)
    said = refused(tiny_train(tmp_path / "run", "--images", "400", *words), alone=False)
    assert "Training stopped: " in said
    assert "at image " in said
    assert "Lower the learning rates" in said
    for folder in checkpoints(tmp_path / "run"):
        assert all(tensor.isfinite().all() for tensor in load_checkpoint(folder)[0].values())


# Mistakes


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data.resolution", "9"], "resolution 9 is not divided by the generator's patch size 2"),
        (["--discriminator.patch", "3"], "resolution 8 is not divided by the discriminator's patch size 3"),
        (["--generator.heads", "3"], "--generator.width 8 is not a multiple of --generator.heads 3"),
        (["--discriminator.heads", "5"], "--discriminator.width 8 is not a multiple of"),
        (["--data.labels", "True"], "has no labels"),
    ],
)
def test_a_mistake_leaves_the_folder_free_for_the_right_command(
    words: list[str], sentence: str, tiny_train: Command, refused: Callable, tmp_path: Path
) -> None:
    assert sentence in refused(tiny_train(tmp_path / "run", "--images", "4", *words))
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_recipe_names_the_field(
    tiny_train: Command, refused: Callable, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert tiny_train(tmp_path / "run", "--images", "8") == 0
    capsys.readouterr()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    said = refused(tiny_train(tmp_path / "run", "--images", "12", "--generator.depth", "2"))
    assert "holds a run of another recipe, generator.depth: 1 -> 2:" in said
    words = ("--generator.depth", "2", "--loss.name", "hinge")
    assert "generator.depth: 1 -> 2 (and 1 more)" in refused(tiny_train(tmp_path / "run", *words))
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_other_images_are_refused(
    tiny_train: Command, refused: Callable, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert tiny_train(tmp_path / "run", "--images", "8") == 0
    other = tmp_path / "other.npy"
    np.save(other, np.zeros((5, 8, 8), np.uint8))
    capsys.readouterr()
    said = refused(tiny_train(tmp_path / "run", "--images", "12", "--data", other))
    assert "was trained on other images (13 then, 5 now)" in said
    assert tiny_train(tmp_path / "run", "--images", "12") == 0


def test_an_image_that_changed_since_the_run_began_is_named(
    tiny_train: Command, refused: Callable, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The new file has as many bytes; with the old file back the run goes on."""
    (tmp_path / "data").mkdir()
    for index in range(6):
        Image.new("L", (8, 8), 40 * index).save(tmp_path / "data" / f"{index}.bmp")
    command = (tmp_path / "run", "--data", tmp_path / "data", "--images")
    assert tiny_train(*command, "8") == 0
    path = tmp_path / "data" / "3.bmp"
    before = path.read_bytes()
    path.write_bytes(before[:-1] + b"z")
    capsys.readouterr()
    said = refused(tiny_train(*command, "12"))
    assert "was trained on other images (as many, 6, but the first that differs was '3.bmp 1142" in said
    path.rename(tmp_path / "data" / "31.bmp")
    assert "(as many, 6, but the first that differs was '3.bmp" in refused(tiny_train(*command, "12"))
    (tmp_path / "data" / "31.bmp").rename(path)
    path.write_bytes(before)
    assert tiny_train(*command, "12") == 0


def test_the_same_images_from_another_place_go_on(tiny_train: Command, images: Path, tmp_path: Path) -> None:
    assert tiny_train(tmp_path / "run", "--images", "8") == 0
    moved = shutil.copy(images, tmp_path / "moved.npy")
    assert tiny_train(tmp_path / "run", "--images", "12", "--data", moved) == 0
    assert images_seen(tmp_path / "run") == 12


@pytest.mark.parametrize("content", [[], ["readme.txt"], ["broken.png"]])
def test_a_folder_without_images_is_refused(
    content: list[str], tiny_train: Command, refused: Callable, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    for name in content:
        (tmp_path / "data" / name).write_bytes(b"no image")
    said = refused(tiny_train(tmp_path / "run", "--data", tmp_path / "data"))
    assert str(tmp_path / "data") in said


def test_a_source_that_is_none_is_refused(tiny_train: Command, refused: Callable, tmp_path: Path) -> None:
    said = refused(tiny_train(tmp_path / "run", "--data", "digitz"))
    assert "no image source 'digitz' (did you mean digits?)" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(refused: Callable, tmp_path: Path) -> None:
    said = refused(main(["train", "--device", "cuda", "--out", str(tmp_path / "run")]))
    assert "no CUDA GPU" in said


def test_an_out_that_cannot_be_a_folder_is_refused(
    tiny_train: Command, refused: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    assert "is a file: choose another folder" in refused(tiny_train(file, "--images", "4"))
    assert "cannot be read or written" in refused(tiny_train(file / "below", "--images", "4"))
    assert file.read_text() == "mine"

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "run"))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    said = refused(tiny_train(tmp_path / "run", "--images", "4"))
    assert f"{tmp_path / 'run'} cannot be read or written (Permission denied)" in said


def test_unreadable_images_are_named_and_training_goes_on(
    tiny_train: Command, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    for index in range(3):
        Image.new("L", (8, 8), 80 * index).save(tmp_path / "data" / f"{index}.png")
    (tmp_path / "data" / "bad.png").write_bytes(b"x")
    assert tiny_train(tmp_path / "run", "--images", "8", "--data", tmp_path / "data") == 0
    assert "bad.png" in caplog.text
    body = json.loads((checkpoints(tmp_path / "run")[-1] / "checkpoint.json").read_text())["checkpoint"]
    assert body["data"]["images"] == 3
