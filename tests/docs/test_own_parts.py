"""`examples/own_parts.py` by the command line: its parts train, and are refused without their file."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import vitgan
from docs_pages import ROOT
from sizes import TINY, without
from tiny_runs import assert_same, final, images_seen
from vitgan import registry
from vitgan.cli import main
from vitgan.engine.checkpoint import checkpoints, load_checkpoint
from vitgan.engine.loggers import read_log

EXAMPLE = ROOT / "examples" / "own_parts.py"
USE = ("--use", str(EXAMPLE))
SIZES = without("--discriminator.", TINY)
PARTS = (
    *("--data", "stripes:count=200", "--loss", "least-squares", "--loss.real", "0.9"),
    *("--discriminator", "small-convolutional", "--discriminator.width", "4"),
    *("--loggers", "tensorboard,csv-log", "--training.log-every", "8"),
    *("--training.checkpoint-every", "96", "--device", "cpu", "--quiet"),
)
NAMES = {
    "loss": "least-squares",
    "discriminator": "small-convolutional",
    "source": "stripes",
    "metric": "mean-distance",
    "logger": "csv-log",
}

pytestmark = [
    pytest.mark.skipif(not EXAMPLE.is_file(), reason="the examples are not part of this copy"),
    pytest.mark.usefixtures("no_curves"),
]


@pytest.fixture(scope="module", autouse=True)
def _known() -> Iterator[None]:
    """The example's parts, and none of them after its tests."""
    before = list(registry._parts)
    registry.use(str(EXAMPLE))
    yield
    registry._parts[:] = [part for part in registry._parts if part.module is None or part in before]


@pytest.fixture
def without_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process knows that was given no `--use`."""
    own = [part for part in registry._parts if part.module != EXAMPLE.name]
    monkeypatch.setattr(registry, "_parts", own)


def train(folder: Path, *words: str) -> int:
    return main(["train", "digits", "--out", str(folder), *PARTS, *SIZES, *words])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "run"
    assert train(folder, *USE, "--images", "200") == 0
    return folder


def test_each_kind_of_part_is_listed_with_what_its_docstring_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--parts", *USE]) == 0
    listed = capsys.readouterr().out
    for kind, name in NAMES.items():
        cls = registry.get(kind, name)  # type: ignore[arg-type]
        assert f"  {name} " in listed
        assert (cls.__doc__ or "").partition("\n")[0] in listed


def test_a_run_of_them_names_each_with_its_file(run: Path) -> None:
    _, description = load_checkpoint(checkpoints(run)[-1])
    recipe = description["recipe"]
    assert recipe["loss"] == {"type": "LeastSquares", "module": EXAMPLE.name, "real": 0.9}
    assert recipe["discriminator"] == {"type": "SmallConvolutional", "module": EXAMPLE.name, "width": 4}
    assert recipe["loggers"][1] == {"type": "CSVLog", "module": EXAMPLE.name}
    assert recipe["data"]["source"] == "stripes:count=200"


def test_every_parameter_of_the_discriminator_learns(run: Path) -> None:
    start, end = load_checkpoint(checkpoints(run)[0])[0], final(run)
    names = [name for name in end if name.startswith("discriminator.")]
    assert len(names) == 8
    assert all(not torch.equal(start[name], end[name]) for name in names)


def test_a_run_of_them_goes_on_bit_for_bit_and_its_table_has_each_number_once(
    run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert train(folder, *USE, "--images", "96") == 0
    with (folder / "log.csv").open("a") as file:
        file.write("104,loss_generator,0.5\n100,loss_gen")  # of a process that was killed after image 96
    assert train(folder, *USE, "--images", "200") == 0
    assert images_seen(folder) == 200
    assert_same(final(folder), final(run))
    with (folder / "log.csv").open(newline="") as file:
        seen = [(int(images), name) for images, name, _ in csv.reader(file)]
    assert len(seen) == len(set(seen))
    assert seen == [(line["images"], name) for line in read_log(folder) for name in line if name != "images"]


@pytest.mark.usefixtures("quick_classifier")
def test_the_metric_measures_the_run_beside_the_packages_own(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VITGAN_CACHE", str(tmp_path))
    words = ["--features", "classifier", "--metrics", "fid,mean-distance", "--count", "64"]
    capsys.readouterr()
    assert main(["evaluate", str(run), *USE, *words, "--quiet", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert list(metrics) == ["classifier_frechet_distance", "mean_distance"]
    assert metrics["mean_distance"] ** 2 <= metrics["classifier_frechet_distance"] * (1 + 1e-6)


@pytest.mark.usefixtures("without_use")
def test_a_run_samples_and_exports_without_the_file(run: Path, tmp_path: Path) -> None:
    assert main(["sample", str(run), "--count", "4", "--out", str(tmp_path / "grid.png"), "--quiet"]) == 0
    assert main(["export", str(run), "--out", str(tmp_path / "export"), "--quiet"]) == 0
    expected = vitgan.load(run).sample(3, seed=1)
    assert torch.equal(vitgan.load(tmp_path / "export").sample(3, seed=1), expected)


def test_python_takes_them_from_the_file_too(run: Path, tmp_path: Path) -> None:
    registry.use(str(EXAMPLE))
    assert main(["export", str(run), "--out", str(tmp_path / "export"), *USE, "--quiet"]) == 0
    assert vitgan.load(tmp_path / "export").sample(2).shape == (2, 1, 8, 8)
    assert main(["inspect", str(run), "--count", "4", "--out", str(tmp_path / "in"), *USE, "--quiet"]) == 0


@pytest.mark.usefixtures("without_use")
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("train", "digits", "--loss", "least-squares"), "There is no loss 'least-squares'"),
        (
            ("train", "digits", "--discriminator", "small-convolutional"),
            "no discriminator 'small-convolutional'",
        ),
        (("train", "digits", "--loggers", "csv-log"), "There is no logger 'csv-log'"),
        (
            ("train", "digits", "--data", "stripes", "--out", "never"),
            "There is no image source 'stripes'",
        ),
        (("evaluate", "RUN", "--features", "classifier"), "There is no image source 'stripes:count=200'"),
        (
            ("inspect", "RUN", "--data", "digits"),
            "SmallConvolutional is a part of own_parts.py: give --use own_parts.py",
        ),
    ],
)
def test_a_part_whose_file_is_missing_is_refused_in_a_line_that_names_use(
    words: tuple[str, ...],
    named: str,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(run) if word == "RUN" else word for word in words]) == 2
    said = capsys.readouterr().err
    assert named in said
    assert "--use" in said
    assert said.count("\n") == 1
