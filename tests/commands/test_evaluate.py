"""`vitgan evaluate` asked for what cannot be measured: one sentence, exit 2; and a run that is measured."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vitgan
from vitgan import registry
from vitgan.cli import main
from vitgan.engine.checkpoint import load_checkpoint, write_checkpoint
from vitgan.metrics.extractors import WEIGHTS_URL

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("own_cache", "quick_classifier")]

Refused = Callable[..., str]
Command = Callable[..., int]


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VITGAN_CACHE", str(tmp_path / "cache"))


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


OWN = '''
from dataclasses import dataclass
import vitgan

@vitgan.register
@dataclass(frozen=True, kw_only=True)
class MeanDistance:
    """Distance of the mean features."""

    power: int = 2

    def measure(self, real, fake):
        distance = (real.mean(0) - fake.mean(0)).norm(self.power)
        return {"mean_distance": distance, "count": len(fake)}
'''


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    """A file with a metric of one's own, which is forgotten after the test."""
    path = tmp_path / "own_metrics.py"
    path.write_text(OWN)
    before = list(registry._parts)
    yield path
    registry._parts[:] = before
    sys.modules.pop("own_metrics", None)


def test_a_metric_of_ones_own_is_measured(
    sets: tuple[Path, Path], own: Path, tmp_path: Path, refused: Refused
) -> None:
    """Its numbers bear its name, and its options are in the protocol."""
    path = tmp_path / "numbers.json"
    fake, real = sets
    words = (fake, "--data", real, "--features", "classifier", "--json", path, "--metrics")
    assert "no metric 'mean-distance'" in refused(evaluate(*words, "fid,mean-distance"))
    assert evaluate(*words, "fid") == 0
    without = json.loads(path.read_text())
    found = []
    for word in ("fid,mean-distance", "mean-distance:power=1,fid"):
        assert evaluate("--use", own, *words, word) == 0
        found.append(json.loads(path.read_text()))
    first, second = (one["metrics"] for one in found)
    assert list(first) == ["classifier_frechet_distance", "mean_distance", "mean_distance_count"]
    assert first["classifier_frechet_distance"] == without["metrics"]["classifier_frechet_distance"]
    assert first["mean_distance_count"] == 30
    assert second["mean_distance"] > first["mean_distance"] > 0
    assert [one["protocol"]["settings"]["mean_distance_power"] for one in found] == [2, 1]
    for word, said in (
        ("mean-distance:sides=1", "The metric mean-distance has no option 'sides'; it has power"),
        ("kid,kid:subsets=2", "names kid with different options"),
        ("kid:subset_size=1", "subset-size must be at least 2, not 1"),
    ):
        assert said in refused(evaluate("--use", own, *words, word))


def test_a_run_scores_itself_by_a_metric_of_ones_own(
    tiny_train: Callable[..., int], sets: tuple[Path, Path], own: Path, tmp_path: Path
) -> None:
    """It picks the best checkpoint, here the highest, and the run can be sampled without its file."""
    own.write_text(OWN.replace("    power", '    better = "higher"\n    power'))
    run, every = tmp_path / "run", ("--evaluation.every", "8", "--evaluation.count", "20")
    words = ("--quiet", "--data.source", sets[1], "--evaluation.features", "classifier", *every)
    only = ("--use", own, "--images", "24", "--evaluation.metrics", "mean-distance")
    assert tiny_train(run, *words, *only) == 0
    found = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    best = max(found, key=lambda line: line["metrics"]["mean_distance"])
    (kept,) = (run / "best").iterdir()
    assert int(kept.name) == best["images"]
    registry._parts[:] = [part for part in registry._parts if part.module is None]
    assert vitgan.load(run).sample(2).shape == (2, 1, 8, 8)
    assert main(["runs", str(tmp_path), "--json"]) == 0


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


