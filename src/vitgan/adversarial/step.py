"""One step of the game: a discriminator update, then a generator update.

Shapes: B batch, C channels, H x W image, Z latent size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitgan.adversarial.augment import DiffAugment
from vitgan.adversarial.losses import AdversarialLoss
from vitgan.adversarial.terms import Pass, Term

Metrics = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Game:
    """The rules: the same in every step."""

    loss: AdversarialLoss
    augment: DiffAugment
    terms: tuple[Term, ...]
    dtype: torch.dtype = torch.float32
    """Of the activations; weights, losses and penalties stay in fp32."""


@dataclass(frozen=True, kw_only=True)
class Players:
    """The two networks and what updates them."""

    generator: nn.Module
    discriminator: nn.Module
    optimiser_generator: torch.optim.Optimizer
    optimiser_discriminator: torch.optim.Optimizer


def train_step(
    players: Players, game: Game, real: Tensor, labels: Tensor | None, rng: torch.Generator, step: int
) -> Metrics:
    """Update both players once on `real` (B, C, H, W) in [-1, 1] with labels (B,) or None.

    `rng`, on the device of `real`, is the only source of randomness. Returns detached scalars: every term of
    the discriminator's loss, the generator's loss, mean logits and both gradient norms.
    """
    seen = discriminator_step(players, game, real, labels, rng, step)
    return seen | generator_step(players, game, len(real), labels, rng)


def discriminator_step(
    players: Players, game: Game, real: Tensor, labels: Tensor | None, rng: torch.Generator, step: int
) -> Metrics:
    """One pass over [real, fake, their second views]; adversarial loss and terms; one update of D."""
    discriminator = players.discriminator
    discriminator.advance()  # type: ignore[operator]
    with torch.no_grad():
        fake = _generate(players.generator, game, len(real), labels, rng)
    both = torch.cat((real, fake.to(real.dtype)))
    passes = discriminator_pass(discriminator, game, both, labels, rng, step)
    losses = {"adversarial": game.loss.discriminator(passes[0].logits_real, passes[0].logits_fake)}
    for term, seen in zip(game.terms, passes[1:], strict=True):
        losses |= term.losses(seen)
    total = torch.stack(list(losses.values())).sum()
    norm = _update(players.optimiser_discriminator, total)
    return _detached(total, losses, passes[0]) | {"gradient_norm_discriminator": norm}


def discriminator_pass(
    discriminator: nn.Module, game: Game, both: Tensor, labels: Tensor | None, rng: torch.Generator, step: int
) -> list[Pass]:
    """D's one pass over `both` = [real, fake], augmented, and each term's second view of them.

    Returns what the adversarial loss sees, then what each term sees.
    """
    makers: list[Callable[[Tensor, torch.Generator], Tensor] | None] = [
        term.second_view(game.augment) for term in game.terms
    ]
    views = [game.augment(both, rng), *(make(both, rng) for make in makers if make is not None)]
    repeated = None if labels is None else labels.repeat(2 * len(views))
    logits = discriminator(torch.cat(views).to(game.dtype), repeated)
    halves = iter(logits.view(len(views), 2, -1, 1))  # (views, [real, fake], B, 1)
    first_real, first_fake = next(halves)
    seen_real = views[0][: len(both) // 2]
    seconds = [(None, None)] + [(None, None) if make is None else tuple(next(halves)) for make in makers]
    return [
        Pass(discriminator, step, seen_real, labels, first_real, first_fake, second_real, second_fake)
        for second_real, second_fake in seconds
    ]


def generator_step(
    players: Players, game: Game, count: int, labels: Tensor | None, rng: torch.Generator
) -> Metrics:
    """One update of G against the frozen D, on `count` fakes of its own."""
    frozen = [p for p in players.discriminator.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        fake = _generate(players.generator, game, count, labels, rng)
        logits = players.discriminator(game.augment(fake, rng).to(game.dtype), labels)
        loss = game.loss.generator(logits)
        norm = _update(players.optimiser_generator, loss)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return {"loss_generator": loss.detach(), "gradient_norm_generator": norm}


def _generate(
    generator: nn.Module, game: Game, count: int, labels: Tensor | None, rng: torch.Generator
) -> Tensor:
    z = torch.randn(count, generator.latent_dim, device=rng.device, generator=rng)  # type: ignore[call-overload]
    return generator(z.to(game.dtype), labels).float()


def _update(optimiser: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """Backward and one optimiser step; returns the norm of the gradient."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    optimiser.step()
    return norm


def _detached(total: Tensor, losses: Metrics, seen: Pass) -> Metrics:
    real, fake = seen.logits_real.detach().mean(), seen.logits_fake.detach().mean()
    terms = {f"term_{name}": value.detach() for name, value in losses.items()}
    logits = {"logit_real": real, "logit_fake": fake, "logit_gap": real - fake}
    return {"loss_discriminator": total.detach(), **terms, **logits}
