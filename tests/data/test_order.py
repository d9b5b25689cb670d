"""The order of the images of a large set: a keyed permutation in constant memory."""

import tracemalloc

import numpy as np
import pytest

from vitgan.data.loader import ROUNDS, SORTED, draw, permuted, random_bits

LARGE = 1_000_000_007


def epoch(count: int, seed: int = 0, number: int = 0) -> np.ndarray:
    """The indices of one epoch, int64 (N,)."""
    return draw(count, seed, number * count, (number + 1) * count)[0]


def chi_square(counts: np.ndarray) -> float:
    """The chi-square statistic of counts expected to be equal, in standard deviations from its mean."""
    expected = counts.mean()
    freedom = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("count", [65_537, 100_003, 2**17, 2**18 + 1])
def test_every_epoch_is_a_permutation_of_its_own(count: int) -> None:
    first, second = epoch(count), epoch(count, number=1)
    assert np.array_equal(np.sort(first), np.arange(count))
    assert np.array_equal(np.sort(second), np.arange(count))
    assert (first == second).sum() < 12  # one on average
    assert (first == epoch(count, seed=1)).sum() < 12


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 100])
def test_the_network_permutes_small_sets_too(count: int) -> None:
    keys = random_bits(ROUNDS, 0, 0)
    assert sorted(permuted(np.arange(count, dtype=np.uint64), count, keys).tolist()) == list(range(count))


def test_the_order_changes_its_kind_above_the_bound() -> None:
    assert SORTED == 65_536
    bits = random_bits(2 * SORTED, 3, 0)
    assert np.array_equal(epoch(SORTED, seed=3), np.argsort(bits[:SORTED], kind="stable"))
    assert np.array_equal(np.sort(epoch(SORTED)), np.arange(SORTED))


@pytest.mark.parametrize("count", [65_537, 100_003, 2**17])
def test_the_order_looks_random(count: int) -> None:
    """Each bound is five standard deviations or more; a plain or a linear order fails all of them."""
    order = epoch(count, seed=5)
    position, place = np.arange(count) * 64 // count, order * 64 // count
    assert abs(chi_square(np.bincount(position * 64 + place, minlength=4096))) < 5
    following = np.bincount(place[:-1] * 64 + place[1:], minlength=4096)
    assert abs(chi_square(following)) < 5
    assert abs(chi_square(np.bincount((np.diff(order) % count) * 64 // count, minlength=64))) < 5
    assert (order == np.arange(count)).sum() < 12
    assert (np.abs(np.diff(order)) == 1).sum() < 16  # two on average


@pytest.mark.parametrize("epochs", [(0, 1), (1, 2)])
def test_the_orders_of_two_epochs_do_not_depend_on_each_other(epochs: tuple[int, int]) -> None:
    count = 100_003
    first, second = (epoch(count, number=number) * 64 // count for number in epochs)
    assert abs(chi_square(np.bincount(first * 64 + second, minlength=4096))) < 5


def test_flips_are_half_and_hang_on_nothing() -> None:
    count = 100_003
    order, flips = draw(count, 0, 0, count)
    assert set(flips.tolist()) == {0, 1}
    bound = 5 / (2 * np.sqrt(count))
    assert abs(flips.mean() - 0.5) < bound
    assert abs((flips[1:] == flips[:-1]).mean() - 0.5) < bound
    assert abs((flips == order % 2).mean() - 0.5) < bound
    assert abs((flips == draw(count, 0, count, 2 * count)[1]).mean() - 0.5) < bound


@pytest.mark.parametrize("count", [65_537, LARGE])
def test_entering_late_equals_reading_through(count: int) -> None:
    start, stop = count - 3000, count + 3000
    whole = draw(count, 7, start, stop)
    pieces = [draw(count, 7, at, min(at + 513, stop)) for at in range(start, stop, 513)]
    assert np.array_equal(np.concatenate(pieces, axis=1), whole)


def test_memory_does_not_grow_with_the_set() -> None:
    draw(LARGE, 0, 0, 8)
    tracemalloc.start()
    drawn = draw(LARGE, 0, LARGE - 512, LARGE + 512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert drawn.shape == (2, 1024)
    assert drawn[0].max() < LARGE
    assert peak < 2**20


def test_the_order_of_a_large_set_is_frozen() -> None:
    """These numbers may never change: saved runs are resumed by them."""
    assert draw(65_537, 5, 65_535, 65_539).tolist() == FROZEN


FROZEN = [[53082, 16510, 46408, 12325], [1, 0, 1, 0]]
