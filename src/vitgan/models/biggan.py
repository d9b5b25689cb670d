"""BigGAN for small images (arXiv 1809.11096) in the CIFAR-10 variant of DiffAugment (arXiv 2006.10738).

The variant's sizes are those of DiffAugment's release. Its printed 8.70 / 9.16 (FID / IS, 10k images) are
class-conditional; without labels the same networks lose the label tables and the projection alone.
Shapes: B batch, C channels, R resolution, S side of a feature map, D width, Z latent size, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.config import MOST_SIZE, check, option
from vitgan.errors import UserError
from vitgan.models.base import Discriminator, Generator
from vitgan.nn import Convolution, Linear, SpectralNorm
from vitgan.nn.attention import PixelAttention
from vitgan.nn.linear import at_least_fp32
from vitgan.nn.norm import BatchNorm, ConditionalBatchNorm, LabelTable
from vitgan.registry import register

START = 4  # side of the generator's first feature map
FULL_WIDTH = 32  # largest side that has all D channels

Start = Literal["normal", "orthogonal"]


@register(kind="generator", name="biggan")
@dataclass(frozen=True, kw_only=True)
class BigGANGeneratorOptions:
    """Options of the generator; the defaults are the variant's."""

    width: int = option(256, least=1, most=MOST_SIZE)
    """Channels D of a feature map of 32 pixels a side or less; they halve with each doubling beyond."""
    latent_dim: int = option(128, least=1, most=MOST_SIZE)
    """Size Z of z."""
    shared_embedding: int = option(0, least=0, most=MOST_SIZE)
    """Size of one label embedding that every norm projects; 0 gives every norm a label table of its own."""
    hierarchical: bool = False
    """Split z: one part makes the first feature map, another modulates the norms of each block."""
    attention: int = option(0, least=0)
    """Side of the feature map that gets self-attention; 0 is none."""
    start: Start = "normal"
    """Weights at the start: N(0, 0.02^2) (the variant), or orthogonal (arXiv 1809.11096)."""

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> "BigGANGenerator":
        """The network; with `classes` > 0 its norms are modulated by the label.

        Raises UserError where a value is not one that the field takes, or sizes do not fit.
        """
        check(self, "generator")
        return BigGANGenerator(self, resolution=resolution, channels=channels, classes=classes)


@register(kind="discriminator", name="biggan")
@dataclass(frozen=True, kw_only=True)
class BigGANDiscriminatorOptions:
    """Options of the discriminator; the defaults are the CIFAR-10 variant's."""

    width: int = option(256, least=1, most=MOST_SIZE)
    """Channels D of a block on 32 pixels a side or less; they halve with each doubling beyond."""
    grid: int = option(8, least=1)
    """Side at which the halving of feature maps ends; two more blocks follow."""
    attention: int = option(0, least=0)
    """Side of the feature map that gets self-attention; 0 is none."""
    start: Start = "normal"
    """Weights at the start: N(0, 0.02^2) (the variant), or orthogonal (arXiv 1809.11096)."""

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> "BigGANDiscriminator":
        """The network; with `classes` > 0 its logit depends on a label (projection, arXiv 1802.05637).

        Raises UserError where a value is not one that the field takes, or sizes do not fit.
        """
        check(self, "discriminator")
        return BigGANDiscriminator(self, resolution=resolution, channels=channels, classes=classes)


class GeneratorBlock(nn.Module):
    """Residual block that doubles the side: x (B, D, S, S), condition (B, E) -> (B, D', 2S, 2S).

    norm, ReLU, doubling, 3 x 3, norm, ReLU, 3 x 3, beside a 1 x 1 convolution of x, doubled; then attention.
    Doubling repeats pixels, so the 1 x 1 convolution comes before it, at a quarter of the cost.

    Differs from the paper: the convolutions have no bias. A constant added to a channel would run along the
    skips to the last batch norm, and that one and every norm on the way would subtract it.
    """

    def __init__(
        self, channels_in: int, channels_out: int, norm: Callable[[int], nn.Module], *, attention: bool
    ) -> None:
        super().__init__()
        convolution = partial(Convolution, equalised=False, bias=False)
        self.norm_first, self.norm_second = norm(channels_in), norm(channels_out)
        self.first = convolution(channels_in, channels_out)
        self.second = convolution(channels_out, channels_out)
        self.skip = convolution(channels_in, channels_out, 1)
        self.attention = PixelAttention(channels_out) if attention else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = F.interpolate(F.relu(self.norm_first(x, condition)), scale_factor=2)  # (B, D, 2S, 2S)
        h = self.second(F.relu(self.norm_second(self.first(h), condition)))
        return self.attention(h + F.interpolate(self.skip(x), scale_factor=2))


