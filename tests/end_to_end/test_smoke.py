"""Whole runs, a few steps each: what they leave behind, and every choice of the networks and the game."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitgan
from vitgan.cli import main
from vitgan.data import DataOptions
from vitgan.engine.checkpoint import checkpoints
from vitgan.engine.loggers import read_log

Command = Callable[..., int]


@pytest.mark.slow
@pytest.mark.usefixtures("curves")
def test_the_default_recipe_leaves_all_that_is_promised(tmp_path: Path) -> None:
    run = tmp_path / "run"
    images = str(20 * vitgan.recipes.get("mnist").training.batch)
    words = ["--out", str(run), "--images", images, "--device", "cpu", "--quiet", "--training.log-every", "1"]
    assert main(["train", *words]) == 0
    lines = read_log(run)
    assert len(lines) == 20
    assert all(math.isfinite(value) for line in lines for value in line.values())
    names = {"loss_discriminator", "loss_generator", "logit_gap", "images_per_second", "seconds", "images"}
    names |= {
        "gradient_norm_discriminator",
        "gradient_norm_generator",
        "term_adversarial",
        "term_approximate_r1",
    }
    names |= {"term_approximate_r2", "term_centring"}
    assert all(names <= line.keys() for line in lines)
    samples = sorted((run / "samples").glob("*.png"))
    assert [int(path.stem) for path in samples] == [0, int(images)]
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert (run / "report.html").read_text(encoding="utf-8").count("<svg") >= 4
    assert len(checkpoints(run)) == 1
    assert {path.name for path in run.iterdir() if not path.name.startswith(".")} == {
        *("samples", "log.jsonl", "tensorboard", "report.html", "checkpoints", "recipe.json"),
        *("events.jsonl", "heartbeat.json"),
    }
    assert vitgan.load(run).sample(3).float().std() > 1


def test_the_package_trains_by_call(images: Path, tmp_path: Path) -> None:
    """The recipe is none that is shipped: `dataclasses.replace` made it."""
    from dataclasses import replace

    base = vitgan.recipes.get("digits")
    recipe = replace(
        base,
        name="mine",
        data=replace(base.data, source=str(images)),
        generator=replace(base.generator, depth=1),
        training=replace(base.training, images=16, batch=8),
    )
    outcome = vitgan.train(recipe, out=str(tmp_path / "run"), device="cpu", quiet=True)
    assert outcome.images_seen == 16
    assert outcome.ended == "complete"
    assert outcome.folder == tmp_path / "run"


def test_a_class_conditional_run_goes_on_and_draws_each_class(tiny_train: Command, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=pixels, labels=np.arange(12) % 3)
    words = ("--data", tmp_path / "data.npz", "--data.labels", "True", "--images", "16")
    assert tiny_train(tmp_path / "run", *words, "--terms.r1.gamma", "0.1") == 0
    assert tiny_train(tmp_path / "run", *words[:-1], "24") == 2  # the penalty is a part of the run
    assert tiny_train(tmp_path / "run", *words[:-1], "24", "--terms.r1.gamma", "0.1") == 0
    generator = vitgan.load(tmp_path / "run")
    assert generator.classes == 3
    z = generator.latents(1, seed=0)
    of_two_classes = [generator(z, torch.tensor([label])) for label in (0, 1)]
    assert not torch.equal(*of_two_classes)
    assert generator.sample(5, labels=torch.zeros(5, dtype=torch.int64)).shape == (5, 1, 8, 8)


@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGB", 1), ("L", 3)])
def test_a_folder_of_images_trains_in_grey_and_in_colour(
    mode: str, channels: int, tiny_train: Command, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 11, 9, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).convert(mode).save(tmp_path / "data" / f"{index}.png")
    words = ("--data", tmp_path / "data", "--data.channels", str(channels), "--images", "8", "--quiet")
    assert tiny_train(tmp_path / "run", *words) == 0
    assert vitgan.load(tmp_path / "run").sample(2).shape == (2, channels, 8, 8)


@pytest.mark.usefixtures("quick_classifier", "curves")
def test_names_that_are_not_utf_8_are_trained_on_kept_and_shown_as_escapes(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The set, one of its classes, one of its files that is damaged, and the run."""
    name, shown = os.fsdecode(b"caf\xe9"), r"caf\udce9"
    pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)
    try:
        (tmp_path / name / name).mkdir(parents=True)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    (tmp_path / name / "b").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / name / (name, "b")[number % 2] / f"{number}.png")
    (tmp_path / name / name / f"{name}.png").write_bytes(b"no image")
    data, run = str(tmp_path / name), str(tmp_path / f"run{name}")
    words = ["--data", data, "--data.labels", "True", "--out", run, "--device", "cpu", "--quiet", *tiny]
    scores = ["--evaluation.every", "16", "--evaluation.features", "classifier", "--evaluation.metrics"]
    words += [*scores, "fid,is", "--evaluation.count", "12"]
    assert main(["train", "digits", *words, "--images", "16"]) == 0
    assert main(["train", "digits", *words, "--images", "24"]) == 0
    page = (Path(run) / "report.html").read_text("utf-8")
    assert shown in page
    assert "<svg" in page
    scored = (Path(run) / "evaluations.jsonl").read_text("utf-8")
    assert json.dumps(f"class_share_{shown}") in scored
    for place in (run, f"{run}/best", f"{run}/best/{16:012}"):
        assert vitgan.load(place).sample(2).shape == (2, 1, 8, 8)
    capsys.readouterr()
    assert main(["runs", run]) == 0
    assert f"run{shown}" in capsys.readouterr().out
    words = ["--features", "classifier", "--metrics", "fid,is", "--count", "12", "--quiet"]
    assert main(["evaluate", run, *words, "--json", str(tmp_path / "a.json")]) == 0
    out = tmp_path / f"export{name}"
    words = ["--out", str(out), "--evaluation", str(tmp_path / "a.json"), "--quiet"]
    assert main(["export", run, *words]) == 0
    assert shown in (out / "README.md").read_text("utf-8")
    assert vitgan.load(str(out)).sample(1).shape == (1, 1, 8, 8)
    assert main(["data", "pack", data, str(tmp_path / "packed"), "--workers", "0", "--quiet"]) == 0
    assert DataOptions(source=str(tmp_path / "packed")).build().class_counts == {"b": 8, shown: 8}


