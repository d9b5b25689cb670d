"""A run that scores itself: what it writes, what it keeps, and that it trains the same weights."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch_fidelity import FeatureExtractorBase, register_feature_extractor
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from vitgan.cli import main
from vitgan.engine.checkpoint import load_checkpoint, numbered
from vitgan.engine.loggers import read_log
from vitgan.errors import UserError
from vitgan.recipes import get
from vitgan.recipes.settings import override

NAME = "quadrants-of-run-evaluation"
EVERY = (
    "--images",
    "32",
    "--evaluation.every",
    "8",
    "--evaluation.features",
    NAME,
    "--evaluation.count",
    "20",
)


class Quadrants(FeatureExtractorBase):
    """The mean shade of each quarter of an image."""

    def __init__(self, name: str, features_list: list[str], **_: object) -> None:
        super().__init__(name, features_list)
        self.scale = torch.nn.Parameter(torch.tensor(1 / 255))

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("quadrants",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:  # noqa: ARG004
        return "quadrants"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, input: torch.Tensor) -> tuple[torch.Tensor]:
        pooled = torch.nn.functional.adaptive_avg_pool2d(input.float() * self.scale, 2)
        return (pooled.mean(1).flatten(1),)


@pytest.fixture(autouse=True)
def _extractor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("VITGAN_CACHE", str(tmp_path / "cache"))
    register_feature_extractor(NAME, Quadrants)
    yield
    del FEATURE_EXTRACTORS_REGISTRY[NAME]


def evaluations(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("no_curves")
def test_a_run_keeps_its_best_checkpoint(tmp_path: Path, tiny_train: Callable[..., int]):
    folder = tmp_path / "run"
    assert tiny_train(folder, *EVERY) == 0
    found = evaluations(folder)
    assert [line["images"] for line in found] == [8, 16, 24, 32]
    assert len({line["protocol"]["key"] for line in found}) == 1
    assert found[0]["protocol"]["fakes"] == 20
    best = min(found, key=lambda line: line["metrics"]["fid"])
    (kept,) = numbered(folder / "best")
    tensors, description = load_checkpoint(kept)
    assert description["images"] == best["images"]
    assert description["evaluation"]["metrics"] == best["metrics"]
    assert any(name.startswith("discriminator.") for name in tensors)
    name = f"evaluation_fid_{found[0]['protocol']['key']}"
    logged = [line[name] for line in read_log(folder) if name in line]
    assert logged == pytest.approx([line["metrics"]["fid"] for line in found])
    words = ["--features", NAME, "--metrics", "fid", "--count", "20", "--quiet"]
    scored = tmp_path / "scored.json"
    assert main(["evaluate", str(folder / "best"), *words, "--json", str(scored)]) == 0
    assert json.loads(scored.read_text())["metrics"] == best["metrics"]
    assert main(["sample", str(folder / "best"), "--count", "2", "--out", str(tmp_path / "grid.png")]) == 0


@pytest.mark.usefixtures("no_curves")
def test_a_run_trains_the_same_whether_it_is_scored_or_not(tmp_path: Path, tiny_train: Callable[..., int]):
    """A run that was stopped between two evaluations goes on with them."""
    assert tiny_train(tmp_path / "a", "--images", "32") == 0
    assert tiny_train(tmp_path / "b", *EVERY, "--images", "12") == 0
    assert tiny_train(tmp_path / "b", *EVERY) == 0
    a, b = (load_checkpoint(numbered(tmp_path / name / "checkpoints")[-1])[0] for name in ("a", "b"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [line["images"] for line in evaluations(tmp_path / "b")] == [8, 16, 24, 32]


@pytest.mark.usefixtures("no_curves")
def test_another_protocol_is_another_curve_and_another_best(tmp_path: Path, tiny_train: Callable[..., int]):
    """A run may go on with more fakes: no number of one protocol stands beside, or beats, another's."""
    folder = tmp_path / "run"
    assert tiny_train(folder, *EVERY, "--images", "16") == 0
    assert tiny_train(folder, *EVERY, "--images", "24", "--evaluation.count", "30") == 0
    first, second, third = evaluations(folder)
    keys = [line["protocol"]["key"] for line in (first, second, third)]
    assert keys[0] == keys[1] != keys[2]
    names = {name for line in read_log(folder) for name in line if name.startswith("evaluation")}
    assert names == {f"evaluation_fid_{key}" for key in keys}
    (kept,) = numbered(folder / "best")
    assert int(kept.name) == third["images"]


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("every", "0", "at least 1"),
        ("count", "0", "at least 1"),
        ("metrics", "kid", "needs fid"),
        ("metrics", "fid,sharpness", "sharpness"),
    ],
)
def test_options_of_no_use_are_refused(flag: str, value: str, words: str):
    with pytest.raises(UserError, match=words):
        override(get("digits"), [f"--evaluation.{flag}", value])
