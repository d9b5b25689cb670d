"""The modern ViTGAN: a generator and a discriminator whose blocks are of 2023 to 2025 (docs/decisions.md).

Shapes: B batch, C channels, R x R image, P patch, S x S grid of tokens (S = R / P), L = S^2, D width of a
token, Z latent size, E width of w.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.config import check
from vitgan.errors import UserError
from vitgan.models.base import Discriminator, Generator
from vitgan.nn import ImplicitOutput, Linear, LinearOutput, recomputed
from vitgan.nn.linear import at_least_fp32
from vitgan.nn.modern import (
    SLOPE,
    Activation,
    FeedForward,
    ModulatedBlock,
    RMSNorm,
    RotaryAttention,
    ScaledBlock,
    modulated,
    rms_norm,
)
from vitgan.nn.stems import ConvolutionalHead, ConvolutionalStem, MergeTokens, PatchStem, SplitTokens
from vitgan.registry import register

Output = Literal["convolutional", "linear", "implicit"]


@register(kind="generator", name="modern")
@dataclass(frozen=True, kw_only=True)
class ModernGeneratorOptions:
    """Options of the modern generator; the recipes `mnist` and `cifar10-modern` name their own sizes."""

    patch: int = 4
    """Side P of a patch of the finest grid, pixels."""
    widths: tuple[int, ...] = (128,)
    """Size of a token on each grid, coarsest first; each grid has twice the side of the one before."""
    depths: tuple[int, ...] = (3,)
    """Blocks on each grid."""
    head_width: int = 32
    """Features of an attention head; must divide every width."""
    perceptron_ratio: float = 2.0
    """Hidden size of a feed-forward block, in widths."""
    activation: Activation = "leaky-relu"
    """Of the feed-forward blocks."""
    depthwise: bool = False
    """Mix neighbours within the feed-forward blocks."""
    normalised: bool = False
    """Normalise queries and keys."""
    rotary: bool = False
    """Axial rotary positions, beside the learned ones."""
    gated: bool = True
    """Gates on the blocks' branches from w, beside scale and shift."""
    modulation_gain: float = 0.3
    """Standard deviation of scales, shifts and gates at the start, for w of unit variance."""
    output: Output = "convolutional"
    """From tokens to pixels."""
    output_width: int = 64
    """Channels of the convolutional output, hidden features of the implicit one."""
    outputs: int = 1
    """The last so many blocks on the finest grid each have an output of their own; their sum is the image."""
    latent_dim: int = 128
    """Size of z."""
    latent_width: int = 128
    """Size E of w."""
    mapping_depth: int = 2
    """Layers of the mapping network z -> w."""
    equalised: bool = False
    """Equalised learning rate."""

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> "ModernGenerator":
        """The network; with `classes` > 0 an embedding of the label is joined to the latent.

        Raises UserError where a value is not one that the field takes, or sizes do not fit.
        """
        check(self, "generator")
        return ModernGenerator(self, resolution=resolution, channels=channels, classes=classes)


@register(kind="discriminator", name="modern")
@dataclass(frozen=True, kw_only=True)
class ModernDiscriminatorOptions:
    """Options of the modern discriminator; the recipes `mnist` and `cifar10-modern` name their own sizes."""

    stem: Literal["convolutional", "patches"] = "convolutional"
    """Strided convolutions, or overlapping windows of pixels through one linear map."""
    stem_widths: tuple[int, ...] = (64, 128, 192)
    """Channels of the convolutional stem; each convolution halves the side."""
    patch: int = 4
    """Distance of two windows of the stem of patches, which are twice as wide; pixels."""
    widths: tuple[int, ...] = (192,)
    """Size of a token on each grid, finest first; between two grids tokens are merged."""
    depths: tuple[int, ...] = (3,)
    """Blocks on each grid."""
    head_width: int = 32
    """Features of an attention head; must divide every width."""
    perceptron_ratio: float = 2.0
    """Hidden size of a feed-forward block, in widths."""
    activation: Activation = "leaky-relu"
    """Of the feed-forward blocks."""
    depthwise: bool = False
    """Mix neighbours within the feed-forward blocks."""
    normalised: bool = False
    """Normalise queries and keys."""
    rotary: bool = False
    """Axial rotary positions, beside the learned ones."""
    layer_scale: float | None = None
    """Start of the learned scale of every branch; None has none, and branches that start smaller."""
    head_depth: int = 1
    """Hidden layers of the head on the mean token."""
    equalised: bool = False
    """Equalised learning rate."""

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> "ModernDiscriminator":
        """The network; with `classes` > 0 its logit depends on a label (projection, arXiv 1802.05637).

        Raises UserError where a value is not one that the field takes, or sizes do not fit.
        """
        check(self, "discriminator")
        return ModernDiscriminator(self, resolution=resolution, channels=channels, classes=classes)


