"""One step of the game: a discriminator update, then a generator update.

Shapes: B batch, C channels, H x W image, Z latent size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vitgan.adversarial.augment import Augmentation
from vitgan.adversarial.losses import AdversarialLoss
from vitgan.adversarial.terms import GeneratorPass, GeneratorTerm, Pass, Term
from vitgan.models import Discriminator, Generator, Judgement

Metrics = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Game:
    """The rules: the same in every step."""

    loss: AdversarialLoss
    augment: Augmentation
    terms: tuple[Term, ...]
    generator_terms: tuple[GeneratorTerm, ...] = ()
    generator_every: int = 1
    """Discriminator updates for each generator update."""
    dtype: torch.dtype = torch.float32
    """Of the activations; weights, losses and penalties stay in fp32."""


@dataclass(frozen=True, kw_only=True)
class Players:
    """The two networks and what updates them."""

    generator: Generator
    discriminator: Discriminator
    optimiser_generator: torch.optim.Optimizer
    optimiser_discriminator: torch.optim.Optimizer


def train_step(
    players: Players, game: Game, real: Tensor, labels: Tensor | None, rng: torch.Generator, step: int
) -> Metrics:
    """Update D once on `real` (B, C, H, W) in [-1, 1] with labels (B,) or None, then G where it is due.

    `rng`, on the device of `real`, is the only source of randomness. Returns detached scalars: every term of
    the discriminator's loss, the generator's loss, mean logits and both gradient norms.
    """
    seen = discriminator_step(players, game, real, labels, rng, step)
    if (step + 1) % game.generator_every:
        return seen
    return seen | generator_step(players, game, len(real), labels, rng, step)


def discriminator_step(
    players: Players, game: Game, real: Tensor, labels: Tensor | None, rng: torch.Generator, step: int
) -> Metrics:
    """One pass over [real, fake, their second views]; adversarial loss and terms; one update of D."""
    discriminator = players.discriminator
    discriminator.advance()
    with torch.no_grad():
        fake = _generate(players.generator, game, len(real), labels, rng)
    both = torch.cat((real, fake.to(real.dtype)))
    passes = discriminator_pass(discriminator, game, both, labels, rng, step)
    losses = _adversarial(game.loss, passes[0].judged_real, passes[0].judged_fake)
    for term, seen in zip(game.terms, passes[1:], strict=True):
        losses |= term.losses(seen)
    total = torch.stack(list(losses.values())).sum()
    norm = _update(players.optimiser_discriminator, total)
    return _detached(total, losses, passes[0]) | {"gradient_norm_discriminator": norm}


def discriminator_pass(
    discriminator: Discriminator,
    game: Game,
    both: Tensor,
    labels: Tensor | None,
    rng: torch.Generator,
    step: int,
) -> list[Pass]:
    """D's one pass over `both` = [real, fake], augmented, and each term's second view of them.

    Returns what the adversarial loss sees, then what each term sees.
    """
    makers: list[Callable[[Tensor, torch.Generator], Tensor] | None] = [
        term.second_view(game.augment) for term in game.terms
    ]
    views = [game.augment(both, rng), *(make(both, rng) for make in makers if make is not None)]
    repeated = None if labels is None else labels.repeat(2 * len(views))
    judgement = discriminator.judge(torch.cat(views).to(game.dtype), repeated)
    parts = judgement.split(2 * len(views))  # each view's real half, then its fake half
    judged_real, judged_fake = next(parts), next(parts)
    seen_real, seen_fake = views[0].chunk(2)
    seconds = [(None, None)] + [
        (None, None) if make is None else (next(parts), next(parts)) for make in makers
    ]
    view = (seen_real, seen_fake, labels, judged_real, judged_fake)
    return [Pass(discriminator, step, rng, *view, *second, game.dtype) for second in seconds]


def generator_step(
    players: Players, game: Game, count: int, labels: Tensor | None, rng: torch.Generator, step: int
) -> Metrics:
    """One update of G against the frozen D, on `count` fakes of its own."""
    generator, discriminator = players.generator, players.discriminator
    generator.advance()
    frozen = [p for p in discriminator.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        fake = _generate(generator, game, count, labels, rng)
        judged = discriminator.judge(game.augment(fake, rng).to(game.dtype), labels)
        losses = {"loss_generator": _fooling(game.loss, judged)}
        seen = GeneratorPass(generator, step // game.generator_every, rng, count, labels, game.dtype)
        for term in game.generator_terms:
            losses |= {f"term_{name}": value for name, value in term.losses(seen).items()}
        norm = _update(players.optimiser_generator, torch.stack(list(losses.values())).sum())
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return {name: value.detach() for name, value in losses.items()} | {"gradient_norm_generator": norm}


def _adversarial(loss: AdversarialLoss, real: Judgement, fake: Judgement) -> Metrics:
    losses = {"adversarial": loss.discriminator(real.logits, fake.logits)}
    if real.pixels is not None and fake.pixels is not None:
        losses["adversarial_pixels"] = loss.discriminator(real.pixels, fake.pixels)
    return losses


def _fooling(loss: AdversarialLoss, fake: Judgement) -> Tensor:
    value = loss.generator(fake.logits)
    return value if fake.pixels is None else value + loss.generator(fake.pixels)


def _generate(
    generator: Generator, game: Game, count: int, labels: Tensor | None, rng: torch.Generator
) -> Tensor:
    z = torch.randn(count, generator.latent_dim, device=rng.device, generator=rng)
    return generator.training_images(z.to(game.dtype), labels, rng).float()


def _update(optimiser: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """Backward and one optimiser step; returns the norm of the gradient."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    optimiser.step()
    return norm


def _detached(total: Tensor, losses: Metrics, seen: Pass) -> Metrics:
    real, fake = seen.judged_real.logits.detach().mean(), seen.judged_fake.logits.detach().mean()
    terms = {f"term_{name}": value.detach() for name, value in losses.items()}
    logits = {"logit_real": real, "logit_fake": fake, "logit_gap": real - fake}
    return {"loss_discriminator": total.detach(), **terms, **logits}
