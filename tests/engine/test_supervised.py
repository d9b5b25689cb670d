"""Runs that are no GAN: a classifier and an image fit, from their recipes to what is read back.

Shapes: N images, K classes, C channels, R resolution.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vitgan
from vitgan.data import ImageSet, batches
from vitgan.data.held_out import InMemory, part
from vitgan.engine.checkpoint import checkpoints, load_checkpoint, load_description
from vitgan.engine.loggers import read_log
from vitgan.engine.supervised import (
    ClassifierRecipe,
    ClassifierTask,
    SirenRecipe,
    SirenTask,
    load_classifier,
    load_siren,
    psnr,
)
from vitgan.errors import UserError
from vitgan.models import to_uint8
from vitgan.recipes.settings import override

pytestmark = pytest.mark.usefixtures("no_curves")

CPU = torch.device("cpu")
COMMON = "--training.checkpoint-every 4 --training.log-every 8 --training.sample-every 16"
CLASSIFIER = (
    "--network.depth 1 --network.width 8 --network.heads 2 --network.perceptron-width 16 --training.batch 4 "
    f"--training.sample-count 5 --optimiser.warm-up 12 {COMMON}"
)
SIREN = f"--network.depth 3 --network.width 8 --data.resolution 8 {COMMON}"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty images, number i of them wholly of the grey 8 i, in three classes by turns."""
    path = tmp_path_factory.mktemp("labelled") / "images.npz"
    images = np.broadcast_to(8 * np.arange(30, dtype=np.uint8)[:, None, None], (30, 8, 8))
    np.savez(path, images=images, labels=np.arange(30) % 3)
    return path


def classifier(source: Path, *words: str) -> ClassifierRecipe:
    given = ["--data.source", str(source), *CLASSIFIER.split(), *words]
    return override(vitgan.recipes.get("vit-classifier-small"), given)


def siren(*words: str) -> SirenRecipe:
    return override(vitgan.recipes.get("siren-small"), [*SIREN.split(), *words])


@pytest.fixture(params=["classifier", "siren"])
def make(request: pytest.FixtureRequest, labelled: Path) -> Callable[[int], Any]:
    """make(images) is the recipe of a tiny run of either kind."""

    def recipe(images: int) -> ClassifierRecipe | SirenRecipe:
        words = ("--training.images", str(images))
        return classifier(labelled, *words) if request.param == "classifier" else siren(*words)

    return recipe


def final(folder: Path) -> dict[str, Tensor]:
    return load_checkpoint(checkpoints(folder)[-1])[0]


@pytest.mark.parametrize("stop", [4, 12])
def test_a_run_in_two_parts_is_the_run_in_one_bit_for_bit(
    make: Callable[[int], Any], stop: int, tmp_path: Path
) -> None:
    vitgan.train(make(24), out=tmp_path / "whole", device="cpu", quiet=True)
    for images in (stop, 24):
        vitgan.train(make(images), out=tmp_path / "parts", device="cpu", quiet=True)
    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert {name.split(".")[0] for name in whole} == {"network", "optimiser"}
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    seen = [line["images"] for line in read_log(tmp_path / "parts")]
    assert seen == [line["images"] for line in read_log(tmp_path / "whole")]


def test_every_weight_gets_a_gradient_and_moves_and_every_number_is_finite(
    make: Callable[[int], Any],
) -> None:
    recipe = make(4)
    images = recipe.data.build()
    task, seen = recipe.begin(images, CPU)
    before = {name: tensor.clone() for name, tensor in task.tensors().items()}
    stream = batches(seen, batch=recipe.training.batch, seed=0, images_seen=0, device=CPU)
    for step in range(20):
        values, rates = task.step(next(stream), step * recipe.training.batch)
        assert all(torch.isfinite(value) for value in values.values())
        assert set(rates) == {"learning_rate"}
    after = task.tensors()
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    assert all(after[f"optimiser.{name.removeprefix('network.')}.exp_avg_sq"].any() for name in before)