class Mapping(nn.Module):
    """w = MLP(z) behind a pixel norm of z and of the label's embedding: (B, Z), (B,) or None -> (B, E)."""

    def __init__(
        self, latent_dim: int, width: int, depth: int, classes: int, linear: Callable[..., Linear]
    ) -> None:
        super().__init__()
        self.label = nn.Embedding(classes, latent_dim) if classes else None
        sizes = [latent_dim * (2 if classes else 1), *[width] * depth]
        self.layers = nn.ModuleList(linear(a, b, gain=math.sqrt(2)) for a, b in pairwise(sizes))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        w = rms_norm(z)
        if self.label is not None:
            assert labels is not None
            w = torch.cat((w, rms_norm(self.label(labels).to(z.dtype))), -1)
        for layer in self.layers:
            w = F.leaky_relu(layer(w), SLOPE)
        return w


class ModernGenerator(Generator):
    """z (B, Z), labels (B,) or None -> images (B, C, R, R) in [-1, 1].

    w spreads to all tokens of the coarsest grid by a linear map, beside their learned positions, and
    modulates every block; between two grids each token splits into 2 x 2. The output has no norm but the
    modulated one before it, and a tanh behind it.
    """

    can_recompute = True

    def __init__(
        self, options: ModernGeneratorOptions, *, resolution: int, channels: int, classes: int = 0
    ) -> None:
        super().__init__(
            resolution=resolution, channels=channels, classes=classes, latent_dim=options.latent_dim
        )
        self.options = options
        sides, linear = generator_sides(options, resolution), partial(Linear, equalised=options.equalised)
        latent, widths = options.latent_width, options.widths
        self.mapping = Mapping(options.latent_dim, latent, options.mapping_depth, classes, linear)
        self.spread = linear(latent, sides[0] ** 2 * widths[0])
        self.positions = _positions(sides, widths, 1.0)
        self.stages = nn.ModuleList(
            nn.ModuleList(_modulated_block(options, side, width, linear) for _ in range(depth))
            for side, width, depth in zip(sides, widths, options.depths, strict=True)
        )
        self.splits = nn.ModuleList(SplitTokens(a, b, linear) for a, b in pairwise(widths))
        self.heads = nn.ModuleList(ModulatedHead(options, channels, linear) for _ in range(options.outputs))

    def synthesise(self, w: Tensor) -> Tensor:
        """w (B, E) -> images (B, C, R, R)."""
        return self._images(w, 1)

    def render(self, w: Tensor, scale: int) -> Tensor:
        """w (B, E) -> images (B, C, scale R, scale R): every patch's function at finer coordinates."""
        return self._images(w, scale) if self.options.output == "implicit" else super().render(w, scale)

    def modulations(self) -> list[Tensor]:
        """The weights of every modulation, a part for scale, shift or gate each."""
        modules = [part for part in self.modules() if isinstance(part, ModulatedBlock | ModulatedHead)]
        weights = [(part.modulation.effective_weight(), part.parts) for part in modules]
        return [own for weight, parts in weights for own in weight.chunk(parts)]

    def _images(self, w: Tensor, scale: int) -> Tensor:
        h, images = self._spread(w), torch.zeros((), dtype=w.dtype, device=w.device)
        for stage, blocks in enumerate(self.stages):
            if stage:
                h = self.splits[stage - 1](h)  # (B, 4 L, next width)
            h = h + self.positions[stage].to(w.dtype)
            for i, block in enumerate(cast("nn.ModuleList", blocks)):
                h = self._call(block, h, w)
                head = i - self.options.depths[-1] + self.options.outputs
                if stage == len(self.stages) - 1 and head >= 0:
                    images = images + self.heads[head](h, w, scale)
        return torch.tanh(images)

    def _spread(self, w: Tensor) -> Tensor:
        return self.spread(w).unflatten(1, (-1, self.options.widths[0]))  # (B, L of the coarsest, D)

    def _call(self, block: nn.Module, h: Tensor, w: Tensor) -> Tensor:
        return recomputed(block, h, w) if self.activation_checkpointing else block(h, w)


