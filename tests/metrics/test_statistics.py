"""Numbers from features against slow versions, and what must hold for a set against itself."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from vitgan.errors import UserError
from vitgan.metrics import statistics
from vitgan.metrics.statistics import Features, FrechetDistance, InceptionScore, KernelDistance
from vitgan.metrics.statistics import PrecisionRecallDensityCoverage as PRDC


def gaussian(count: int, size: int, seed: int, shift: float = 0.0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return torch.randn(count, size, generator=draws, dtype=torch.float64) @ mix + shift


def frechet(real: Tensor, fake: Tensor) -> float:
    moments = [statistics.mean_and_covariance(features) for features in (real, fake)]
    return FrechetDistance().measure(*moments)["fid"]


def twin_frechet(real: Tensor, fake: Tensor) -> float:
    """The Frechet distance by the matrix root itself, in float64."""
    a, b = real.double().numpy(), fake.double().numpy()
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(s @ t)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(root).real)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_frechet_distance_is_that_of_the_matrix_root(shift: float) -> None:
    real, fake = gaussian(400, 24, 0), gaussian(300, 24, 1, shift)
    assert frechet(real, fake) == pytest.approx(twin_frechet(real, fake), rel=1e-9)


@pytest.mark.parametrize("count", [20, 2000])
def test_frechet_distance_of_a_set_to_itself_is_dust(count: int) -> None:
    """Fewer images than features make the covariance singular: eigenvalues that should be 0 leave dust."""
    real = gaussian(count, 64, 0)
    trace = float(np.trace(np.cov(real.numpy(), rowvar=False)))
    assert abs(frechet(real, real)) < 64 * 1e-8 * trace
    assert frechet(real, real + 10 * torch.rand(64)) > trace * 1e-2


def test_inception_score_of_sure_balanced_classes_is_their_number() -> None:
    sure = 100.0 * torch.eye(4, dtype=torch.float64).repeat_interleave(250, 0)
    assert InceptionScore().measure(None, sure)["is"] == pytest.approx(4, rel=0.02)
    assert InceptionScore().measure(None, torch.zeros(100, 4))["is"] == pytest.approx(1)


def twin_kernel(real: Tensor, fake: Tensor) -> float:
    """The unbiased squared MMD over all pairs, term by term."""

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(real), len(fake)
    within = [kernel(real[i], real[j]) for i in range(n) for j in range(n) if i != j]
    within_fake = [kernel(fake[i], fake[j]) for i in range(m) for j in range(m) if i != j]
    across = [kernel(a, b) for a in real for b in fake]
    return float(np.mean(within) + np.mean(within_fake) - 2 * np.mean(across))


def test_kernel_distance_of_small_sets_takes_every_image_each_time() -> None:
    real, fake = gaussian(12, 3, 0), gaussian(12, 3, 1, 0.5)
    mean, deviation = KernelDistance().measure(real, fake).values()
    assert mean == pytest.approx(twin_kernel(real, fake), rel=1e-9)
    assert deviation == pytest.approx(0, abs=1e-9 * abs(mean))


def twin_density_and_coverage(real: Tensor, fake: Tensor, k: int) -> tuple[float, float]:
    inside, covered = 0, 0
    for i, x in enumerate(real):
        others = sorted(float((x - y).norm()) for j, y in enumerate(real) if j != i)
        hits = [float((x - y).norm()) <= others[k - 1] for y in fake]
        inside += sum(hits)
        covered += any(hits)
    return inside / (k * len(fake)), covered / len(real)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_density_and_coverage_are_those_of_a_double_loop(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "CHUNK", chunk)
    real, fake = gaussian(40, 3, 0), gaussian(30, 3, 1, 0.7)
    expected = twin_density_and_coverage(real, fake, 5)
    assert 0 < expected[1] < 1
    assert statistics.density_and_coverage(real, fake) == pytest.approx(expected)


def test_precision_is_of_the_generated_and_recall_of_the_real() -> None:
    """Generated images that crowd round one real image are all precise, and reach few of the others."""
    real = gaussian(200, 4, 0)
    found = PRDC().measure(real, real[:1] + 0.01 * gaussian(20, 4, 1))
    assert found["precision"] == 1
    assert found["recall"] < 0.1
    assert found["coverage"] < 0.1
    assert found["density"] > 0.2
    same = PRDC().measure(real, real)
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    far = PRDC().measure(real, real + 1000)
    assert set(far.values()) == {0}


def test_at_most_so_many_images_enter_the_neighbourhoods() -> None:
    metric, sets = PRDC(most=50), [gaussian(80, 4, 0), gaussian(90, 4, 1)]
    given = [Features({"features": features}, {}).given(metric, "features", 3) for features in sets]
    expected = [features[statistics.chosen(len(features), 50, 3)] for features in sets]
    assert [len(part) for part in given] == [50, 50]
    assert all(map(torch.equal, given, expected))
    assert metric.settings(80, 90)["prdc_fakes"] == 50


def test_the_options_of_a_metric_are_what_it_computes_with() -> None:
    real, fake = gaussian(40, 3, 0), gaussian(30, 3, 1, 0.7)
    found = PRDC(density_neighbours=2).measure(real, fake)
    expected = twin_density_and_coverage(real, fake, 2)
    assert (found["density"], found["coverage"]) == pytest.approx(expected)
    few, many = (KernelDistance(subset_size=size).measure(real, fake)["kid"] for size in (2, 30))
    assert few != many
    assert InceptionScore(splits=1).measure(None, fake)["is_std"] == 0
    with pytest.raises(UserError, match="5 neighbours need most=6"):
        PRDC(most=5)


def test_a_choice_is_of_the_seed_in_order_and_without_repetition() -> None:
    indices = statistics.chosen(100, 30, 1).tolist()
    assert indices == sorted(set(indices))
    assert len(indices) == 30
    assert indices == statistics.chosen(100, 30, 1).tolist() != statistics.chosen(100, 30, 2).tolist()
    assert statistics.chosen(5, 30, 1).tolist() == [0, 1, 2, 3, 4]


def test_the_class_histogram_has_shares_of_every_class() -> None:
    logits = torch.tensor([[9.0, 0, 0], [9.0, 0, 0], [0, 9.0, 0], [9.0, 0, 0]], dtype=torch.float64)
    found = statistics.class_histogram(logits, ("cat", "dog", "eel"))
    assert found.pop("classifier_confidence") == pytest.approx(1, abs=1e-3)
    assert found == {
        "smallest_class_share": 0,
        "largest_class_share": 0.75,
        "class_share_cat": 0.75,
        "class_share_dog": 0.25,
        "class_share_eel": 0,
    }
