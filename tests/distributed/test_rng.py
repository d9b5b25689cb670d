"""What processes that share a batch draw is what one process draws."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vitgan.distributed.rng import (
    PartGenerator,
    integers,
    micro_batches,
    normal,
    of_halves,
    share,
    uniform,
    weight,
)

Draw = Callable[[torch.Generator, int], Tensor]
DRAWS: dict[str, Draw] = {
    "normal": lambda rng, count: normal(rng, count, 3),
    "uniform": lambda rng, count: uniform(rng, count, 2, 2),
    "integers": lambda rng, count: integers(rng, 0, 1000, count, 2),
}


def part(rank: int, ranks: int, batch: int) -> PartGenerator:
    rng = PartGenerator()
    rng.manual_seed(5)
    rng.rank, rng.ranks, rng.batch = rank, ranks, batch
    return rng


def own(batch: int, rank: int, ranks: int) -> int:
    place = share(batch, rank, ranks)
    return place.stop - place.start


@pytest.mark.parametrize(("batch", "ranks"), [(12, 1), (12, 3), (12, 5), (7, 3), (5, 4)])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_parts_together_are_the_whole(draw: Draw, batch: int, ranks: int) -> None:
    whole, parts = part(0, 1, batch), [part(rank, ranks, batch) for rank in range(ranks)]
    for _ in range(3):
        drawn = torch.cat([draw(rng, own(batch, rank, ranks)) for rank, rng in enumerate(parts)])
        assert torch.equal(drawn, draw(whole, batch))


@pytest.mark.parametrize(("batch", "ranks"), [(8, 2), (9, 2), (10, 4)])
def test_halves_are_shared_each(batch: int, ranks: int) -> None:
    whole = part(0, 1, batch)
    with of_halves(whole):
        expected = normal(whole, 2 * batch).unflatten(0, (2, batch))
    for rank in range(ranks):
        rng = part(rank, ranks, batch)
        with of_halves(rng):
            drawn = normal(rng, 2 * own(batch, rank, ranks))
        assert torch.equal(drawn, expected[:, share(batch, rank, ranks)].flatten())
        assert rng.halves == 1


def test_a_batch_in_parts_draws_what_it_draws_as_a_whole() -> None:
    rng, drawn = part(0, 1, 12), []
    for _ in micro_batches(rng, 3):
        drawn.append(normal(rng, 4))
    assert torch.equal(torch.cat(drawn), normal(part(0, 1, 12), 12))
    assert (rng.rank, rng.ranks) == (0, 1)


def test_the_shares_cover_a_batch_and_their_weights_add_up() -> None:
    for batch, ranks in ((12, 5), (3, 3), (128, 7)):
        places = [share(batch, rank, ranks) for rank in range(ranks)]
        assert [i for place in places for i in range(batch)[place]] == list(range(batch))
        counts = [place.stop - place.start for place in places]
        assert max(counts) - min(counts) <= 1
        weights = [weight(part(rank, ranks, batch), counts[rank]) for rank in range(ranks)]
        assert sum(weights) == pytest.approx(1)
    assert weight(torch.Generator(), 3) == 1


def test_a_plain_generator_draws_as_torch_does() -> None:
    found = normal(torch.Generator().manual_seed(1), 4, 2)
    assert torch.equal(found, torch.randn(4, 2, generator=torch.Generator().manual_seed(1)))
