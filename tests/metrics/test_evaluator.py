"""The evaluator on a toy set: with a registered extractor, with the classifier, with a file of weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.linalg
import torch
import torch_fidelity
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from vitgan.cli import Parser
from vitgan.commands import evaluate
from vitgan.data import DataOptions, ImageSet
from vitgan.metrics import Evaluator, headline
from vitgan.metrics.classifier import ClassifierOptions
from vitgan.metrics.evaluator import drawn_labels
from vitgan.metrics.protocol import Cache
from vitgan.models import Generator, from_uint8

QUICK = ClassifierOptions(width=8, features=16, epochs=1, batch=24, updates=60)
SMALL = "vitgan-small"


class Small(torch_fidelity.FeatureExtractorBase):
    """A fixed convolution of RGB images: features of 6 numbers, logits of 5."""

    seen: ClassVar[int] = 0
    factor: ClassVar[float] = 1.0  # what it computes with, outside its weights

    def __init__(self, name: str, layers: list[str], **_: Any) -> None:
        super().__init__(name, layers)
        draws = torch.Generator().manual_seed(0)
        self.kernel = torch.nn.Parameter(torch.randn(6, 3, 3, 3, generator=draws) / 500)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "pooled", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return {"isc": "logits", "fid": "pooled", "kid": "pooled", "prc": "pooled"}[metric]

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        Small.seen += len(input)
        pooled = torch.nn.functional.conv2d(input.float(), self.kernel * self.factor).relu().mean((2, 3))
        found = {"pooled": pooled, "logits": pooled[:, :5]}
        return tuple(found[name] for name in self.features_list)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("VITGAN_CACHE", str(tmp_path / "cache"))
    torch_fidelity.register_feature_extractor(SMALL, Small)
    yield
    del FEATURE_EXTRACTORS_REGISTRY[SMALL]


def toy(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey images (N, 8, 8) of three classes: bright at the left, at the right, or nowhere."""
    draws = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = draws.integers(0, 90, (count, 8, 8))
    images[labels == 0, :, :4] += 150
    images[labels == 1, :, 4:] += 150
    return images.astype(np.uint8), labels


@pytest.fixture
def real(tmp_path: Path) -> ImageSet:
    images, labels = toy(60, 0)
    np.savez(tmp_path / "real.npz", images=images, labels=labels)
    return DataOptions(source=str(tmp_path / "real.npz"), resolution=8, channels=1).build()


def generated(count: int, seed: int = 1) -> Tensor:
    return torch.from_numpy(toy(count, seed)[0]).unsqueeze(1)


def noise(count: int) -> Tensor:
    draws = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=draws)


def pixels(images: ImageSet) -> Tensor:
    return images.get(range(len(images)))


def quick(real: ImageSet, **changes: Any) -> Evaluator:
    return Evaluator(real, **{"features": "classifier", "classifier": QUICK, **changes})


# A registered extractor


def write_folder(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:03}.png")
    return folder


def command(*words: object) -> int:
    parser = Parser()
    evaluate.add(parser)
    return evaluate.run(parser.parse_args([str(word) for word in words]))


