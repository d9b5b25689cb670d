"""One step of the game: a discriminator update, then a generator update.

Shapes: B batch, C channels, H x W image, Z latent size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vitgan.adversarial.augment import Augmentation
from vitgan.adversarial.losses import AdversarialLoss
from vitgan.adversarial.terms import GeneratorPass, GeneratorTerm, Pass, Term
from vitgan.distributed import collectives
from vitgan.distributed.rng import micro_batches, normal, of_halves, weight
from vitgan.models import Discriminator, Generator, Judgement
from vitgan.spans import span


class Fakes:
    """Images G(z) of z (B, Z) with labels (B,) or None, generated in `parts` micro-batches.

    With `learn` the activations are kept until `backward`: one forward pass serves the updates of both
    players. With `again` they are not kept, and `backward` generates the images anew, a micro-batch at a
    time, with the same random numbers.

    Attributes
        images: (B, C, H, W) in [-1, 1], fp32, without a gradient.
    """

    def __init__(
        self,
        generator: Generator,
        z: Tensor,
        labels: Tensor | None,
        rng: torch.Generator,
        *,
        parts: int = 1,
        learn: bool = True,
        again: bool = False,
    ) -> None:
        self._generator, self._rng = generator, rng
        self._start = rng.get_state() if again else None
        own_labels = [None] * parts if labels is None else labels.chunk(parts)
        self._inputs = list(zip(z.chunk(parts), own_labels, strict=True))
        with torch.set_grad_enabled(learn and not again):
            made = [self._make(part) for part in micro_batches(rng, parts)]
        self._kept = made if learn and not again else None
        self.images = torch.cat(made).detach()

    def _make(self, part: int) -> Tensor:
        return self._generator.training_images(*self._inputs[part], self._rng).float()

    def backward(self, gradient: Tensor) -> None:
        """Backpropagate the gradient (B, C, H, W) of the images into the generator's parameters, once."""
        gradients = gradient.chunk(len(self._inputs))
        if self._kept is not None:
            kept, self._kept = self._kept, None
            for images, own in zip(kept, gradients, strict=True):
                images.backward(own)
            return
        assert self._start is not None
        later = self._rng.get_state()
        self._rng.set_state(self._start)
        for part in micro_batches(self._rng, len(self._inputs)):
            self._make(part).backward(gradients[part])
        self._rng.set_state(later)