def test_what_is_read_back_computes_the_same_bit_for_bit(labelled: Path, tmp_path: Path) -> None:
    vitgan.train(
        classifier(labelled, "--training.images", "16"), out=tmp_path / "c", device="cpu", quiet=True
    )
    vitgan.train(siren("--training.images", "16"), out=tmp_path / "s", device="cpu", quiet=True)
    found, fit = load_classifier(tmp_path / "c"), load_siren(tmp_path / "s")
    images = classifier(labelled).data.build()
    task, _ = ClassifierTask.begin(classifier(labelled), images, CPU)
    task.load(final(tmp_path / "c"))
    some = torch.rand(5, 1, 8, 8) * 2 - 1
    with torch.no_grad():  # where a gradient may be asked for, torch takes other kernels
        assert torch.equal(found.network(some), task.network(some))
    assert found.classes == ("0", "1", "2")
    assert found.accuracy == task.accuracy()
    fitted, _ = SirenTask.begin(siren(), siren().data.build(), CPU)
    fitted.load(final(tmp_path / "s"))
    assert torch.equal(fit.render(8, 8), fitted.network.render(8, 8))
    assert not any(p.requires_grad for model in (found.network, fit) for p in model.parameters())


@pytest.mark.parametrize("memory", ["4096", "0"])
def test_the_held_out_images_are_never_trained_on(labelled: Path, memory: str) -> None:
    recipe = classifier(labelled, "--data.memory-mib", memory, "--data.workers", "0")
    images = recipe.data.build()
    task, seen = ClassifierTask.begin(recipe, images, CPU)
    held = {int(image.flatten()[0]) // 8 for image in task.images}
    assert len(held) == 6
    assert task.labels.tolist() == [number % 3 for number in sorted(held)]
    stream = batches(seen, batch=24, seed=0, images_seen=0, device=CPU)
    for _ in range(3):
        batch = next(stream)
        numbers = [int(n) // 8 for n in to_uint8(batch.images)[:, 0, 0, 0]]
        assert batch.labels is not None
        assert sorted(numbers) == sorted(set(range(30)) - held)
        assert batch.labels.tolist() == [number % 3 for number in numbers]
    stream.close()
    assert seen.fingerprint == images.fingerprint


def test_the_accuracy_is_the_share_of_right_names_and_the_picture_marks_the_wrong(labelled: Path) -> None:
    recipe = classifier(labelled)
    task, _ = ClassifierTask.begin(recipe, recipe.data.build(), CPU)
    found = task.predictions(task.images).tolist()
    right = sum(a == b for a, b in zip(found, task.labels.tolist(), strict=True))
    assert task.accuracy() == pytest.approx(right / 6)
    assert red(task) > 0
    task.labels = torch.tensor(found)
    assert task.accuracy() == 1
    assert red(task) == 0


def red(task: ClassifierTask) -> int:
    """The number of red pixels in the task's picture."""
    pixels = np.asarray(task.picture()).astype(int)
    return int(((pixels[..., 0] > 180) & (pixels[..., 1] < 60)).sum())


def test_the_log_tells_accuracy_and_psnr(labelled: Path, tmp_path: Path) -> None:
    vitgan.train(
        classifier(labelled, "--training.images", "16"), out=tmp_path / "c", device="cpu", quiet=True
    )
    lines = [line for line in read_log(tmp_path / "c") if line["images"] % 8 == 0]
    assert len(lines) == 2
    for line in lines:
        assert 0 <= line["accuracy_held_out"] <= 1
        assert 0 <= line["accuracy_training"] <= 1
    vitgan.train(siren("--training.images", "16"), out=tmp_path / "s", device="cpu", quiet=True)
    assert all(0 < line["psnr"] < 60 for line in read_log(tmp_path / "s"))
    assert psnr(torch.tensor(4e-4)).item() == pytest.approx(40)
    assert psnr(torch.tensor(0.0)).item() == pytest.approx(120)
    assert load_description(checkpoints(tmp_path / "c")[-1])["held_out"]["images"] == 6


def test_a_fit_is_of_the_image_that_was_named() -> None:
    recipe = siren("--target.image", "7")
    images: ImageSet = recipe.data.build()
    task, seen = SirenTask.begin(recipe, images, CPU)
    batch = next(batches(seen, batch=1, seed=0, images_seen=0, device=CPU))
    assert torch.equal(to_uint8(batch.images), images.get([7]))
    lazily = replace(recipe.data, memory_mib=0).build()
    assert torch.equal(InMemory(part(lazily, torch.tensor([7]))).pixels, images.get([7]))
    assert task.picture().size == (2 + 3 * (48 + 2), 2 + 48 + 2)


def test_the_small_fit_reaches_40_db_in_100_steps() -> None:
    recipe = vitgan.recipes.get("siren-small")
    task, seen = SirenTask.begin(recipe, recipe.data.build(), CPU)
    batch = next(batches(seen, batch=1, seed=0, images_seen=0, device=CPU))
    values = [task.step(batch, step)[0]["psnr"].item() for step in range(100)]
    assert values[-1] >= 40


def test_the_small_classifier_learns_digits_it_has_not_seen() -> None:
    recipe = vitgan.recipes.get("vit-classifier-small")
    task, seen = ClassifierTask.begin(recipe, recipe.data.build(), CPU)
    stream = batches(seen, batch=64, seed=0, images_seen=0, device=CPU)
    for step in range(120):
        task.step(next(stream), 64 * step)
    assert len(task.images) == pytest.approx(360, abs=5)
    assert task.accuracy() > 0.9


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--data.labels False", "set --data.labels True"),
        ("--held-out.share 1", "--held-out.share must be between 0 and 1"),
        ("--network.heads 3", "--network.width 8 is not a multiple of --network.heads 3"),
        ("--network.patch 3", "set --network.patch to a divisor"),
        ("--network.dpeth 3", "no setting --network.dpeth"),
    ],
)
def test_a_mistake_about_a_classifier_is_one_sentence(
    words: str, sentence: str, labelled: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        vitgan.train(classifier(labelled, *words.split()), out=tmp_path / "run", device="cpu", quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--training.batch 2", "set --training.batch 1"),
        ("--data.flip True", "set --data.flip False"),
        ("--target.image 1797", "digits has 1,797 images: set --target.image to at most 1796"),
        ("--target.image -1", "--target.image must be at least 0"),
        ("--network.depth 1", "--network.depth must be at least 2"),
        ("--optimiser.learning-rate 1e30", r"Lower the learning rate \(--optimiser.learning-rate\)"),
    ],
)
def test_a_mistake_about_an_image_fit_is_refused(words: str, sentence: str, tmp_path: Path) -> None:
    def train() -> None:
        recipe = siren("--training.images", "16", *words.split())
        vitgan.train(recipe, out=tmp_path / "run", device="cpu", quiet=True)

    with pytest.raises(UserError, match=sentence):
        train()


