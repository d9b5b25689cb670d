"""What `vitgan inspect` says to a run, a source or a number that it cannot use: one sentence each."""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny_runs import Command
from vitgan.commands import inspect
from vitgan.data import DataOptions
from vitgan.diagnostics import subject
from vitgan.engine.checkpoint import TENSORS, checkpoints, load_checkpoint, save_checkpoint
from vitgan.engine.gan import Recipe
from vitgan.errors import UserError
from vitgan.models import StyleGAN2DiscriminatorOptions, ViTGANGeneratorOptions
from vitgan.sharing import export_folder

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("no_curves")]

Refused = Callable[..., str]


@pytest.fixture
def run(tiny_train: Command, tmp_path: Path) -> Path:
    assert tiny_train(tmp_path / "run", "--images", "8", "--quiet") == 0
    return tmp_path / "run"


def said(*words: object) -> str:
    """The one sentence with which the command refuses."""
    parser = argparse.ArgumentParser()
    inspect.add(parser)
    with pytest.raises(UserError) as caught:
        inspect.run(parser.parse_args([str(word) for word in words] + ["--device", "cpu"]))
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_a_folder_without_a_run_or_a_checkpoint_is_refused(tmp_path: Path):
    assert "is not a run folder" in said(tmp_path / "none", "--out", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "no checkpoint yet" in said(tmp_path / "empty")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "none").exists()


def test_a_generator_alone_is_refused(run: Path, tmp_path: Path):
    export_folder(run, tmp_path / "exported")
    for alone in (tmp_path / "exported", "digits"):
        assert said(alone).endswith("without the discriminator: pass the folder of its run.")


def test_a_damaged_checkpoint_is_said(run: Path):
    for folder in checkpoints(run):
        (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-100])
    assert "Every checkpoint" in said(run)
    assert "is damaged" in said(checkpoints(run)[-1])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--count", 0), "--count must be at least 1, not 0."),
        (("--count", -3), "--count must be at least 1, not -3."),
        (("--seed", -1), "--seed must be at least 0"),
        (("--seed", 2**63), "--seed must be at least 0"),
    ],
)
def test_numbers_out_of_range_are_said_before_anything_is_read(
    words: tuple[object, ...], sentence: str, tmp_path: Path
):
    assert said(tmp_path / "none", *words).startswith(sentence)


def test_more_images_than_there_are_are_refused(run: Path):
    assert said(run, "--count", 64).endswith("has 13 images, fewer than --count 64: set --count 13.")


def test_a_source_that_is_not_there_is_named(run: Path, tmp_path: Path):
    assert str(tmp_path / "gone.zip") in said(run, "--data", tmp_path / "gone.zip")


def test_a_file_in_the_place_of_the_folder_is_refused(run: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert "is a file" in said(run, "--out", tmp_path / "file", "--count", 4)


def test_unlabelled_images_for_a_run_with_classes_are_refused(
    tiny_train: Command, images: Path, tmp_path: Path
):
    np.savez(tmp_path / "three.npz", images=np.load(images), labels=np.arange(13) % 3)
    np.savez(tmp_path / "two.npz", images=np.load(images), labels=np.arange(13) % 2)
    words = ("--data", tmp_path / "three.npz", "--data.labels", "True", "--images", "8", "--quiet")
    assert tiny_train(tmp_path / "run", *words) == 0
    assert "has no labels" in said(tmp_path / "run", "--data", images, "--count", 4)
    assert "has 2 classes, the run 3" in said(tmp_path / "run", "--data", tmp_path / "two.npz", "--count", 4)


@pytest.mark.parametrize("part", ["average", "discriminator"])
def test_weights_that_are_not_finite_are_refused(part: str, run: Path):
    tensors, description = load_checkpoint(checkpoints(run)[-1])
    tensors[f"{part}.position"].fill_(torch.nan)
    save_checkpoint(run, 100, tensors, {**description, "images": 100})
    assert f"not finite ({part}.position)" in said(run, "--count", 4)


def test_weights_of_another_network_are_refused(run: Path):
    tensors, description = load_checkpoint(checkpoints(run)[-1])
    del tensors["discriminator.position"]
    save_checkpoint(run, 100, tensors, {**description, "images": 100})
    assert "do not fit its recipe" in said(run, "--count", 4)


def test_a_count_that_groups_do_not_divide_is_refused():
    options = ViTGANGeneratorOptions()
    recipe = Recipe(
        name="x", data=DataOptions(), generator=options, discriminator=StyleGAN2DiscriminatorOptions()
    )
    subject._check_group(recipe, 8)
    for count in (6, 3):
        with pytest.raises(UserError, match="set --count 4"):
            subject._check_group(recipe, count)