Metrics = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Game:
    """The rules of the adversarial game, which are the same in every step."""

    loss: AdversarialLoss
    augment: Augmentation
    terms: tuple[Term, ...]
    generator_terms: tuple[GeneratorTerm, ...] = ()
    generator_every: int = 1
    """Discriminator updates for each generator update."""
    shared_fakes: bool = True
    """The generator learns from the fakes of the discriminator's update: one forward pass for both."""
    judge_real_again: bool = False
    """The generator's loss sees the real images' logits of the updated discriminator, which takes a further
    forward pass; else it sees those of the discriminator's update."""
    accumulate: int = 1
    """Micro-batches of a batch, whose gradients are accumulated; must divide the batch."""
    make_again: bool = False
    """Generate the fakes anew for the generator's update: less memory, one more forward pass."""
    dtype: torch.dtype = torch.float32
    """The dtype of the activations; weights, losses and penalties stay in fp32."""
    strength: Tensor | float = 1.0
    """Factor of R1 and R2, exact and by differences; a schedule fills the scalar anew before each step."""

    def learns(self, step: int) -> bool:
        """Whether the generator is updated in step number `step`, counted from 0."""
        return (step + 1) % self.generator_every == 0

    def kind(self, step: int) -> tuple[bool, ...] | None:
        """Which parts of the game step number `step` runs: steps of one kind do the same work.

        None where a term decides that only within the step.
        """
        learns = self.learns(step)
        due = [term.due(step) for term in self.terms]
        due += [term.due(step // self.generator_every) for term in self.generator_terms if learns]
        return None if None in due else (learns, *map(bool, due))


@dataclass(frozen=True, kw_only=True)
class Players:
    """The two networks and their optimisers."""

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
    Where several processes train together, the images are this process's share of the batch and the scalars
    are of that share; the gradients are averaged over all processes.
    """
    due = game.learns(step)
    fakes = draw(players.generator, game, len(real), labels, rng, learn=due and game.shared_fakes)
    seen, judged_real = discriminator_step(players, game, real, fakes.images, labels, rng, step)
    if not due:
        return seen
    if not game.shared_fakes:
        fakes = draw(players.generator, game, len(real), labels, rng, learn=True)
    return seen | generator_step(players, game, fakes, judged_real, labels, rng, step)


def draw(
    generator: Generator, game: Game, count: int, labels: Tensor | None, rng: torch.Generator, *, learn: bool
) -> Fakes:
    """`count` fakes of random latents; with `learn` they can be backpropagated through."""
    z = normal(rng, count, generator.latent_dim)
    with span("generator forward"):
        return Fakes(
            generator,
            z.to(game.dtype),
            labels,
            rng,
            parts=game.accumulate,
            learn=learn,
            again=game.make_again,
        )


def discriminator_step(
    players: Players,
    game: Game,
    real: Tensor,
    fake: Tensor,
    labels: Tensor | None,
    rng: torch.Generator,
    step: int,
) -> tuple[Metrics, list[Judgement]]:
    """One update of D: a pass over [real, fake, their further views], the adversarial loss and the terms.

    Returns detached scalars, and D's outputs for the real images, which the generator's loss needs, without a
    gradient and one judgement for each micro-batch.
    """
    discriminator, optimiser = players.discriminator, players.optimiser_discriminator
    views = augmented_views(game, torch.cat((real, fake.to(real.dtype))), rng)
    optimiser.zero_grad(set_to_none=True)
    parts, shares, judged = game.accumulate, [], []
    for part in micro_batches(rng, parts):
        own = [_part_of_halves(view, part, parts) for view in views]
        own_labels = None if labels is None else labels.chunk(parts)[part]
        passes = judged_views(discriminator, game, own, own_labels, rng, step)
        shares.append(_learn(game, passes))
        judged.append(passes[0].judged_real.detached())
    norm = _update(optimiser, "discriminator optimiser", weight(rng, len(real)))
    with span("power iteration"):
        discriminator.advance()
    if game.judge_real_again:
        judged = _judged_again(discriminator, game, views[0].chunk(2)[0], labels)
    return _summed(shares) | {"gradient_norm_discriminator": norm}, judged


@torch.no_grad()
def _judged_again(
    discriminator: Discriminator, game: Game, seen: Tensor, labels: Tensor | None
) -> list[Judgement]:
    """The updated D's outputs for the real images as it saw them, one judgement for each micro-batch."""
    parts = game.accumulate
    own_labels = [None] * parts if labels is None else labels.chunk(parts)
    views = zip(seen.chunk(parts), own_labels, strict=True)
    with span("real images again"):
        return [discriminator.judge(view.to(game.dtype), own) for view, own in views]


def _learn(game: Game, passes: list[Pass]) -> Metrics:
    """Backpropagate D's loss on one micro-batch; returns its scalars over the number of micro-batches."""
    losses = _adversarial(game.loss, passes[0].judged_real, passes[0].judged_fake)
    for term, seen in zip(game.terms, passes[1:], strict=True):
        with span(f"term {type(term).__name__}"):
            losses |= term.losses(seen)
    total = torch.stack(list(losses.values())).sum() / game.accumulate
    with span("discriminator backward"):
        total.backward()
    real, fake = (judged.logits.detach().mean() for judged in (passes[0].judged_real, passes[0].judged_fake))
    terms = {f"term_{name}": value.detach() for name, value in losses.items()}
    means = terms | {"logit_real": real, "logit_fake": fake, "logit_gap": real - fake}
    shares = {name: value / game.accumulate for name, value in means.items()}
    return {"loss_discriminator": total.detach()} | shares


def _summed(shares: list[Metrics]) -> Metrics:
    """The sum over micro-batches of each scalar, over those that have it."""
    names = dict.fromkeys(name for share in shares for name in share)
    return {name: torch.stack([s[name] for s in shares if name in s]).sum() for name in names}


def discriminator_pass(
    discriminator: Discriminator,
    game: Game,
    both: Tensor,
    labels: Tensor | None,
    rng: torch.Generator,
    step: int,
) -> list[Pass]:
    """D's forward pass over `both` = [real, fake] (2B, C, H, W), augmented, and the terms' second views.

    Returns the pass as the adversarial loss sees it, then as each term sees it.
    """
    return judged_views(discriminator, game, augmented_views(game, both, rng), labels, rng, step)


def augmented_views(game: Game, both: Tensor, rng: torch.Generator) -> list[Tensor]:
    """The images of D's pass: [real, fake] (2B, C, H, W) augmented, then the terms' second views of them."""
    makers = [maker for maker in _makers(game) if maker is not None]
    with span("augment"), of_halves(rng):
        return [game.augment(both, rng), *(make(both, rng) for make in makers)]


def judged_views(
    discriminator: Discriminator,
    game: Game,
    views: Sequence[Tensor],
    labels: Tensor | None,
    rng: torch.Generator,
    step: int,
) -> list[Pass]:
    """One forward pass of D over all `views` and the images that terms perturb.

    `views` are [real, fake] (2B, C, H, W) each: the game's own, then the second views of the terms that have
    one. Returns the pass as the adversarial loss sees it, then as each term sees it.
    """
    seen_real, seen_fake = views[0].chunk(2)
    near = [_near(term, seen_real, seen_fake, rng, step) for term in game.terms]
    images = [half for view in views for half in view.chunk(2)]
    images += [image for pair in near for image in pair if image is not None]
    repeated = None if labels is None else torch.cat([labels[: len(image)] for image in images])
    with span("discriminator forward"):
        judgement = discriminator.judge(torch.cat(images).to(game.dtype), repeated)
    parts = judgement.split([len(image) for image in images])
    judged_real, judged_fake = next(parts), next(parts)
    seconds = [(None, None) if make is None else (next(parts), next(parts)) for make in _makers(game)]
    nears = [tuple(None if image is None else next(parts) for image in pair) for pair in near]
    plain = Pass(
        discriminator=discriminator,
        step=step,
        rng=rng,
        real=seen_real,
        fake=seen_fake,
        labels=labels,
        judged_real=judged_real,
        judged_fake=judged_fake,
        dtype=game.dtype,
        strength=game.strength,
    )
    own = zip(seconds, nears, strict=True)
    return [plain] + [
        replace(plain, second_real=a, second_fake=b, near_real=c, near_fake=d) for (a, b), (c, d) in own
    ]


def _near(
    term: Term, real: Tensor, fake: Tensor, rng: torch.Generator, step: int
) -> tuple[Tensor | None, Tensor | None]:
    """The real and the fake images as `term` perturbs them in this step; None instead of either for none."""
    return (None, None) if term.due(step) is False else term.perturbed(real, fake, rng)


def generator_step(
    players: Players,
    game: Game,
    fakes: Fakes,
    judged_real: Sequence[Judgement],
    labels: Tensor | None,
    rng: torch.Generator,
    step: int,
) -> Metrics:
    """One update of G by the adversarial loss of its `fakes`, with D frozen, and by G's own terms.

    `judged_real` is D's outputs for as many real images, one judgement for each micro-batch. Returns detached
    scalars.
    """
    generator, optimiser = players.generator, players.optimiser_generator
    optimiser.zero_grad(set_to_none=True)
    loss, gradient = fooling_gradient(players.discriminator, game, fakes.images, judged_real, labels, rng)
    with span("generator backward"):
        fakes.backward(gradient)
    losses = {"loss_generator": loss}
    seen = GeneratorPass(generator, step // game.generator_every, rng, len(fakes.images), labels, game.dtype)
    for term in game.generator_terms:
        with span(f"term {type(term).__name__}"):
            own = term.losses(seen)
            for value in own.values():
                value.backward()
        losses |= {f"term_{name}": value.detach() for name, value in own.items()}
    norm = _update(optimiser, "generator optimiser", weight(rng, len(fakes.images)))
    generator.advance()
    return losses | {"gradient_norm_generator": norm}


def fooling_gradient(
    discriminator: Discriminator,
    game: Game,
    fake: Tensor,
    judged_real: Sequence[Judgement],
    labels: Tensor | None,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """G's adversarial loss on the images `fake` (B, C, H, W), augmented, and its gradient by these images."""
    fake = fake.detach().requires_grad_()
    with span("augment"):
        view = game.augment(fake, rng)
    seen = view.detach().requires_grad_()
    loss = torch.zeros((), device=fake.device)
    parts = game.accumulate
    with frozen(discriminator):
        for part in range(parts):
            own_labels = None if labels is None else labels.chunk(parts)[part]
            with span("generator's discriminator forward"):
                judged = discriminator.judge(seen.chunk(parts)[part].to(game.dtype), own_labels)
            own = _fooling(game.loss, judged_real[part], judged) / parts
            with span("generator's discriminator backward"):
                own.backward()
            loss += own.detach()
    with span("augment"):
        view.backward(seen.grad)
    assert fake.grad is not None
    return loss, fake.grad


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """A context within which no parameter of `module` gets a gradient."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _makers(game: Game) -> list[Callable[[Tensor, torch.Generator], Tensor] | None]:
    return [term.second_view(game.augment) for term in game.terms]


def _part_of_halves(view: Tensor, part: int, parts: int) -> Tensor:
    """Micro-batch `part` of `parts` of a view [real, fake] (2B, ...): that part of either half."""
    return view if parts == 1 else torch.cat([half.chunk(parts)[part] for half in view.chunk(2)])


def _adversarial(loss: AdversarialLoss, real: Judgement, fake: Judgement) -> Metrics:
    losses = {"adversarial": loss.discriminator(real.logits, fake.logits)}
    if real.pixels is not None and fake.pixels is not None:
        losses["adversarial_pixels"] = loss.discriminator(real.pixels, fake.pixels)
    return losses


def _fooling(loss: AdversarialLoss, real: Judgement, fake: Judgement) -> Tensor:
    value = loss.generator(real.logits, fake.logits)
    if real.pixels is None or fake.pixels is None:
        return value
    return value + loss.generator(real.pixels, fake.pixels)


def _update(optimiser: torch.optim.Optimizer, name: str, share: float) -> Tensor:
    """One optimiser step by the gradients averaged over all processes; returns their norm before clipping.

    `share` is the weight of this process's gradients, its share of the batch.
    """
    with span(name):
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        collectives.average_gradients_([p.grad for p in parameters if p.grad is not None], share)
        norm = clipped_norm(optimiser, parameters)
        optimiser.step()
    return norm


def clipped_norm(optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> Tensor:
    """The norm of the gradients, a scalar, which are then scaled down where the optimiser clips them."""
    given = [parameter for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in given if p.grad is not None])
    most = optimiser.param_groups[0].get("clip_norm")
    if most is not None:
        torch.nn.utils.clip_grads_with_norm_(given, most, norm)
    return norm