def test_images_without_classes_are_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no labels"):
        vitgan.train(classifier(images), out=tmp_path / "run", device="cpu", quiet=True)
    single = tmp_path / "single.npz"
    np.savez(single, images=np.zeros((4, 8, 8), np.uint8), labels=np.zeros(4, int))
    with pytest.raises(UserError, match="fewer than 2 classes"):
        vitgan.train(classifier(single), out=tmp_path / "run", device="cpu", quiet=True)


def test_a_run_of_another_kind_is_told_apart(labelled: Path, tmp_path: Path) -> None:
    folders = {"classifier": tmp_path / "c", "siren": tmp_path / "s"}
    vitgan.train(
        classifier(labelled, "--training.images", "4"), out=folders["classifier"], device="cpu", quiet=True
    )
    vitgan.train(siren("--training.images", "4"), out=folders["siren"], device="cpu", quiet=True)
    with pytest.raises(UserError, match="holds a classifier, which draws no samples"):
        vitgan.load(folders["classifier"])
    with pytest.raises(UserError, match="holds an image fit, which draws no samples"):
        vitgan.load(folders["siren"])
    with pytest.raises(UserError, match="holds no classifier"):
        load_classifier(folders["siren"])
    with pytest.raises(UserError, match="holds no image fit"):
        load_siren(folders["classifier"])
    with pytest.raises(UserError, match="type: SirenRecipe -> ClassifierRecipe"):
        vitgan.train(classifier(labelled), out=folders["siren"], device="cpu", quiet=True)
    with pytest.raises(UserError, match="type: ClassifierRecipe -> Recipe"):
        vitgan.train("digits", out=folders["classifier"], device="cpu", quiet=True)


def test_a_classifier_and_a_fit_train_in_bfloat16(labelled: Path) -> None:
    for recipe in (
        classifier(labelled, "--training.precision", "bf16"),
        siren("--training.precision", "bf16"),
    ):
        task, seen = recipe.begin(recipe.data.build(), CPU)
        batch = next(batches(seen, batch=recipe.training.batch, seed=0, images_seen=0, device=CPU))
        values, _ = task.step(batch, 0)
        assert values["loss"].dtype == torch.float32
        assert all(torch.isfinite(value) for value in values.values())
        task.picture()