class DiscriminatorBlock(nn.Module):
    """Residual block that may halve the side: x (B, D, S, S) -> (B, D', S, S) or (B, D', S/2, S/2).

    ReLU (not on the image), 3 x 3, ReLU, 3 x 3, mean of 2 x 2; beside it x, pooled, by a 1 x 1 convolution
    where the side or the channels change; then attention.
    """

    def __init__(
        self, channels_in: int, channels_out: int, *, halve: bool, on_image: bool, attention: bool
    ) -> None:
        super().__init__()
        convolution = partial(Convolution, equalised=False)
        self.pool = nn.AvgPool2d(2) if halve else nn.Identity()
        self.activation = nn.Identity() if on_image else nn.ReLU()
        self.first = convolution(channels_in, channels_out)
        self.second = convolution(channels_out, channels_out)
        changes = halve or channels_in != channels_out
        self.skip = convolution(channels_in, channels_out, 1) if changes else nn.Identity()
        self.attention = PixelAttention(channels_out) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(F.relu(self.first(self.activation(x))))
        return self.attention(self.pool(h) + self.skip(self.pool(x)))


class LabelledLatent(nn.Module):
    """w, the concatenation of z (B, Z) and the one-hot label (B, K) or its embedding; z alone if K is 0."""

    def __init__(self, classes: int, embedding: int) -> None:
        super().__init__()
        self.classes = classes
        self.table = LabelTable(classes, embedding, bias=False) if classes and embedding else nn.Identity()

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if not self.classes:
            return z
        assert labels is not None
        return torch.cat((z, self.table(F.one_hot(labels, self.classes).to(z.dtype))), 1)


class BigGANGenerator(Generator):
    """z (B, Z), labels (B,) or None -> images (B, C, R, R) in [-1, 1].

    Our choice: without labels the norms are plain batch norms, or modulated by their part of a hierarchical
    latent alone.

    Differs from the paper: truncation shrinks z, and the label's part of w toward the mean label, instead of
    drawing z anew; the power iteration takes a step an update, not one a pass.
    """

    def __init__(
        self, options: BigGANGeneratorOptions, *, resolution: int, channels: int, classes: int = 0
    ) -> None:
        super().__init__(
            resolution=resolution, channels=channels, classes=classes, latent_dim=options.latent_dim
        )
        self.options = options
        sides = _doublings("generator", resolution, START)
        _check_attention("generator", options.attention, sides)
        _at_least("generator.width", options.width, 1)
        _at_least("generator.shared-embedding", options.shared_embedding, 0)
        self.parts = _parts_of_latent(options, len(sides), classes)
        self.mapping = LabelledLatent(classes, options.shared_embedding)
        self.label_size = classes and (options.shared_embedding or classes)
        widths = [_width_at(options.width, side) for side in (START, *sides)]
        self.start = Linear(self.parts[0], widths[0] * START**2, equalised=False)
        self.blocks = nn.ModuleList(
            GeneratorBlock(a, b, self._norm(part), attention=side == options.attention)
            for (a, b), part, side in zip(pairwise(widths), self.parts[1:], sides, strict=True)
        )
        self.norm = BatchNorm(widths[-1])
        self.colour = Convolution(widths[-1], channels, equalised=False)
        _start(self, options.start)
        layers = [m for m in self.modules() if isinstance(m, Linear) and not isinstance(m, LabelTable)]
        self.spectral = SpectralNorm(layers, improved=False)

    def _norm(self, part: int) -> Callable[[int], nn.Module]:
        """The constructor of a block's norm, by its channels; `part` is the size of the block's part of z."""
        if self.label_size + part == 0:
            return BatchNorm
        one_hot = self.classes and not self.options.shared_embedding
        linear = LabelTable if one_hot else partial(Linear, equalised=False)
        return partial(ConditionalBatchNorm, condition_dim=self.label_size + part, linear=linear)

    def advance(self) -> None:
        """One step of the spectral norm's power iteration, to be taken once after each generator update."""
        self.spectral.advance()

    def synthesise(self, w: Tensor) -> Tensor:
        first, *parts, label = w.split([*self.parts, self.label_size], 1)
        with self.spectral.applied():
            x = self.start(first).unflatten(1, (-1, START, START))
            for block, part in zip(self.blocks, parts, strict=True):
                x = block(x, torch.cat((label, part), 1))
            return torch.tanh(self.colour(F.relu(self.norm(x))))