CHOICES = [
    *(f"--generator.entry {e} --generator.output {o}" for e in "ABC" for o in ("linear", "implicit", "conv")),
    *(f"--generator.output implicit --generator.implicit-combine {c}" for c in ("concatenation", "sum")),
    "--generator.implicit-demodulate True --generator.implicit-width 5",
    "--generator.equalised False --discriminator.equalised False",
    *(f"--discriminator.attention {a}" for a in ("dot-product", "l2-attending-to-farthest")),
    *(f"--discriminator.spectral-norm {s}" for s in ("plain", "none")),
    "--discriminator.overlap 0 --discriminator.head linear",
    "--loss.name hinge --terms.r1.gamma 0.1",
    "--loss.name wasserstein --terms.bcr.against clean",
    "--terms.bcr.real 0 --terms.bcr.fake 0 --augment.flip 0.5 --data.flip True",
    "--augment.translation 0 --augment.colour 0 --augment.cutout 0 --augment.scaling 0",
    "--training.precision bf16 --terms.r1.gamma 0.1",
    "--generator.patch 4 --discriminator.patch 1 --discriminator.attention dot-product --terms.r1.gamma 1",
]


@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize("words", CHOICES)
def test_every_choice_takes_two_steps(words: str, tiny_train: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert tiny_train(run, "--images", "8", "--quiet", "--training.log-every", "1", *words.split()) == 0
    lines = read_log(run)
    assert len(lines) == 2
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert lines[1]["gradient_norm_generator"] > 0
    assert lines[1]["gradient_norm_discriminator"] > 0
    assert ("term_r1" in lines[0]) == ("r1" in words)
    assert ("term_bcr_real" in lines[0]) == ("bcr.real 0" not in words)
    assert vitgan.load(run).sample(2).shape == (2, 1, 8, 8)
