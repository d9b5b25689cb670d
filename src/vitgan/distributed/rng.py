"""Random numbers of a batch that several processes share: what each draws does not depend on how many.

Shapes: B images of this process.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class PartGenerator(torch.Generator):
    """Draws for a whole batch and gives part `rank` of `ranks`, by the functions below.

    `batch` images in all, of which the parts are equal where `ranks` divides it, and else nearly so. A plain
    torch.Generator draws for one process that has the whole batch.
    """

    rank = 0
    ranks = 1
    halves = 1
    batch = 0

    @property
    def even(self) -> bool:
        """Whether all parts have the same number of images."""
        return self.batch % self.ranks == 0


def share(batch: int, rank: int, ranks: int) -> slice:
    """The images of a batch that part `rank` has; all parts together are the batch, in order."""
    return slice(rank * batch // ranks, (rank + 1) * batch // ranks)


def weight(rng: torch.Generator, count: int) -> float:
    """The share of the batch that `count` images are, which is the weight of their mean."""
    return count / rng.batch if isinstance(rng, PartGenerator) and rng.batch else 1.0


def normal(rng: torch.Generator, count: int, *shape: int) -> Tensor:
    """Standard normal, (B, ...), on the device of `rng`."""
    return _part(rng, count, lambda n: torch.randn(n, *shape, device=rng.device, generator=rng))


def uniform(rng: torch.Generator, count: int, *shape: int) -> Tensor:
    """Uniform in [0, 1), (B, ...), on the device of `rng`."""
    return _part(rng, count, lambda n: torch.rand(n, *shape, device=rng.device, generator=rng))


def integers(rng: torch.Generator, low: int, high: int, count: int, *shape: int) -> Tensor:
    """Integers from `low` to `high` - 1, int64 (B, ...), on the device of `rng`."""
    return _part(
        rng, count, lambda n: torch.randint(low, high, (n, *shape), device=rng.device, generator=rng)
    )


@contextmanager
def of_halves(rng: torch.Generator) -> Iterator[None]:
    """Within it a batch is two, one after the other, each of which the processes share."""
    if not isinstance(rng, PartGenerator):
        yield
        return
    rng.halves = 2
    try:
        yield
    finally:
        rng.halves = 1


def in_parts(rng: torch.Generator, parts: int) -> Iterator[int]:
    """The numbers of the parts of this process's images, which are as many processes' to `rng`.

    So a batch in parts draws what a batch as a whole draws. From a plain torch.Generator the parts draw one
    after the other.
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
