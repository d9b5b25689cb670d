"""The order of the images: a function of seed and position alone, so that resuming needs no saved state.

Shapes: N images of an epoch, B positions asked for.
"""

from functools import lru_cache

import numpy as np

SORTED = 65_536  # up to this many images an epoch's order is a sort of random numbers, held in memory
ROUNDS = 8  # of the Feistel network
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def draw(count: int, seed: int, start: int, stop: int) -> np.ndarray:
    """Samples `start` to `stop` of a run over `count` images, int64 (2, B): indices, and 1 where flipped.

    Epoch e, the samples from e * count up to (e + 1) * count, has a permutation of its own. Above 65,536
    images the memory that this takes does not depend on their number.
    """
    epochs = range(start // count, (stop - 1) // count + 1)
    part = _sorted_part if count <= SORTED else _keyed_part
    parts = [part(count, seed, e, max(start - e * count, 0), min(stop - e * count, count)) for e in epochs]
    return np.concatenate(parts, axis=1)


def random_bits(count: int, *seeds: int) -> np.ndarray:
    """Random uint64 (count,) out of the seeds: raw bits of Philox, which NumPy promises never to change."""
    return np.random.Philox(np.random.SeedSequence(seeds)).random_raw(count)


def top_bit(bits: np.ndarray) -> np.ndarray:
    """The highest bit, 0 or 1, of each of uint64 (B,), as int64 (B,)."""
    return (bits >> np.uint64(63)).astype(np.int64)


def _sorted_part(count: int, seed: int, epoch: int, start: int, stop: int) -> np.ndarray:
    return _epoch(count, seed, epoch)[:, start:stop]


@lru_cache(maxsize=2)
def _epoch(count: int, seed: int, epoch: int) -> np.ndarray:
    bits = random_bits(2 * count, seed, epoch)
    # A stable sort has one result only, where NumPy may change how its `permutation` shuffles.
    order = np.argsort(bits[:count], kind="stable")
    return np.stack([order, top_bit(bits[count:])])


def _keyed_part(count: int, seed: int, epoch: int, start: int, stop: int) -> np.ndarray:
    keys = _keys(seed, epoch)
    positions = np.arange(start, stop, dtype=np.uint64)
    order = permuted(positions, count, keys[:ROUNDS])
    flips = top_bit(_mixed(positions * _GOLDEN + keys[ROUNDS]))
    return np.stack([order.astype(np.int64), flips])


@lru_cache(maxsize=4)
def _keys(seed: int, epoch: int) -> np.ndarray:
    return random_bits(ROUNDS + 1, seed, epoch)


def permuted(positions: np.ndarray, count: int, keys: np.ndarray) -> np.ndarray:
    """The images, uint64 (B,), at `positions`, uint64 (B,), of the keyed permutation of 0 to count - 1.

    A balanced Feistel network over the smallest domain of an even number of bits that holds `count`, applied
    again where it leads outside (cycle walking; Black and Rogaway, "Ciphers with arbitrary finite domains",
    2002). The domain is less than four times the count, so it takes fewer than four rounds on average.
    """
    half = max(((count - 1).bit_length() + 1) // 2, 1)
    values = _feistel(positions, half, keys)
    while (outside := np.flatnonzero(values >= count)).size:
        values[outside] = _feistel(values[outside], half, keys)
    return values


def _feistel(values: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        # The high bits of the hash are used, which its last multiplication has mixed best.
        left, right = right, left ^ (_mixed(right ^ key) >> np.uint64(64 - half))
    return left << shift | right


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, a bijection of uint64 each of whose output bits depends on every input bit.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, with the constants
    of David Stafford's variant 13.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