def test_two_folders_give_what_torch_fidelity_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draws = np.random.default_rng(0)
    a = write_folder(tmp_path / "a", draws.integers(0, 256, (70, 12, 12, 3), dtype=np.uint8))
    b = write_folder(tmp_path / "b", draws.integers(20, 256, (90, 12, 12, 3), dtype=np.uint8))
    path = tmp_path / "deep" / "numbers.json"
    words = (a, "--data", b, "--features", SMALL, "--json", path, "--device", "cpu")
    assert command(*words) == 0
    found = json.loads(path.read_text())
    direct = torch_fidelity.calculate_metrics(
        **{"input1": str(a), "input2": str(b), "feature_extractor": SMALL, "cuda": False, "verbose": False},
        **{"fid": True, "isc": True, "kid": True, "prc": True, "kid_subset_size": 70},
        **{"save_cpu_ram": True, "cache": False},
    )
    expected = {
        "fid": direct[torch_fidelity.KEY_METRIC_FID],
        "is": direct[torch_fidelity.KEY_METRIC_ISC_MEAN],
        "is_std": direct[torch_fidelity.KEY_METRIC_ISC_STD],
        "kid": direct[torch_fidelity.KEY_METRIC_KID_MEAN],
        "kid_std": direct[torch_fidelity.KEY_METRIC_KID_STD],
        "precision": direct[torch_fidelity.KEY_METRIC_PRECISION],
        "recall": direct[torch_fidelity.KEY_METRIC_RECALL],
    }
    numbers = found["metrics"]
    assert expected["fid"] > 1e-3
    assert expected["recall"] > 0.1
    assert {name: numbers[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert numbers.keys() - expected == {"density", "coverage"}
    said = capsys.readouterr().out
    for name, value in {**numbers, "key": found["protocol"]["key"], "fakes": 70, "reals": 90}.items():
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        assert any(line.split() == [name, shown] for line in said.splitlines()), name


def test_the_seed_chooses_of_more_images_than_asked_for(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        np.save(tmp_path / f"{name}.npy", toy(60, seed)[0])
    words = (
        tmp_path / "a.npy",
        "--data",
        tmp_path / "b.npy",
        "--features",
        SMALL,
        "--quiet",
        "--metrics",
        "fid",
    )
    values = []
    for more in (["--seed", "0"], ["--seed", "0"], ["--seed", "1"]):
        path = tmp_path / "numbers.json"
        assert command(*words, "--count", "20", "--json", path, "--device", "cpu", *more) == 0
        values.append(json.loads(path.read_text()))
    assert values[0] == values[1]
    assert values[0]["metrics"]["fid"] != values[2]["metrics"]["fid"]
    assert values[0]["protocol"]["fakes"] == 20


def test_the_real_images_are_read_once_for_the_same_pixels(real: ImageSet, tmp_path: Path) -> None:
    """The cache is missed when a pixel, their number, the choice or the extractor changes."""

    def extractions(images: ImageSet) -> int:
        Small.seen = 0
        Evaluator(images, features=SMALL)
        return Small.seen - 1  # one image is the probe of the extractor's identity

    def stored(count: int, **change: int) -> ImageSet:
        found, labels = toy(60, 0)
        if change:
            found[3, 2, 1] ^= 1
        np.savez(tmp_path / "other.npz", images=found[:count], labels=labels[:count])
        return DataOptions(source=str(tmp_path / "other.npz"), resolution=8, channels=1).build()

    assert extractions(real) == 60
    assert extractions(real) == 0
    assert extractions(stored(60)) == 0  # the same pixels elsewhere
    assert extractions(stored(60, pixel=1)) == 60
    assert extractions(stored(59)) == 59
    try:
        Small.factor = 1.01
        assert extractions(real) == 60
    finally:
        Small.factor = 1.0


def test_a_damaged_cache_is_computed_again(real: ImageSet, tmp_path: Path) -> None:
    first = Evaluator(real, features=SMALL).score_images(generated(60))
    (path,) = (tmp_path / "cache" / "metrics").glob("real-*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    path.write_bytes(content)
    assert Evaluator(real, features=SMALL).score_images(generated(60)) == first


def test_more_fakes_never_change_what_the_real_images_give(real: ImageSet) -> None:
    few, many = Evaluator(real, features=SMALL, count=20), Evaluator(real, features=SMALL, count=200)
    before = {name: array.copy() for name, array in few._reals.moments.items()}
    few.score_images(generated(20))
    many.score_images(generated(200))
    for evaluator in (few, many):
        assert all(np.array_equal(before[name], evaluator._reals.moments[name]) for name in before)
    assert few.score_images(generated(30)).protocol.key() != many.score_images(generated(200)).protocol.key()


def test_a_generator_is_sampled_by_the_seed(real: ImageSet) -> None:
    class Recorder:
        def sample(self, count: int, *, seed: int, part: slice) -> Tensor:
            self.asked = (count, seed, part)
            return generated(count)[part]

    generator: Any = Recorder()
    evaluation = Evaluator(real, features=SMALL, count=25, seed=3).score(generator)
    assert generator.asked == (25, 3, slice(0, 25))
    assert (evaluation.protocol.fakes, evaluation.protocol.reals, evaluation.protocol.seed) == (25, 60, 3)


def test_the_global_random_state_is_left_alone(real: ImageSet) -> None:
    before = torch.get_rng_state()
    quick(real).score_images(generated(30))
    assert torch.equal(before, torch.get_rng_state())


# The classifier


def test_classifier_numbers_bear_no_name_of_the_literature(real: ImageSet) -> None:
    evaluation = quick(real).score_images(generated(60))
    names = set(evaluation.metrics)
    assert headline(evaluation.metrics)[0] == "classifier_frechet_distance"
    assert not names & {"fid", "is", "kid", "precision", "recall", "density", "coverage"}
    assert {"classifier_score_real", "class_share_0", "class_share_2", "classifier_confidence"} <= names
    assert evaluation.protocol.settings["classifier_held_out_images"] == 12
    accuracy = evaluation.protocol.settings["classifier_held_out_accuracy"]
    assert isinstance(accuracy, float)
    assert accuracy > 0.9


def test_a_set_is_near_itself_and_far_from_noise(real: ImageSet) -> None:
    evaluator = quick(real)
    same = evaluator.score_images(pixels(real)).metrics
    trace = float(np.trace(evaluator._reals.moments["sigma"]))
    assert abs(same["classifier_frechet_distance"]) < 1e-6 * trace
    assert same["classifier_score"] == same["classifier_score_real"]
    assert (same["classifier_precision"], same["classifier_coverage"]) == (1, 1)
    other = evaluator.score_images(noise(60)).metrics
    assert other["classifier_frechet_distance"] > 0.1 * trace
    assert other["classifier_coverage"] < 0.5


def test_classifier_frechet_distance_is_scipys(real: ImageSet) -> None:
    evaluator = quick(real)
    images = generated(300)
    a = evaluator.extractor.features(pixels(real))["features"].numpy()
    b = evaluator.extractor.features(images)["features"].numpy()
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(scipy.linalg.sqrtm(s @ t))
    distance = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * root)
    found = evaluator.score_images(images).metrics["classifier_frechet_distance"]
    assert found == pytest.approx(float(distance), rel=1e-4)


def test_the_classifier_is_trained_once(real: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    first = quick(real).score_images(generated(60))
    with monkeypatch.context() as patched:
        patched.setattr("vitgan.metrics.classifier.train", None)
        patched.setattr(Cache, "save", None)
        assert quick(real).score_images(generated(60)) == first


def test_a_singular_covariance_is_in_the_protocol(real: ImageSet) -> None:
    evaluator = quick(real)
    assert evaluator.protocol(60).settings["covariance"] == "full"
    assert evaluator.protocol(16).settings["covariance"] == "singular"


class Perfect(Generator):
    """Draws images of a set, each of the class that it is asked for."""

    def __init__(self, images: ImageSet, labels: Tensor) -> None:
        super().__init__(resolution=8, channels=1, classes=int(labels.max()) + 1, latent_dim=16)
        self.weight = torch.nn.Parameter(torch.zeros(()))
        pixels = from_uint8(images.get(range(len(images))))
        self.own = [pixels[labels == k] for k in range(self.classes)]
        self.seen: list[int] = []
        self.mapping = self.draw  # type: ignore[assignment]

    def draw(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        self.seen += labels.tolist()
        share = torch.special.ndtr(z[:, 0])  # uniform
        return torch.stack(
            [self.own[k][int(u * len(self.own[k]))] for k, u in zip(labels, share, strict=True)]
        )

    def synthesise(self, w: Tensor) -> Tensor:
        return w


@pytest.fixture
def unbalanced(tmp_path: Path) -> ImageSet:
    """Of three numbered classes one has 180 images, one 20, and one, the middle one, none."""
    images, labels = toy(600, 0)
    chosen = np.concatenate([np.flatnonzero(labels == 0)[:180], np.flatnonzero(labels == 2)[:20]])
    path = tmp_path / "unbalanced.npz"
    np.savez(path, images=images[chosen], labels=labels[chosen])
    return DataOptions(source=str(path), resolution=8, channels=1, labels=True).build()


@pytest.mark.parametrize("count", [200, 100, 330, 7])
def test_a_perfect_generator_scores_near_0_on_an_unbalanced_set(unbalanced: ImageSet, count: int) -> None:
    assert unbalanced.labels is not None
    perfect = Perfect(unbalanced, unbalanced.labels)
    evaluator = Evaluator(unbalanced, features=SMALL, metrics=("fid",), count=count)
    alike = evaluator.score(perfect)
    assert alike.protocol.settings["labels"] == "every class alike"
    perfect.class_counts = (180, 20)
    perfect.seen.clear()
    found = evaluator.score(perfect)
    assert abs(perfect.seen.count(1) - count / 10) <= 1
    assert perfect.seen != sorted(perfect.seen)
    assert found.protocol.settings["labels"] == "as often as in the training set"
    assert found.protocol.key() != alike.protocol.key()
    if count >= 100:
        assert found.metrics["fid"] < 0.05 * alike.metrics["fid"]
    assert "labels" not in evaluator.protocol(count).settings


def test_the_classifiers_distance_of_a_perfect_generator_is_near_0(unbalanced: ImageSet) -> None:
    assert unbalanced.labels is not None
    perfect = Perfect(unbalanced, unbalanced.labels)
    evaluator = Evaluator(unbalanced, features="classifier", metrics=("fid", "is"), classifier=QUICK)
    alike = evaluator.score(perfect).metrics
    perfect.class_counts = (180, 20)
    found = evaluator.score(perfect).metrics
    assert found["classifier_frechet_distance"] < 0.1 * alike["classifier_frechet_distance"]
    shares = {name: value for name, value in found.items() if name.startswith("class_share")}
    assert len(shares) == 2  # the class without images is none


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=12).filter(any),
    st.integers(1, 3000),
    st.integers(0, 2**63 - 1),
)
def test_every_class_is_scored_as_often_as_it_was_trained(counts: list[int], count: int, seed: int) -> None:
    generator = SimpleNamespace(classes=len(counts), class_counts=tuple(counts))
    labels, _ = drawn_labels(generator, count, seed)  # type: ignore[arg-type]
    assert labels is not None
    found = torch.bincount(labels, minlength=len(counts)).double()
    wanted = torch.tensor(counts).double() * count / sum(counts)
    assert (found - wanted).abs().max() <= 1
    assert len(labels) == count
    if count == sum(counts):
        assert found.tolist() == counts