class ModulatedHead(nn.Module):
    """A modulated norm and an output: tokens (B, L, D), w (B, E) -> colours without bound (B, C, R, R)."""

    parts = 2
    """Vectors of the modulation: scale and shift."""

    def __init__(self, options: ModernGeneratorOptions, channels: int, linear: Callable[..., Linear]) -> None:
        super().__init__()
        width, patch = options.widths[-1], options.patch
        self.modulation = linear(options.latent_width, 2 * width, gain=options.modulation_gain)
        if options.output == "convolutional":
            equalised = options.equalised
            self.output = ConvolutionalHead(width, patch, channels, options.output_width, equalised=equalised)
        elif options.output == "linear":
            self.output = LinearOutput(width, patch, channels, linear)
        else:
            self.output = ImplicitOutput(width, patch, channels, hidden=options.output_width, linear=linear)

    def forward(self, h: Tensor, w: Tensor, scale: int = 1) -> Tensor:
        """`scale` is that of an implicit output."""
        tokens = modulated(rms_norm(h), *self.modulation(w).unsqueeze(1).chunk(2, -1))
        return self.output(tokens) if scale == 1 else self.output(tokens, scale=scale)


class ModernDiscriminator(Discriminator):
    """images (B, C, R, R) in [-1, 1], labels (B,) or None -> logits (B, 1) in fp32.

    A stem makes a grid of tokens; blocks, merging and blocks follow; the mean token behind a norm passes the
    head in fp32, where bf16 would step by a quarter at a logit of 40.
    """

    can_recompute = True

    def __init__(
        self, options: ModernDiscriminatorOptions, *, resolution: int, channels: int, classes: int = 0
    ) -> None:
        super().__init__()
        self.options, self.resolution, self.channels, self.classes = options, resolution, channels, classes
        sides, linear = discriminator_sides(options, resolution), partial(Linear, equalised=options.equalised)
        widths, width = options.widths, options.widths[-1]
        self.stem = _stem(options, channels, linear)
        self.positions = _positions(sides, widths, 0.5)
        self.stages = nn.ModuleList(
            nn.ModuleList(_scaled_block(options, side, width, linear) for _ in range(depth))
            for side, width, depth in zip(sides, widths, options.depths, strict=True)
        )
        self.merges = nn.ModuleList(
            MergeTokens(a, b, equalised=options.equalised) for a, b in pairwise(widths)
        )
        self.norm = RMSNorm(width)
        self.head = nn.ModuleList(linear(width, width, gain=math.sqrt(2)) for _ in range(options.head_depth))
        self.logit = linear(width, 1)
        self.label = linear(classes, width, bias=False, gain=classes**0.5) if classes else None

    def features(self, images: Tensor) -> Tensor:
        """The mean token behind the norm, (B, D), in fp32 at least."""
        h = self.stem(images)
        for stage, blocks in enumerate(self.stages):
            if stage:
                h = self.merges[stage - 1](h)
            h = h + self.positions[stage].to(h.dtype)
            for block in cast("nn.ModuleList", blocks):
                h = recomputed(block, h) if self.activation_checkpointing else block(h)
        return self.norm(at_least_fp32(h)).mean(1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        y = self.features(images)
        for layer in self.head:
            y = F.leaky_relu(layer(y), SLOPE)
        logits = self.logit(y).float()
        if self.label is None:
            return logits
        assert labels is not None
        embedding = self.label(F.one_hot(labels, self.classes).to(y.dtype))
        return logits + (embedding * y).float().sum(-1, keepdim=True) / y.shape[-1] ** 0.5


def generator_sides(options: ModernGeneratorOptions, resolution: int) -> list[int]:
    """The sides of the generator's grids, coarsest first. Raises UserError where sizes do not fit."""
    _check_stages("generator", options.widths, options.depths, options.head_width)
    doublings = len(options.widths) - 1
    if resolution % (options.patch << doublings):
        raise UserError(
            f"The resolution {resolution} is not divided by the {options.patch << doublings} pixels of a "
            "token of the generator's coarsest grid: set --generator.patch, or fewer --generator.widths."
        )
    if options.output == "convolutional" and (options.patch < 2 or options.patch & (options.patch - 1)):
        raise UserError(
            "--generator.output convolutional needs a patch that is a power of two, 2 at least, "
            f"not {options.patch}."
        )
    if not 1 <= options.outputs <= options.depths[-1]:
        raise UserError(f"--generator.outputs must be from 1 to the {options.depths[-1]} last blocks.")
    return [resolution // (options.patch << back) for back in range(doublings, -1, -1)]


def discriminator_sides(options: ModernDiscriminatorOptions, resolution: int) -> list[int]:
    """The sides of the discriminator's grids, finest first. Raises UserError where sizes do not fit."""
    _check_stages("discriminator", options.widths, options.depths, options.head_width)
    if options.stem == "patches":
        if resolution % options.patch:
            raise UserError(
                f"The resolution {resolution} is not divided by --discriminator.patch {options.patch}."
            )
        finest = resolution // options.patch
    else:
        finest = resolution >> len(options.stem_widths)
    sides = [finest >> stage for stage in range(len(options.widths))]
    if sides[-1] < 1 or not options.stem_widths:
        raise UserError(f"The discriminator halves {resolution} pixels too often: leave a convolution out.")
    return sides


def _check_stages(part: str, widths: tuple[int, ...], depths: tuple[int, ...], head_width: int) -> None:
    """Raise UserError where the stages of a network do not fit each other."""
    if not widths or len(widths) != len(depths):
        raise UserError(f"--{part}.widths and --{part}.depths must be as many, at least one.")
    if head_width < 1 or any(width < 1 or width % head_width for width in widths):
        raise UserError(f"Every --{part}.widths must be a multiple of --{part}.head-width {head_width}.")


def _positions(sides: list[int], widths: tuple[int, ...], deviation: float) -> nn.ParameterList:
    """Learned positions of every grid, (1, S^2, D) each."""
    return nn.ParameterList(
        nn.Parameter(torch.randn(1, side**2, width) * deviation)
        for side, width in zip(sides, widths, strict=True)
    )


def _modulated_block(
    options: ModernGeneratorOptions, side: int, width: int, linear: Callable[..., Linear]
) -> ModulatedBlock:
    gain = 1 / math.sqrt(2 * sum(options.depths))  # the branches together add the variance of one
    return ModulatedBlock(
        *_branches(options, side, width, linear, gain),
        width,
        options.latent_width,
        linear,
        gated=options.gated,
        gain=options.modulation_gain,
    )


def _scaled_block(
    options: ModernDiscriminatorOptions, side: int, width: int, linear: Callable[..., Linear]
) -> ScaledBlock:
    gain = 1 / math.sqrt(2 * sum(options.depths)) if options.layer_scale is None else 1.0
    return ScaledBlock(*_branches(options, side, width, linear, gain), width, scale=options.layer_scale)


def _branches(
    options: ModernGeneratorOptions | ModernDiscriminatorOptions,
    side: int,
    width: int,
    linear: Callable[..., Linear],
    gain: float,
) -> tuple[RotaryAttention, FeedForward]:
    attention = RotaryAttention(
        width,
        width // options.head_width,
        side,
        linear,
        normalised=options.normalised,
        rotary=options.rotary,
        gain=gain,
    )
    feed_forward = FeedForward(
        width,
        round(width * options.perceptron_ratio),
        side,
        linear,
        activation=options.activation,
        depthwise=options.depthwise,
        gain=gain,
    )
    return attention, feed_forward


def _stem(
    options: ModernDiscriminatorOptions, channels: int, linear: Callable[..., Linear]
) -> ConvolutionalStem | PatchStem:
    width = options.widths[0]
    if options.stem == "patches":
        return PatchStem(channels, width, options.patch, options.patch // 2, linear)
    return ConvolutionalStem(channels, options.stem_widths, width, equalised=options.equalised)
