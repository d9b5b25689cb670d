"""TransGAN (arXiv 2102.07074, last version): a transformer of growing grids against one of several scales.

The figures of TransGAN in the seminar deck are of the paper's first version, which had one scale, no relative
positions and an additional super-resolution task; the last version is stronger.
Shapes: B batch, C channels, R resolution, S side of a grid of tokens, D width, P patch, Z latent size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.config import MOST_LAYERS, MOST_SIZE, check, option
from vitgan.errors import UserError
from vitgan.models.base import Discriminator, Generator
from vitgan.nn import Block, LayerNorm, Linear, MultilayerPerceptron, SelfAttention, patchify
from vitgan.nn.attention import GridAttention
from vitgan.registry import register

Norm = Literal["pixel", "layer"]
Part = Literal["generator", "discriminator"]
# The least that a field may be.
LEAST = {"heads": 1, "perceptron_ratio": 1, "window": 1, "patch": 1, "latent_dim": 1, "bicubic": 0}


@dataclass(frozen=True, kw_only=True)
class TransGANOptions:
    """Options that generator and discriminator have in common."""

    heads: int = option(4, least=1, most=MOST_SIZE)
    """Attention heads; must divide the width of every stage."""
    perceptron_ratio: int = option(4, least=1, most=MOST_SIZE)
    """Hidden size of a block's MLP, in widths of its stage."""
    norm: Norm = "pixel"
    """Norm of the blocks: a token over its root mean square, or layer norm."""
    full_attention: int = option(32, least=0)
    """Largest side, in tokens, of a grid on which each attends to all; on larger ones only within windows."""
    window: int = option(16, least=1, most=MOST_SIZE)
    """Side of these windows, in tokens; 16 in the paper."""
    equalised: bool = False
    """Equalised learning rate."""


