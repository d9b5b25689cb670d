"""What every system must show in training: used by the tests of each.

Shapes: B batch, C channels, R resolution.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitgan.adversarial import Game, Players, train_step
from vitgan.models import Discriminator, Generator

BATCH = 8


def toy_images(resolution: int, channels: int, count: int = 64) -> Tensor:
    """Squares of random place and shade on a grey ground, (count, C, R, R) in [-1, 1]."""
    rng = torch.Generator().manual_seed(0)
    images = torch.zeros(count, channels, resolution, resolution)
    side = resolution // 2
    for image in images:
        row, column = torch.randint(0, side + 1, (2,), generator=rng).tolist()
        image[:, row : row + side, column : column + side] = 2 * torch.rand(channels, 1, 1, generator=rng) - 1
    return images


def players(generator: Generator, discriminator: Discriminator, rate: float = 1e-3) -> Players:
    """Both networks, each with an Adam of its own."""
    return Players(
        generator=generator,
        discriminator=discriminator,
        optimiser_generator=torch.optim.Adam(generator.parameters(), rate, betas=(0.0, 0.99)),
        optimiser_discriminator=torch.optim.Adam(discriminator.parameters(), rate, betas=(0.0, 0.99)),
    )


def train_and_check(
    pair: Players, game: Game, images: Tensor, labels: Tensor | None = None, *, steps: int = 32
) -> dict[str, list[float]]:
    """`steps` updates on `images` (N, C, R, R); every term finite, every parameter moved by a gradient.

    Returns each metric's values in order.
    """
    moved = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in _parameters(pair)}
    before = {name: p.detach().clone() for name, p in _parameters(pair)}
    seen: dict[str, list[float]] = {}
    for step in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=torch.Generator().manual_seed(1000 + step))
        rng = torch.Generator().manual_seed(step)
        part = None if labels is None else labels[chosen]
        for name, value in train_step(pair, game, images[chosen], part, rng, step).items():
            seen.setdefault(name, []).append(value.item())
    for name, p in _parameters(pair):
        moved[name] = p.detach() != before[name]
    assert all(torch.isfinite(torch.tensor(values)).all() for values in seen.values()), seen
    still = [name for name, where in moved.items() if not where.any()]
    assert not still, f"never moved: {still}"
    return seen


def check_samples(generator: Generator, fresh: Callable[[], Generator]) -> None:
    """uint8 of the right shape, not of one colour, and the same bit for bit after save and load."""
    generator.eval()
    samples = generator.sample(6, seed=3)
    size = (6, generator.channels, generator.resolution, generator.resolution)
    assert samples.shape == size
    assert samples.dtype == torch.uint8
    assert samples.float().std() > 0
    other = fresh().eval()
    other.load_state_dict(generator.state_dict())
    assert torch.equal(other.sample(6, seed=3), samples)


def _parameters(pair: Players) -> list[tuple[str, nn.Parameter]]:
    return [
        (f"{part}.{name}", parameter)
        for part in ("generator", "discriminator")
        for name, parameter in getattr(pair, part).named_parameters()
    ]