@pytest.fixture
def unbalanced(tiny_train: Callable[..., int], tmp_path: Path) -> Path:
    """A run of a set of 36 images of one class and 4 of another, which scores itself."""
    real = array(tmp_path / "unbalanced.npz", 40, labels=np.arange(40) % 10 // 9 * 3)
    own = ("--evaluation.every", "8", "--evaluation.count", "20", "--evaluation.features", "classifier")
    words = ("--quiet", "--data", real, "--data.labels", "True", "--images", "8", *own)
    assert tiny_train(tmp_path / "run", *words) == 0
    return tmp_path / "run"


def measured(capsys: pytest.CaptureFixture[str], run: Path, *words: object) -> dict[str, Any]:
    capsys.readouterr()
    assert evaluate(run, "--features", "classifier", "--metrics", "fid", "--count", 20, *words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def without_classes(run: Path) -> None:
    """As runs were written before they recorded the names of their classes and how many images each has."""
    for place in (*(run / "checkpoints").iterdir(), *(run / "best").iterdir()):
        tensors, description = load_checkpoint(place)
        for name in ("class_names", "class_counts", "sha256"):
            del description[name]
        write_checkpoint(place, description["images"], tensors, description)


def test_a_run_is_scored_with_its_training_sets_own_counts(
    unbalanced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (line,) = map(json.loads, (unbalanced / "evaluations.jsonl").read_text().splitlines())
    now = measured(capsys, unbalanced)
    assert now["protocol"]["settings"]["labels"] == "as often as in the training set"
    assert now["protocol"]["key"] == line["protocol"]["key"]
    assert now["metrics"]["classifier_frechet_distance"] == line["metrics"]["classifier_frechet_distance"]
    assert main(["export", str(unbalanced), "--out", str(tmp_path / "export"), "--quiet"]) == 0
    assert measured(capsys, tmp_path / "export")["metrics"] == now["metrics"]
    # An earlier run, and an export of it, count their data; without it every class is drawn alike.
    without_classes(unbalanced)
    assert main(["export", str(unbalanced), "--out", str(tmp_path / "old"), "--quiet"]) == 0
    other = array(tmp_path / "other.npz", 40, labels=np.arange(40) % 2)
    for run in (unbalanced, tmp_path / "old"):
        assert vitgan.load(run).class_counts == ()
        found = measured(capsys, run)
        assert (found["protocol"], found["metrics"]) == (now["protocol"], now["metrics"])
        words = ("--data", other)
        assert "as often" in measured(capsys, run, *words)["protocol"]["settings"]["labels"]
    assert not caplog.records
    (tmp_path / "unbalanced.npz").unlink()
    for run in (unbalanced, tmp_path / "old"):
        caplog.clear()
        found = measured(capsys, run, "--data", other)
        assert found["protocol"]["settings"]["labels"] == "every class alike"
        assert found["protocol"]["key"] != now["protocol"]["key"]
        (said,) = (record.getMessage() for record in caplog.records)
        assert "every class is drawn alike" in said


@pytest.mark.usefixtures("quick_classifier", "no_curves")
def test_a_relative_set_is_found_from_another_folder_or_the_message_says_what_it_is(
    tiny_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    """The set is that of the folder in which the run was trained, not one of the same name elsewhere."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)
    for place, images in ((home, pixels), (elsewhere, pixels[::-1])):
        place.mkdir()
        np.savez(place / "set.npz", images=images, labels=np.arange(16) % 2)
    monkeypatch.chdir(home)
    assert tiny_train(tmp_path / "run", "--data", "set.npz", "--images", "4", "--quiet") == 0
    words = ["evaluate", tmp_path / "run", "--features", "classifier", "--metrics", "fid", "--count", "8"]
    words = [str(word) for word in [*words, "--quiet", "--json", tmp_path / "a.json"]]
    found = []
    for place in (home, elsewhere):
        monkeypatch.chdir(place)
        assert main(words) == 0
        found.append(json.loads((tmp_path / "a.json").read_text()))
    assert found[0]["metrics"] == found[1]["metrics"]
    assert [one["protocol"]["real"] for one in found] == ["set.npz", str(home / "set.npz")]
    for place in (home, elsewhere):
        (place / "set.npz").unlink()
    said = refused(main(words))
    assert f"trained on set.npz, relative to {home}, and it is not there: pass its images by --data" in said


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("set.zip", "/there/set.zip"),
        ("../set", "/set"),
        ("/absolute/set", "/absolute/set"),
        ("~/set", "~/set"),
        ("digits", "digits"),
        (
            "wds:a-{0..9}.tar::/b.tar::https://host/c.tar",
            "wds:/there/a-{0..9}.tar::/b.tar::https://host/c.tar",
        ),
        ("hf:ylecun/mnist", "hf:ylecun/mnist"),
    ],
)
def test_relative_paths_in_a_source_are_taken_from_a_folder(source: str, found: str) -> None:
    from vitgan.data.sources import relative_to

    assert relative_to(source, Path("/there")) == found