@register(kind="generator", name="transgan")
@dataclass(frozen=True, kw_only=True)
class TransGANGeneratorOptions(TransGANOptions):
    """Options of the generator; the defaults are TransGAN-XL's for CIFAR-10."""

    depths: tuple[int, ...] = option((5, 4, 2), least=0, most=MOST_LAYERS)
    """Blocks of each stage. Every stage after the first doubles the side: three make 32 x 32 of 8 x 8."""
    width: int = option(1024, least=1, most=MOST_SIZE)
    """Size of a token in the first stage."""
    bicubic: int = option(0, least=0)
    """Number of leading doublings that are bicubic and keep the width (2 at 256 x 256 in the authors'
    release); the others are pixel shuffles, which quarter it."""
    latent_dim: int = option(256, least=1, most=MOST_SIZE)
    """Size of z."""

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> "TransGANGenerator":
        """The network; it takes no labels.

        Raises UserError where a value is not one that the field takes, or sizes do not fit.
        """
        check(self, "generator")
        _check_stages("generator", self, self.depths, classes)
        return TransGANGenerator(self, resolution=resolution, channels=channels)

    def widths(self, resolution: int) -> list[int]:
        """The width of each stage; raises UserError where there is none, or no side for the first stage."""
        doublings = len(self.depths) - 1
        if resolution % 2**doublings:
            raise UserError(
                f"The resolution {resolution} is not halved {doublings} times: name fewer stages in "
                "--generator.depths, or set --data.resolution to a power of two."
            )
        shuffles = [max(0, k - self.bicubic) for k in range(doublings + 1)]
        _check_width("generator", self.width, self.heads, 4 ** shuffles[-1])
        return [self.width // 4**count for count in shuffles]


@register(kind="discriminator", name="transgan")
@dataclass(frozen=True, kw_only=True)
class TransGANDiscriminatorOptions(TransGANOptions):
    """Options of the discriminator; the defaults are those of the authors' release for CIFAR-10."""

    norm: Norm = "layer"
    """Norm of the blocks: a token over its root mean square, or layer norm."""
    patch: int = option(2, least=1, most=MOST_SIZE)
    """Side P of a patch of the first stage, pixels; 2 P in the second, 4 P in the third."""
    depths: tuple[int, ...] = option((3, 3), least=0, most=MOST_LAYERS)
    """Blocks of each stage; one more, with the class token, follows them."""
    width: int = option(384, least=1, most=MOST_SIZE)
    """Size of a token in the last stage; half of it in the one before, and so on."""

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> "TransGANDiscriminator":
        """The network; it takes no labels.

        Raises UserError where a value is not one that the field takes, or sizes do not fit.
        """
        check(self, "discriminator")
        _check_stages("discriminator", self, self.depths, classes)
        return TransGANDiscriminator(self, resolution=resolution, channels=channels)

    def widths(self, resolution: int) -> list[int]:
        """The width of each stage; raises UserError where there is none, or patches do not fill the image."""
        halvings = len(self.depths) - 1
        largest = self.patch * 2**halvings
        if resolution % largest:
            raise UserError(
                f"The resolution {resolution} is not a multiple of {largest}, the largest patch: set a "
                "smaller --discriminator.patch, name fewer stages in --discriminator.depths, or set "
                "--data.resolution to a power of two."
            )
        _check_width("discriminator", self.width, self.heads, 2**halvings)
        return [self.width >> k for k in reversed(range(halvings + 1))]


def _check_stages(part: Part, options: TransGANOptions, depths: tuple[int, ...], classes: int) -> None:
    if classes:
        raise UserError("TransGAN takes no labels: leave --data.labels out.")
    if min(depths, default=0) < 1:
        raise UserError(f"--{part}.depths must name one block at least for each stage, not {depths}.")
    for field, least in LEAST.items():
        if getattr(options, field, least) < least:
            raise UserError(f"--{part}.{field.replace('_', '-')} must be at least {least}.")


def _check_width(part: Part, width: int, heads: int, smallest: int) -> None:
    """Raise UserError unless the heads divide the narrowest stage's width, `width` / `smallest`."""
    if width < 1 or width % (heads * smallest):
        raise UserError(
            f"--{part}.heads {heads} does not divide the width of every stage: set --{part}.width to a "
            f"multiple of {heads * smallest}, not {width}."
        )


class PixelNorm(nn.Module):
    """h / sqrt(mean over D of h^2 + 1e-8), the paper's norm, which has no parameters; w is not used."""

    def forward(self, h: Tensor, w: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return F.rms_norm(h, h.shape[-1:], eps=1e-8)


def to_grid(tokens: Tensor) -> Tensor:
    """(B, S^2, D) -> (B, D, S, S)."""
    side = math.isqrt(tokens.shape[1])
    return tokens.mT.unflatten(2, (side, side))


def to_tokens(grid: Tensor) -> Tensor:
    """(B, D, S, S) -> (B, S^2, D), in raster order."""
    return grid.flatten(2).mT


def shuffle_up(tokens: Tensor) -> Tensor:
    """(B, S^2, D) -> (B, 4 S^2, D / 4): the features of a token become those of a 2 x 2 square."""
    return to_tokens(F.pixel_shuffle(to_grid(tokens), 2))


def bicubic_up(tokens: Tensor) -> Tensor:
    """(B, S^2, D) -> (B, 4 S^2, D), by interpolation."""
    return to_tokens(F.interpolate(to_grid(tokens), scale_factor=2, mode="bicubic", align_corners=False))


def pool_down(tokens: Tensor) -> Tensor:
    """(B, S^2, D) -> (B, S^2 / 4, D): the mean of each 2 x 2 square."""
    return to_tokens(F.avg_pool2d(to_grid(tokens), 2))


class Stage(nn.Module):
    """A learned position is added to each token of a grid, then blocks: (B, S^2, D) -> (B, S^2, D).

    Positions start with standard deviation 0.02, as in the authors' release. Raises UserError where the
    windows do not fill the grid.
    """

    def __init__(self, part: Part, options: TransGANOptions, depth: int, width: int, side: int) -> None:
        super().__init__()
        window = side if side <= options.full_attention else options.window
        if side % window:
            raise UserError(
                f"Windows of --{part}.window {window} do not fill {side} x {side} tokens: "
                f"set a divisor of {side}."
            )
        attention = partial(GridAttention, width, options.heads, side, window)
        self.position = nn.Parameter(0.02 * torch.randn(1, side**2, width))
        self.blocks = nn.ModuleList(_block(options, width, attention) for _ in range(depth))

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.position.to(h.dtype)
        for block in self.blocks:
            h = block(h)
        return h


def _norm(options: TransGANOptions, width: int) -> nn.Module:
    return PixelNorm() if options.norm == "pixel" else LayerNorm(width)


def _block(options: TransGANOptions, width: int, attention: Callable[..., nn.Module]) -> Block:
    linear = partial(Linear, equalised=options.equalised)
    perceptron = MultilayerPerceptron(width, width * options.perceptron_ratio, linear)
    return Block(attention(linear=linear), perceptron, partial(_norm, options, width))


class LatentItself(nn.Module):
    """w = z: z (B, Z) -> (B, Z)."""

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return z


class TransGANGenerator(Generator):
    """z (B, Z) -> images (B, C, R, R) in [-1, 1]: an affine map to the tokens of a small grid, then stages.

    Each stage after the first doubles the side; an affine map of each token of the last makes its pixel.

    Differs from the paper: a norm before that map and a tanh after it hold the image in range.
    Our choice: two things that only the release has are left out, noise added to the tokens within attention,
    and colours made by every stage and summed.
    """

    def __init__(self, options: TransGANGeneratorOptions, *, resolution: int, channels: int) -> None:
        super().__init__(resolution=resolution, channels=channels, classes=0, latent_dim=options.latent_dim)
        widths, linear = options.widths(resolution), partial(Linear, equalised=options.equalised)
        sides = [resolution >> k for k in reversed(range(len(widths)))]
        self.options = options
        self.mapping = LatentItself()
        self.embed = linear(options.latent_dim, sides[0] ** 2 * widths[0])
        self.stages = nn.ModuleList(
            Stage("generator", options, depth, width, side)
            for depth, width, side in zip(options.depths, widths, sides, strict=True)
        )
        self.norm = _norm(options, widths[-1])
        self.colour = linear(widths[-1], channels)

    def synthesise(self, w: Tensor) -> Tensor:
        """w (B, Z) -> images (B, C, R, R)."""
        h = self.embed(w).unflatten(1, (-1, self.options.width))  # (B, S^2, D)
        for k, stage in enumerate(self.stages):
            if k > 0:
                h = bicubic_up(h) if k <= self.options.bicubic else shuffle_up(h)
            h = stage(h)
        return torch.tanh(to_grid(self.colour(self.norm(h))))


class TransGANDiscriminator(Discriminator):
    """images (B, C, R, R) in [-1, 1] -> logits (B, 1), fp32: one image as patches of P, 2 P, 4 P in turn.

    A stage's tokens are the means of 2 x 2 tokens of the stage before, joined to the patches of its own
    scale; either makes half of the width. After the last stage the class token attends to all, and a norm and
    an affine map make the logit. The last block has no relative positions, as in the release.
    In the release the patches of the second scale make a quarter of the width, not half.
    """

    def __init__(self, options: TransGANDiscriminatorOptions, *, resolution: int, channels: int) -> None:
        super().__init__(resolution=resolution, channels=channels)
        widths, linear = options.widths(resolution), partial(Linear, equalised=options.equalised)
        self.options = options
        patches = [options.patch * 2**k for k in range(len(widths))]
        own = [widths[0], *(width // 2 for width in widths[1:])]
        self.embeds = nn.ModuleList(
            linear(channels * patch**2, width) for patch, width in zip(patches, own, strict=True)
        )
        self.stages = nn.ModuleList(
            Stage("discriminator", options, depth, width, resolution // patch)
            for depth, width, patch in zip(options.depths, widths, patches, strict=True)
        )
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, options.width))
        self.last = _block(options, options.width, partial(SelfAttention, options.width, options.heads))
        self.norm = _norm(options, options.width)
        self.head = linear(options.width, 1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.head(self.features(images)).float()

    def features(self, images: Tensor) -> Tensor:
        """The class token after the last norm, (B, D)."""
        h = self.stages[0](self.embeds[0](patchify(images, self.options.patch)))  # (B, (R / P)^2, D)
        for k in range(1, len(self.stages)):
            own = self.embeds[k](patchify(images, self.options.patch * 2**k))  # D / 2 wide, as are the means
            h = self.stages[k](torch.cat((pool_down(h), own), -1))
        class_token = self.class_token.to(h.dtype).expand(len(h), -1, -1)
        return self.norm(self.last(torch.cat((class_token, h), 1), first=1)[:, 0])
