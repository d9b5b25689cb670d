"""How the cost of a step grows: the fit on power laws that are known, and a small range measured."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from vitgan.bench.scaling import (
    RANGES,
    Base,
    Point,
    Range,
    exponent,
    measure_range,
    scaling,
    to_dict,
    upper_half,
    write_figure,
)

BASE = Base(batch=2, width=8, depth=1, patch=4, resolution=8)


def points(sizes: tuple[int, ...], power: float, memory: float | None = None) -> list[Point]:
    return [
        Point(
            size=n, seconds=0.3 * n**power, flops=7.0 * n**2, memory_mib=None if memory is None else n**memory
        )
        for n in sizes
    ]


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.0, 2.0, 2.37])
def test_a_power_law_is_fitted_exactly(power: float) -> None:
    sizes = (3, 5, 8, 21)
    slope, factor = exponent(sizes, [0.3 * n**power for n in sizes])
    assert slope == pytest.approx(power, abs=1e-12)
    assert factor == pytest.approx(0.3, rel=1e-12)


def test_the_fit_is_of_the_upper_half_alone() -> None:
    flat = [Point(size=n, seconds=1.0, flops=1.0, memory_mib=None) for n in (1, 2)]
    found = scaling("batch", flat + points((4, 8, 16), 1.5))
    assert [point.size for point in upper_half(found.points)] == [4, 8, 16]
    assert found.fitted_from == 4
    assert found.exponent == pytest.approx(1.5)
    assert found.expected_exponent == pytest.approx(2)
    assert found.memory_exponent is None


def test_memory_has_an_exponent_where_it_was_measured() -> None:
    assert scaling("width", points((2, 4, 8), 1.0, memory=1.25)).memory_exponent == pytest.approx(1.25)


@pytest.mark.parametrize("varied", RANGES, ids=lambda varied: varied.name)
def test_every_range_builds_and_rises(varied: Range) -> None:
    bases = varied.bases(Base())
    sizes = [varied.size(base) for base in bases]
    assert sizes == sorted(set(sizes))
    assert all(base.recipe().training.batch == base.batch for base in bases)
    assert Base() in bases
    assert len(upper_half([Point(size=n, seconds=1.0, flops=1.0, memory_mib=None) for n in sizes])) >= 2


def test_a_small_range_is_measured_and_drawn(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    found = [
        measure_range(Range(name="batch", field="batch", values=(2, 4, 8)), BASE, device=cpu, rounds=1),
        measure_range(Range(name="tokens", field="patch", values=(8, 4, 2)), BASE, device=cpu, rounds=1),
    ]
    # Spectral norm's products are of a step, not of an image: a little less than twice as many.
    assert 0.9 < found[0].expected_exponent < 1
    assert [point.size for point in found[1].points] == [1, 4, 16]
    assert all(point.seconds > 0 for one in found for point in one.points)
    assert json.loads(json.dumps(to_dict(BASE, found)))["ranges"][0]["name"] == "batch"
    write_figure(tmp_path / "new" / "plot.png", found, "title")
    with Image.open(tmp_path / "new" / "plot.png") as picture:
        assert min(picture.size) > 100
