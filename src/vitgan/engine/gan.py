"""The game as a run's task: two players, the average of one, and what is drawn of it."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vitgan import registry
from vitgan.adversarial import (
    AdversarialLoss,
    Augmentation,
    DiffAugment,
    Game,
    GeneratorTerm,
    Logistic,
    Players,
    Term,
)
from vitgan.config import MissingPart, check, check_kinds, option, part
from vitgan.data import Batch, DataOptions, ImageSet
from vitgan.distributed import collectives
from vitgan.distributed.rng import PartGenerator
from vitgan.engine.compile import GraphedStep, compile_blocks
from vitgan.engine.grid import grid
from vitgan.engine.optim import AdamOptions, BurnInOptions, EMAOptions, power_decay, power_of, update_average
from vitgan.engine.recipe import EvaluationOptions, RunRecipe, TrainingOptions, activation_dtype
from vitgan.engine.task import NamedState, Task, below
from vitgan.errors import UserError
from vitgan.models import Discriminator, Generator, to_uint8
from vitgan.models.base import DiscriminatorOptions, GeneratorOptions
from vitgan.spans import span


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """The weights that a new run begins with, where they are not random."""

    source: str | None = None
    """A run, a checkpoint, an exported generator, `mnist`, `digits` or an id of the Hub, whose networks and
    averages a new run begins with as far as their shapes fit; None begins with random weights."""
    freeze: int = option(0, least=0)
    """The discriminator's first so many layers, its stem and then its blocks, keep the weights that they
    begin with (arXiv 2002.10964)."""


@dataclass(frozen=True, kw_only=True)
class Recipe(RunRecipe):
    """A GAN's run. `dataclasses.replace` makes an ablation of it."""

    name: str
    data: DataOptions
    generator: GeneratorOptions = part("generator")
    discriminator: DiscriminatorOptions = part("discriminator")
    loss: AdversarialLoss = part("loss", factory=Logistic)
    augment: Augmentation = part("augment", factory=DiffAugment)
    terms: tuple[Term, ...] = part("term", ())
    """Addends of the discriminator's loss."""
    generator_terms: tuple[GeneratorTerm, ...] = part("term", ())
    """Addends of the generator's loss."""
    optimiser_generator: AdamOptions = field(default_factory=AdamOptions)
    optimiser_discriminator: AdamOptions = field(default_factory=AdamOptions)
    start: StartOptions = field(default_factory=StartOptions)
    burn_in: BurnInOptions = field(default_factory=BurnInOptions)
    ema: EMAOptions = field(default_factory=EMAOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)

    @property
    def image_by_image(self) -> bool:
        """Whether nothing in a step mixes images of a batch, as a batch norm or a contrastive loss does."""
        parts = (self.generator, self.discriminator, *(term for term in self.terms if term.active))
        mixing = any(not getattr(part, "image_by_image", False) for part in parts)
        return not mixing and not any(term.active for term in self.generator_terms)

    def parts(self, device: torch.device, ranks: int) -> int:
        """How many parts one of `ranks` processes computes its share of a batch in."""
        options = self.training
        if options.accumulate is not None:
            return -(-options.accumulate // ranks)
        exact = device.type == "cpu" and activation_dtype(options.precision, device) == torch.float32
        halves = exact and ranks == 1 and self.image_by_image and options.batch % 2 == 0
        return 2 if halves else 1

    def __post_init__(self) -> None:
        check_kinds(self, "recipe")
        for term in (*self.terms, *self.generator_terms):
            if not isinstance(term, MissingPart):
                if registry.of(type(term)) is not None:
                    check(term, "terms")
                term.check(self.augment)

    def begin(self, images: ImageSet, device: torch.device) -> tuple[Task, ImageSet]:
        """The game at image 0, and the images that its batches are drawn from: all of them."""
        return GANTask(self, images, device), images


@dataclass
class State(NamedState):
    """Players and the averaged generator."""

    players: Players
    average: Generator
    others: dict[str, Generator] = field(default_factory=dict)
    """Averages of other lengths, by `average_name`."""

    def _modules(self) -> dict[str, nn.Module]:
        players = self.players
        return {
            "generator": players.generator,
            "discriminator": players.discriminator,
            "average": self.average,
            **self.others,
        }

    def _optimisers(self) -> dict[str, tuple[nn.Module, torch.optim.Optimizer]]:
        players = self.players
        return {
            "optimiser_generator": (players.generator, players.optimiser_generator),
            "optimiser_discriminator": (players.discriminator, players.optimiser_discriminator),
        }


def build_state(recipe: Recipe, images: ImageSet | None, device: torch.device) -> State:
    """A run at image 0: weights drawn from the recipe's seed alone, the same on every device."""
    generator, discriminator = build_networks(recipe, images)
    generator, discriminator = generator.to(device), discriminator.to(device)
    if recipe.training.activation_checkpointing:
        _checkpoint_activations(generator, discriminator)
    for layer in layers(discriminator)[: recipe.start.freeze]:
        layer.requires_grad_(False)
    players = Players(
        generator=generator,
        discriminator=discriminator,
        optimiser_generator=recipe.optimiser_generator.build(generator.parameters()),
        optimiser_discriminator=recipe.optimiser_discriminator.build(discriminator.parameters()),
    )
    average = copy.deepcopy(generator).eval().requires_grad_(False)
    others = {average_name(length): copy.deepcopy(average) for length in recipe.ema.lengths}
    return State(players, average, others)


def layers(network: nn.Module) -> list[nn.Module]:
    """The network's layers that have weights in order, each block one: its stem, its blocks, its head."""
    found: list[nn.Module] = []
    for child in network.children():
        inner = isinstance(child, nn.ModuleList | nn.Sequential)
        found += layers(child) if inner else [child]
    return [layer for layer in found if next(layer.parameters(), None) is not None]


SPECTRAL = "spectral."  # buffers of spectral norm, which has one for all weights of a shape
POWER_STEPS = 20  # after which the norms of weights that were taken are known again
MOST_NAMED = 4  # weights that begin anew, in a line of the start


def fitted(own: dict[str, Tensor], found: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a network's state, `own`, with those of `found` in their place where they fit.

    Positions of a grid of another side are interpolated. Returns the state, and the names that keep their own
    tensor: those that `found` lacks or has in another shape, and with one of spectral norm's all of them.
    """
    state = {name: _resized(found[name], like) for name, like in own.items() if name in found}
    left = [name for name, like in own.items() if name not in state or state[name].shape != like.shape]
    if any(name.startswith(SPECTRAL) for name in left):
        left = [name for name in own if name in left or name.startswith(SPECTRAL)]
    return {name: tensor if name in left else state[name] for name, tensor in own.items()}, left


def _resized(positions: Tensor, like: Tensor) -> Tensor:
    """Learned positions (1, k + S^2, D) at the number of tokens of `like`, k of which are of no grid.

    Any other tensor is returned as it is.
    """
    if positions.ndim != 3 or len(positions) != 1 or positions.shape[2] != like.shape[-1] or like.ndim != 3:
        return positions
    tokens, wanted = positions.shape[1], like.shape[1]
    for others in (0, 1):
        side, new = math.isqrt(tokens - others), math.isqrt(wanted - others)
        if tokens != wanted and side**2 == tokens - others and new**2 == wanted - others:
            grid = positions[:, others:].mT.unflatten(2, (side, side))
            grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
            return torch.cat((positions[:, :others], grid.flatten(2).mT), 1)
    return positions


def average_name(length: float | None) -> str:
    """How a checkpoint calls the tensors of an average: one of `ema.lengths`, or None for the usual one."""
    return "average" if length is None else f"average_{float(length):g}"


def _checkpoint_activations(*networks: Generator | Discriminator) -> None:
    for network in networks:
        if not network.can_recompute:
            raise UserError(
                f"{type(network).__name__} has no activation checkpointing: leave "
                "--training.activation-checkpointing out, or set --training.accumulate to use less memory."
            )
        network.activation_checkpointing = True


def build_networks(recipe: Recipe, images: ImageSet | None) -> tuple[Generator, Discriminator]:
    """Generator and discriminator on the CPU, drawn from the seed; `images` gives the number of classes."""
    data = recipe.data
    classes = len(images.classes) if data.labels and images is not None else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        generator = recipe.generator.build(
            resolution=data.resolution, channels=data.channels, classes=classes
        )
        discriminator = recipe.discriminator.build(
            resolution=data.resolution, channels=data.channels, classes=classes
        )
    return generator, discriminator


def step_generator(seed: int, images_seen: int, device: torch.device, batch: int = 0) -> torch.Generator:
    """The random numbers of one step, a function of (seed, images seen): nothing to save or restore.

    Each process gives the numbers of its part of the `batch` images, so how many there are changes none.
    """
    number = int(np.random.SeedSequence((seed, 0, images_seen)).generate_state(1, np.uint64)[0])
    generator = PartGenerator(device)
    generator.manual_seed(number & (2**63 - 1))
    generator.rank, generator.ranks, generator.batch = collectives.rank(), collectives.world_size(), batch
    return generator


class GANTask:
    """A generator against a discriminator."""

    def __init__(self, recipe: Recipe, images: ImageSet | None, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.state = build_state(recipe, images, device)
        self.generator = self.state.average
        options, players = recipe.training, self.state.players
        self.networks = {"generator": players.generator, "discriminator": players.discriminator}
        self.note = compile_blocks(options.compile, device, players.generator, players.discriminator)
        self._strength = torch.ones((), device=device)
        self.game = Game(
            loss=recipe.loss,
            augment=recipe.augment,
            terms=tuple(term for term in recipe.terms if term.active),
            generator_terms=tuple(term for term in recipe.generator_terms if term.active),
            generator_every=options.generator_every,
            judge_real_again=options.judge_real_again,
            shared_fakes=options.shared_fakes,
            accumulate=recipe.parts(device, collectives.world_size()),
            make_again=options.accumulate is not None and options.accumulate > collectives.world_size(),
            dtype=activation_dtype(options.precision, device),
            strength=self._strength,
        )
        graph = options.compile != "off" and not options.activation_checkpointing
        if recipe.burn_in.beta2 is not None:
            graph = False  # a graph would keep the beta2 with which it was captured
        self._train_step = GraphedStep(players, self.game, allowed=graph)
        count = options.sample_count
        self.labels = None
        if self.generator.classes and images is not None:
            self.generator.class_names = images.classes
            self.generator.class_counts = tuple(images.class_counts.get(name, 0) for name in images.classes)
            drawn = self.generator.trained_classes()
            self.labels = drawn[torch.arange(count) % len(drawn)].to(device)
        self.latents = self.generator.latents(count, seed=options.seed).to(device)

    def step(
        self, batch: Batch, images_seen: int, seed: int | None = None
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Both players' update, and the average's."""
        recipe, players, size = self.recipe, self.state.players, self.recipe.training.batch
        burn_in, rates = recipe.burn_in, {}
        for name, options, optimiser in (
            ("generator", recipe.optimiser_generator, players.optimiser_generator),
            ("discriminator", recipe.optimiser_discriminator, players.optimiser_discriminator),
        ):
            factor = burn_in.factor(burn_in.rate, images_seen)
            rates[f"learning_rate_{name}"] = options.set_rate(optimiser, images_seen, size, factor)
            burn_in.set_beta2(optimiser, options.beta2, images_seen)
        self._strength.fill_(burn_in.factor(burn_in.gamma, images_seen))
        seed = recipe.training.seed if seed is None else seed
        rng = step_generator(seed, images_seen, self.device, size)
        values = self._train_step(batch.images, batch.labels, rng, images_seen // size)
        with span("moving average"):
            seen = images_seen + size
            update_average(self.generator, players.generator, recipe.ema.decay(size, seen))
            for length, average in zip(recipe.ema.lengths, self.state.others.values(), strict=True):
                decay = power_decay(power_of(length), size, seen)
                update_average(average, players.generator, decay)
        return values, rates

    def start_from(self, tensors: dict[str, Tensor], source: str) -> list[str]:
        """Begin with the networks of another run's `tensors`; returns lines that say what was taken.

        An export has its averaged generator alone, which then begins the generator too. The optimisers'
        moments begin anew. Raises UserError where nothing fits.
        """
        lines, taken = [], 0
        for name, module in self.state._modules().items():
            found = below(tensors, name) or below(tensors, "average" if name != "discriminator" else name)
            state, left = fitted(module.state_dict(), found)
            module.load_state_dict(state)
            if any(missing.startswith(SPECTRAL) for missing in left):
                for _ in range(POWER_STEPS):
                    module.advance()  # type: ignore[operator]
            count = len(state) - len(left)
            taken += count
            kept = f", anew: {', '.join(left[:MOST_NAMED])}" if left and count else ""
            more = f" and {len(left) - MOST_NAMED} more" if kept and len(left) > MOST_NAMED else ""
            lines.append(f"From {source}: {name}, {count} of {len(state)} tensors{kept}{more}.")
        if not taken:
            raise UserError(f"No weight of {source} fits this recipe: name a run of the same networks.")
        return lines

    def tensors(self) -> dict[str, Tensor]:
        """Of the state: both players, the average, the optimisers' moments."""
        return self.state.tensors()

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.state.load(tensors)
        self._train_step.forget()

    @torch.no_grad()
    def picture(self) -> Image.Image:
        """A grid of the fixed latents by the averaged generator."""
        return grid(to_uint8(self.generator(self.latents, self.labels)))

    def facts(self) -> dict[str, Any]:
        """The number of classes and, where there are some, their names and numbers of training images."""
        generator, found = self.generator, {"classes": self.generator.classes}
        if not generator.class_names:
            return found
        names, counts = list(generator.class_names), list(generator.class_counts)
        return {**found, "class_names": names, "class_counts": counts}
