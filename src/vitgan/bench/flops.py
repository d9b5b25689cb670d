"""What a training step costs: parameters, and floating-point operations by two independent counts.

From the shapes, without a step being taken, for the ViTGAN networks: what the method asks for, and what the
step here performs. And by torch's counter, which takes a few steps of any system. A multiplication and an
addition are two operations. Matrix products and convolutions alone are counted, attention as its two plain
products; elementwise work, norms, augmentation and the optimisers are not.
Shapes: C channels, R resolution, P patch, o overlap, L = R^2 / P^2 patches, D width, Z latent size.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitgan.adversarial import BCR
from vitgan.data import Batch, ImageSet
from vitgan.engine.gan import GANTask, Recipe
from vitgan.models import VisionTransformerOptions, ViTGANGeneratorOptions, from_uint8

BACKWARD = 2  # products for each forward one: the gradient of either factor


# --- By torch's counter


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one system costs: the parameters of its networks, and the FLOPs of its training step."""

    parameters_generator: int
    parameters_discriminator: int
    flops_per_image: float
    """FLOPs of a whole training step, both updates and all terms, over its batch; where a term or G's update
    comes at intervals, the mean over them."""


def cost(recipe: Recipe, images: ImageSet, device: torch.device) -> Cost:
    """The cost of `recipe`, counted on fresh networks that take a few steps on the set's first images."""
    task = GANTask(recipe, images, device)
    indices = torch.arange(recipe.training.batch) % len(images)
    real = from_uint8(images.get(indices.tolist()).to(device))
    labels = None if images.labels is None else images.labels[indices].to(device)
    players = task.state.players
    return Cost(
        parameters_generator=_parameters(players.generator),
        parameters_discriminator=_parameters(players.discriminator),
        flops_per_image=flops_per_image(task, Batch(real, labels)),
    )


def flops_per_image(task: GANTask, batch: Batch) -> float:
    """FLOPs that torch counts in a training step, divided by the images of its batch.

    Attention is counted as its plain products: the same number on every device, without what fused kernels
    compute twice. What is random in a step, style mixing for one, is counted as it falls.
    """
    return sum(count_step(task, batch, step) * share for step, share in _kinds(task)) / len(batch.images)


def count_step(task: GANTask, batch: Batch, step: int) -> int:
    """FLOPs of step number `step`, counted from 0; the task takes that step."""
    with counting() as counter:
        task.step(batch, step * task.recipe.training.batch)
    return counter.get_total_flops()


class NoModuleTracker:
    """Stands in for the counter's tracker of modules, whose hooks fail on some calls without gradients."""

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """A context within which torch counts FLOPs, attention's as those of its plain products."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModuleTracker()  # type: ignore[assignment]
    with counter, sdpa_kernel(SDPBackend.MATH):
        yield counter


def _kinds(task: GANTask) -> list[tuple[int, float]]:
    """The first step of every kind, and the share of the steps that are of its kind.

    Steps are of one kind where the same terms and updates are due in them: a term is due at the first or at
    the last step of its interval.
    """
    game = task.game
    every = [game.generator_every]
    every += [getattr(term, "every", 1) for term in (*game.terms, *game.generator_terms)]
    period = math.lcm(*every)
    kinds = [tuple((step % n == 0, step % n == n - 1) for n in every) for step in range(period)]
    return [(kinds.index(kind), count / period) for kind, count in Counter(kinds).items()]


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- From the shapes


@dataclass(frozen=True, kw_only=True)
class Forward:
    """FLOPs of one image's forward pass through a network."""

    linear: float
    """FLOPs of the products with weights."""
    attention: float
    """FLOPs of the products Q K^T and of the attention's weights with V."""
    entry: float
    """The part of `linear` of those products whose input needs no gradient in the network's own update."""
    once: float = 0.0
    """FLOPs beside these that come once in a pass over any number of images: Fourier features, or one product
    with every weight that is spectrally normalised."""

    @property
    def whole(self) -> float:
        """FLOPs of one image, linear maps and attention together."""
        return self.linear + self.attention


@dataclass(frozen=True, kw_only=True)
class StepFlops:
    """FLOPs of a training step, divided by the images of its batch."""

    method: float | None
    """FLOPs that the method asks for; None where the networks or the terms are not ViTGAN's."""
    performed: float
    """FLOPs that this library's step does."""
    by: str
    """How `performed` was found: "shapes", or "counter" for torch's."""


def countable(recipe: Recipe) -> bool:
    """Whether the arithmetic here covers the recipe: ViTGAN's networks, no term but bCR, no checkpointing."""
    generator, discriminator = recipe.generator, recipe.discriminator
    return (
        isinstance(generator, ViTGANGeneratorOptions)
        and generator.output != "conv"
        and isinstance(discriminator, VisionTransformerOptions)
        and all(isinstance(term, BCR) for term in recipe.terms if term.active)
        and not any(term.active for term in recipe.generator_terms)
        and not getattr(recipe.training, "activation_checkpointing", False)
    )


def step_flops(recipe: Recipe, classes: int = 0, *, count: Callable[[], float] | None = None) -> StepFlops:
    """FLOPs of the step, from the shapes where they suffice, else by calling `count`, which gives FLOPs an
    image."""
    if countable(recipe):
        return StepFlops(
            method=method_flops(recipe, classes), performed=performed_flops(recipe, classes), by="shapes"
        )
    assert count is not None
    return StepFlops(method=None, performed=count(), by="counter")