class BigGANDiscriminator(Discriminator):
    """images (B, C, R, R) in [-1, 1], labels (B,) or None -> logits (B, 1) in fp32.

    Residual blocks, a ReLU and the sum y (B, D) over pixels; the logit is linear in y, plus the product of y
    with the label's vector (arXiv 1802.05637).
    """

    def __init__(
        self, options: BigGANDiscriminatorOptions, *, resolution: int, channels: int, classes: int = 0
    ) -> None:
        super().__init__(resolution=resolution, channels=channels, classes=classes)
        halvings = _doublings("discriminator", resolution, options.grid)[::-1]
        sides = [*halvings, options.grid, options.grid]  # of each block's convolutions
        after = [side // 2 for side in halvings] + [options.grid] * 2
        _check_attention("discriminator", options.attention, after)
        _at_least("discriminator.width", options.width, 1)
        self.options = options
        widths = [channels, *(_width_at(options.width, side) for side in sides)]
        attending = after.index(options.attention) if options.attention else None
        self.blocks = nn.Sequential(
            *(
                DiscriminatorBlock(a, b, halve=k < len(halvings), on_image=k == 0, attention=k == attending)
                for k, (a, b) in enumerate(pairwise(widths))
            )
        )
        self.head = Linear(widths[-1], 1, equalised=False)
        self.label = self.label_projection(widths[-1], equalised=False)
        _start(self, options.start)
        self.normalise("plain")

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        with self.normalised():
            y = at_least_fp32(F.relu(self.blocks(images))).sum((2, 3))  # (B, D)
            return self.labelled(self.head(y), y, labels, self.label)


def _parts_of_latent(options: BigGANGeneratorOptions, blocks: int, classes: int) -> list[int]:
    """Sizes of the parts of z: the first feature map's, then each block's."""
    _at_least("generator.latent-dim", options.latent_dim, blocks + 1 if options.hierarchical else 1)
    if not options.hierarchical:
        return [options.latent_dim] + [0] * blocks
    if classes and not options.shared_embedding:
        raise UserError(
            "A hierarchical latent with labels needs a label embedding: "
            "set --generator.shared-embedding to its size, 128 say."
        )
    return [len(part) for part in torch.zeros(options.latent_dim).tensor_split(blocks + 1)]


def _doublings(part: str, resolution: int, start: int) -> list[int]:
    """The sides 2 start, 4 start, ... resolution."""
    if resolution < 2 * START or resolution.bit_count() != 1:
        raise UserError(
            f"A BigGAN {part} makes images of 8, 16, 32, ... pixels a side, not {resolution}: "
            "set --data.resolution to one of these."
        )
    if start not in [START << k for k in range((resolution // START).bit_length())]:
        raise UserError(f"--{part}.grid is {start}, but must be a power of two from {START} to {resolution}.")
    return [start << k for k in range(1, (resolution // start).bit_length())]


def _check_attention(part: str, side: int, sides: list[int]) -> None:
    if side and side not in sides:
        allowed = ", ".join(map(str, dict.fromkeys([0, *sides])))
        raise UserError(f"--{part}.attention is {side}, but must be one of {allowed}.")


def _at_least(field: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"--{field} is {value}, but must be {least} or more.")


def _width_at(width: int, side: int) -> int:
    """Channels at a side of `side` pixels."""
    return max(width * FULL_WIDTH // max(side, FULL_WIDTH), 1)


@torch.no_grad()
def _start(network: nn.Module, start: Start) -> None:
    """Draw the weight matrices of `network` anew; biases stay."""
    for module in network.modules():
        if isinstance(module, Linear) and start == "orthogonal":
            nn.init.orthogonal_(module.weight)
        elif isinstance(module, Linear):
            nn.init.normal_(module.weight, std=0.02)
