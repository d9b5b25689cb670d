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
    """Images G(z) of z (B, Z) with labels (B,) or None, made in `parts` parts.

    With `learn` the activations are kept until `backward`: one forward serves the updates of both players.
    With `again` they are not, and the images are made again, a part at a time, with the same random numbers.

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
        """Add what the gradient (B, C, H, W) of the images means for the generator's parameters to theirs."""
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
    """The rules: the same in every step."""

    loss: AdversarialLoss
    augment: Augmentation
    terms: tuple[Term, ...]
    generator_terms: tuple[GeneratorTerm, ...] = ()
    generator_every: int = 1
    """Discriminator updates for each generator update."""
    shared_fakes: bool = True
    """The generator learns from the fakes of the discriminator's update: one forward pass for both."""
    judge_real_again: bool = False
    """The real images' logits in the generator's loss are the updated discriminator's, at one more pass."""
    accumulate: int = 1
    """Parts of a batch that pass the networks one after the other; must divide it."""
    make_again: bool = False
    """Make the fakes again for the generator's update: less memory, one more forward pass."""
    dtype: torch.dtype = torch.float32
    """Of the activations; weights, losses and penalties stay in fp32."""

    def learns(self, step: int) -> bool:
        """Whether the generator is updated in the step of that number."""
        return (step + 1) % self.generator_every == 0

    def kind(self, step: int) -> tuple[bool, ...] | None:
        """Steps of one kind do the same work; None where only the step itself can tell what it does."""
        learns = self.learns(step)
        due = [term.due(step) for term in self.terms]
        due += [term.due(step // self.generator_every) for term in self.generator_terms if learns]
        return None if None in due else (learns, *map(bool, due))


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
    Where several processes train together, the images are this one's part of the batch, and so are the
    numbers; the gradients are the mean of all.
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
    """`count` fakes; with `learn` their gradient will be asked for."""
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
    """One pass over [real, fake, their other views]; adversarial loss and terms; one update of D.

    Returns the numbers, and what D says of the real images for the generator's loss, a judgement for each
    part of the batch and without a gradient.
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
    """What the updated D says of the real images as it saw them, in the parts of the batch."""
    parts = game.accumulate
    own_labels = [None] * parts if labels is None else labels.chunk(parts)
    views = zip(seen.chunk(parts), own_labels, strict=True)
    with span("real images again"):
        return [discriminator.judge(view.to(game.dtype), own) for view, own in views]


def _learn(game: Game, passes: list[Pass]) -> Metrics:
    """The gradient of D's loss in one part of a batch; returns the part's share of the batch's numbers."""
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
    """The sum of the parts' shares of each number; one that only some parts have is summed over those."""
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
    """D's one pass over `both` = [real, fake], augmented, and each term's second view of them.

    Returns what the adversarial loss sees, then what each term sees.
    """
    return judged_views(discriminator, game, augmented_views(game, both, rng), labels, rng, step)


def augmented_views(game: Game, both: Tensor, rng: torch.Generator) -> list[Tensor]:
    """The images of D's pass: [real, fake] (2B, C, H, W) augmented, then each term's view of them."""
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
    """One pass over all `views` and what terms perturb; gives what the loss sees, then what each term sees.

    `views` are (2B, C, H, W) each, [real, fake]: the game's own, then the second views of the terms that have
    one.
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
    )
    own = zip(seconds, nears, strict=True)
    return [plain] + [
        replace(plain, second_real=a, second_fake=b, near_real=c, near_fake=d) for (a, b), (c, d) in own
    ]


def _near(
    term: Term, real: Tensor, fake: Tensor, rng: torch.Generator, step: int
) -> tuple[Tensor | None, Tensor | None]:
    """What a term perturbs in this step, near real and near fake images."""
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
    """One update of G, by the gradient of its `fakes` in the frozen D and by its own terms.

    `judged_real` is what D says of as many real images, a judgement for each part of the batch.
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
    """G's adversarial loss on the images `fake` (B, C, H, W), augmented, and its gradient there."""
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
    """Within it no parameter of `module` gets a gradient."""
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
    """Part `part` of `parts` of [real, fake] (2B, ...): that part of both."""
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
    """One optimiser step by the mean of all processes' gradients; returns its norm.

    `share` is this process's of the batch.
    """
    with span(name):
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        collectives.average_gradients_(gradients, share)
        norm = torch.nn.utils.get_total_norm(gradients)
        optimiser.step()
    return norm