def method_flops(recipe: Recipe, classes: int = 0) -> float:
    """FLOPs an image that the method asks for: every token in every block, each player's fakes its own.

    G forward for D's update, and forward and backward for its own; D forward and backward over the real and
    the fake image and each term's second view of both; D forward, and backward to the image alone, for G's.
    """
    generator, discriminator = generator_forward(recipe, classes), discriminator_forward(recipe, classes)
    update_d = generator.whole + (1 + BACKWARD) * discriminator.whole * 2 * _views(recipe)
    return update_d + _update_g(recipe, (1 + BACKWARD) * generator.whole, discriminator)


def performed_flops(recipe: Recipe, classes: int = 0) -> float:
    """FLOPs an image that the step here performs.

    One forward of G serves both updates unless the recipe says otherwise; the last block of D computes the
    class token alone; no gradient of z or of the images is taken that nobody asks for. Spectral norm has two
    products with every weight in its power iteration and an outer one in each backward pass, shared by the
    batch. A fused attention's own recomputing is left out.
    """
    training, parts = recipe.training, recipe.training.accumulate or 1
    generator = generator_forward(recipe, classes)
    discriminator = discriminator_forward(recipe, classes, class_token_alone=True)
    own = (1 + BACKWARD) * generator.whole - generator.entry
    if parts > 1:  # the fakes are made again, a part at a time
        own += generator.whole
    if training.shared_fakes:
        own -= generator.whole  # of the forward of D's update
    own += 2 * generator.once * parts / training.batch  # forward, and the weight's gradient
    update_d = generator.whole
    update_d += ((1 + BACKWARD) * discriminator.whole - discriminator.entry) * 2 * _views(recipe)
    update_d += (2 + parts) * discriminator.once / training.batch
    return update_d + _update_g(recipe, own, discriminator)


def _update_g(recipe: Recipe, own: float, discriminator: Forward) -> float:
    """FLOPs an image of G's update: `own` of the generator, and D forward and back to the image: both factors
    of attention, no weights."""
    through = 2 * discriminator.linear + (1 + BACKWARD) * discriminator.attention
    return (own + through) / recipe.training.generator_every


def _views(recipe: Recipe) -> int:
    return 1 + sum(term.active for term in recipe.terms)


def generator_forward(recipe: Recipe, classes: int = 0) -> Forward:
    """FLOPs of a forward pass of ViTGAN's generator, an image."""
    options = recipe.generator
    assert isinstance(options, ViTGANGeneratorOptions)
    width, latent = options.width, options.latent_dim * (2 if classes else 1)
    patches = (recipe.data.resolution // options.patch) ** 2
    tokens = patches + (options.entry == "B")
    first = product(1, latent, width)
    mapping = first + (options.mapping_depth - 1) * product(1, width, width)
    modulation = (2 * options.depth + 1) * 2 * product(1, width, width) if options.entry == "C" else 0
    blocks = options.depth * _block(tokens, width, options.perceptron_width, maps=4)
    output, once = _output(options, patches, recipe.data.channels)
    return Forward(
        linear=mapping + modulation + blocks + output,
        attention=options.depth * 2 * product(tokens, width, tokens),
        entry=0 if classes else first,
        once=once,
    )


def discriminator_forward(recipe: Recipe, classes: int = 0, *, class_token_alone: bool = False) -> Forward:
    """FLOPs of a forward pass of ViTGAN's discriminator, an image; `class_token_alone` leaves the other
    tokens out of the last block."""
    options = recipe.discriminator
    assert isinstance(options, VisionTransformerOptions)
    width, hidden = options.width, options.perceptron_width
    patches = (recipe.data.resolution // options.patch) ** 2
    overlap = options.patch // 2 if options.overlap is None else options.overlap
    embedding = product(patches, recipe.data.channels * (options.patch + 2 * overlap) ** 2, width)
    tokens, maps = patches + 1, 4 if options.attention == "dot-product" else 3
    blocks = options.depth * _block(tokens, width, hidden, maps=maps)
    attention = options.depth * 2 * product(tokens, width, tokens)
    if class_token_alone:  # of the others the last block needs keys and values alone
        blocks -= _block(tokens - 1, width, hidden, maps=maps) - 2 * product(tokens - 1, width, width)
        attention -= 2 * product(tokens - 1, width, tokens)
    head = product(1, width, width) * (options.head == "tanh") + product(1, width, 1)
    label = product(1, classes, width)
    weights = embedding / patches + options.depth * _block(1, width, hidden, maps=maps) + head + label
    return Forward(
        linear=embedding + blocks + head + label,
        attention=attention,
        entry=embedding + label,
        once=0.0 if options.spectral_norm == "none" else weights,
    )


def _block(tokens: int, width: int, hidden: int, *, maps: int) -> float:
    """FLOPs of the linear maps of a block: `maps` of the attention, and the MLP."""
    return maps * product(tokens, width, width) + 2 * product(tokens, width, hidden)


def _output(options: ViTGANGeneratorOptions, patches: int, channels: int) -> tuple[float, float]:
    """FLOPs from tokens to pixels: those of an image, and those of the Fourier features, alike for all
    images."""
    width, pixels = options.width, options.patch**2
    if options.output == "linear":
        return product(patches, width, channels * pixels), 0.0
    hidden, points = options.implicit_width or width, patches * pixels
    joined = 2 * width if options.implicit_combine == "concatenation" else width
    flops = product(points, joined, hidden) + product(points, hidden, channels)
    if options.implicit_combine == "modulation":
        flops += product(patches, width, width) + product(patches, width, hidden)
        if options.implicit_demodulate:
            flops += product(patches, width, hidden) + product(patches, hidden, channels)
    return flops, product(pixels, 2, width)


def product(rows: int, inner: int, columns: int) -> float:
    """FLOPs of a matrix product, (rows, inner) times (inner, columns)."""
    return 2.0 * rows * inner * columns
