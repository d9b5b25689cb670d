"""`vitgan evaluate` asked for what cannot be measured: one sentence, exit 2; and a run that is measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitgan.cli import main
from vitgan.metrics.classifier import ClassifierOptions
from vitgan.metrics.extractors import WEIGHTS_URL

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("no_curves", "own_cache")]

Refused = Callable[..., str]


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VITGAN_CACHE", str(tmp_path / "cache"))
    quick = ClassifierOptions(width=8, features=8, batch=16, epochs=1, updates=30)
    monkeypatch.setattr("vitgan.metrics.evaluator.ClassifierOptions", lambda: quick)


def evaluate(*words: object) -> int:
    return main(["evaluate", *map(str, words), "--device", "cpu", "--quiet"])


def array(path: Path, count: int, side: int = 8, **more: Any) -> Path:
    images = np.random.default_rng(count).integers(0, 256, (count, side, side), dtype=np.uint8)
    np.savez(path, images=images, **more)
    return path


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """Generated images, and real ones with labels."""
    real = array(tmp_path / "real.npz", 40, labels=np.arange(40) % 2)
    return array(tmp_path / "fake.npz", 30), real


def test_labelled_sets_are_measured(sets: tuple[Path, Path], tmp_path: Path) -> None:
    """This is the command of the tests below, right: they fail for what they name alone."""
    path = tmp_path / "numbers.json"
    fake, real = sets
    assert evaluate(fake, "--data", real, "--features", "classifier", "--json", path) == 0
    found = json.loads(path.read_text())
    assert found["protocol"]["reals"] == 40
    assert "classifier_frechet_distance" in found["metrics"]
    assert "fid" not in found["metrics"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metrics", "fid,lpips"], "no metric 'lpips'"),
        (["--metrics", ""], "names no metric"),
        (["--count", "0"], "--count must be at least 1, not 0"),
        (["--count", "31"], "has 30 images, fewer than --count 31"),
        (["--count", "9", "--metrics", "is"], "is needs at least 10 generated images, and there are 9"),
        (["--count", "5", "--metrics", "prdc"], "prdc needs at least 6 generated images, and there are 5"),
        (["--count", "1"], "fid needs at least 2 generated images, and there is 1"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--features", "incepton"], "no features 'incepton'"),
    ],
)
def test_wrong_words_are_refused(
    words: list[str], said: str, sets: tuple[Path, Path], refused: Refused
) -> None:
    fake, real = sets
    assert said in refused(evaluate(fake, "--data", real, "--features", "classifier", *words))


def test_a_set_without_labels_has_no_classifier(
    sets: tuple[Path, Path], tmp_path: Path, refused: Refused
) -> None:
    real = array(tmp_path / "unlabelled.npz", 40)
    said = refused(evaluate(sets[0], "--data", real, "--features", "classifier"))
    assert "--features classifier needs labels" in said


def test_a_features_file_that_is_not_one_is_refused(sets: tuple[Path, Path], refused: Refused) -> None:
    fake, real = sets
    said = refused(evaluate(fake, "--data", real, "--features", real))
    assert "is not a file of torch-fidelity's Inception weights" in said
    assert WEIGHTS_URL in said


def test_images_of_another_size_are_refused_or_resized(
    sets: tuple[Path, Path], tmp_path: Path, refused: Refused
) -> None:
    real = array(tmp_path / "large.npz", 40, side=16, labels=np.arange(40) % 2)
    words = (sets[0], "--data", real, "--features", "classifier")
    said = refused(evaluate(*words))
    assert "16 x 16" in said
    assert "8 x 8" in said
    path = tmp_path / "numbers.json"
    assert evaluate(*words, "--resize", "--json", path) == 0
    assert json.loads(path.read_text())["protocol"]["resize"].startswith("--resize: centre square")


@pytest.mark.parametrize(("size", "said"), [((8, 9), "only square ones"), ((9, 9), "several sizes")])
def test_pictures_that_are_not_all_one_square_are_refused(
    size: tuple[int, int], said: str, sets: tuple[Path, Path], tmp_path: Path, refused: Refused
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(12):
        own = (8, 8) if index < 11 and said == "several sizes" else size
        Image.new("L", own, index).save(folder / f"{index:02}.png")
    assert said in refused(evaluate(folder, "--data", sets[1]))


def test_images_without_real_ones_or_not_there_are_refused(
    sets: tuple[Path, Path], tmp_path: Path, refused: Refused
) -> None:
    assert "--data SOURCE" in refused(evaluate(sets[0]))
    assert "There is no" in refused(evaluate(tmp_path / "nowhere"))
    assert "no image source" in refused(evaluate(sets[0], "--data", tmp_path / "nowhere"))


def test_a_run_is_measured_against_its_own_set_or_one_of_its_size(
    tiny_train: Callable[..., int], sets: tuple[Path, Path], tmp_path: Path, refused: Refused
) -> None:
    run, path = tmp_path / "run", tmp_path / "numbers.json"
    words = ("--metrics", "fid,prdc", "--features", "classifier", "--json", path)
    # The settings given last count: the labelled set in place of the fixture's.
    assert tiny_train(run, "--images", "8", "--quiet", "--data.source", sets[1]) == 0
    assert evaluate(run, *words, "--count", "20") == 0
    found = json.loads(path.read_text())
    assert (found["protocol"]["fakes"], found["protocol"]["reals"]) == (20, 40)
    assert found["protocol"]["resize"].startswith("as in training")
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert evaluate(checkpoint, *words, "--count", "20") == 0
    assert json.loads(path.read_text()) == found
    large = array(tmp_path / "large.npz", 40, side=16, labels=np.arange(40) % 2)
    said = refused(evaluate(run, *words, "--data", large))
    assert "16 x 16" in said
    assert "8 x 8" in said
    assert evaluate(run, *words, "--data", large, "--resize") == 0
    other = array(tmp_path / "other.npz", 39, labels=np.arange(39) % 2)
    assert evaluate(run, *words, "--data", other) == 0
    assert json.loads(path.read_text())["protocol"]["resize"].startswith("none")


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert "no checkpoint yet" in refused(evaluate(tmp_path))
