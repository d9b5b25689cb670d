"""Random numbers of a batch that several processes share, which do not depend on how many share it.

Every process draws the numbers of the whole batch and keeps those of its own images. Shapes: B images of this
process, or of its micro-batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class PartGenerator(torch.Generator):
    """A random generator that knows which part of a batch this process, or its micro-batch, has.

    The functions of this module draw from it for the whole batch of `batch` images and give part `rank` of
    `ranks`. The parts are equal where `ranks` divides the batch, else nearly so. From a plain torch.Generator
    the same functions draw for a process that has the whole batch. With `halves` 2 the batch is two batches,
    one after the other, of each of which this process has its part.
    """

    rank = 0
    ranks = 1
    halves = 1
    batch = 0

    @property
    def even(self) -> bool:
        """Whether all parts of the batch have the same number of images."""
        return self.batch % self.ranks == 0


def share(batch: int, rank: int, ranks: int) -> slice:
    """Which images of a batch are part `rank` of `ranks`.

    The slices of all parts, in order, make up the batch.
    """
    return slice(rank * batch // ranks, (rank + 1) * batch // ranks)


def weight(rng: torch.Generator, count: int) -> float:
    """The share of the whole batch that `count` images are: the weight of their mean in the batch's mean."""
    return count / rng.batch if isinstance(rng, PartGenerator) and rng.batch else 1.0


def normal(rng: torch.Generator, count: int, *shape: int) -> Tensor:
    """Standard normal numbers (count, *shape), on the device of `rng`."""
    return _part(rng, count, lambda n: torch.randn(n, *shape, device=rng.device, generator=rng))


def uniform(rng: torch.Generator, count: int, *shape: int) -> Tensor:
    """Numbers uniform in [0, 1), (count, *shape), on the device of `rng`."""
    return _part(rng, count, lambda n: torch.rand(n, *shape, device=rng.device, generator=rng))


def integers(rng: torch.Generator, low: int, high: int, count: int, *shape: int) -> Tensor:
    """Integers uniform from `low` to `high` - 1, int64 (count, *shape), on the device of `rng`."""
    return _part(
        rng, count, lambda n: torch.randint(low, high, (n, *shape), device=rng.device, generator=rng)
    )


@contextmanager
def of_halves(rng: torch.Generator) -> Iterator[None]:
    """A context within which what is drawn is for two batches, one after the other, as real and fake images.

    Each process has its part of the first and its part of the second.
    """
    if not isinstance(rng, PartGenerator):
        yield
        return
    rng.halves = 2
    try:
        yield
    finally:
        rng.halves = 1


def micro_batches(rng: torch.Generator, parts: int) -> Iterator[int]:
    """Iterate over the numbers of the `parts` micro-batches into which this process's images are divided.

    During each, `rng` draws as if the micro-batch were the part of a process of its own, so that the batch
    gets the numbers that it would get whole. From a plain torch.Generator the micro-batches draw one after
    the other.
    """
    if not isinstance(rng, PartGenerator) or parts == 1:
        yield from range(parts)
        return
    state, rank, ranks = rng.get_state(), rng.rank, rng.ranks
    try:
        for part in range(parts):
            rng.set_state(state)
            rng.rank, rng.ranks = rank * parts + part, ranks * parts
            yield part
    finally:
        rng.rank, rng.ranks = rank, ranks


def _part(rng: torch.Generator, count: int, draw: Callable[[int], Tensor]) -> Tensor:
    if not isinstance(rng, PartGenerator) or rng.ranks == 1:
        return draw(count)
    if not rng.even:
        return _uneven_part(rng, count, draw)
    whole = draw(rng.ranks * count)
    parts = whole.unflatten(0, (rng.halves, rng.ranks, count // rng.halves))
    return parts[:, rng.rank].flatten(0, 1)


def _uneven_part(rng: PartGenerator, count: int, draw: Callable[[int], Tensor]) -> Tensor:
    own = share(rng.batch, rng.rank, rng.ranks)
    if count == rng.halves * (own.stop - own.start):
        return draw(rng.halves * rng.batch).unflatten(0, (rng.halves, -1))[:, own].flatten(0, 1)
    most = rng.halves * -(-rng.batch // rng.ranks)
    assert count <= most, "a part draws for its own images at most"
    return draw(rng.ranks * most).unflatten(0, (rng.ranks, -1))[rng.rank, :count]
