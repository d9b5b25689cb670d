"""ViTGAN's generator (arXiv 2107.04589), and the two baselines of the seminar deck as options of it.

Shapes: B batch, C channels, H x W image, P patch, L = HW / P^2 patches, D width, Z latent size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.config import MOST_LAYERS, MOST_SIZE, check, factor, option
from vitgan.errors import UserError
from vitgan.models.base import Generator
from vitgan.models.vit import check_transformer
from vitgan.nn import (
    Block,
    ConvolutionalOutput,
    ImplicitOutput,
    LayerNorm,
    Linear,
    LinearOutput,
    MultilayerPerceptron,
    SelfAttention,
    SelfModulatedLayerNorm,
    recomputed,
)
from vitgan.nn.implicit import Combine
from vitgan.registry import register


@register(kind="generator", name="vitgan")
@dataclass(frozen=True, kw_only=True)
class ViTGANGeneratorOptions:
    """Options of the generator; the defaults are ViTGAN's for CIFAR-10 (arXiv 2107.04589)."""

    patch: int = option(4, least=1, most=MOST_SIZE)
    """Side P of a patch, pixels."""
    depth: int = option(4, least=1, most=MOST_LAYERS)
    """Transformer blocks."""
    width: int = option(384, least=1, most=MOST_SIZE)
    """Size D of a token and of w."""
    heads: int = option(6, least=1, most=MOST_SIZE)
    """Attention heads; must divide the width."""
    perceptron_width: int = option(1536, least=1, most=MOST_SIZE)
    """Hidden size of a block's MLP."""
    entry: Literal["A", "B", "C"] = "C"
    """How w enters: added to every position (A), as one more token (B), by self-modulated layer norm (C)."""
    modulation_gain: float = factor(1.0)
    """Standard deviation at the start of the gamma and beta of the self-modulated layer norms, for w of unit
    variance."""
    output: Literal["implicit", "linear", "conv"] = "implicit"
    """From token to patch: sine network of the pixel coordinates, linear map, or convolutions."""
    implicit_width: int | None = option(None, least=1, most=MOST_SIZE)
    """Hidden size of the implicit output's network; None is D."""
    implicit_combine: Combine = "modulation"
    """How the token enters the implicit output."""
    implicit_demodulate: bool = False
    """Demodulate the modulated weights of the implicit output."""
    omega_0: float = factor(30.0)
    """Frequency factor of the sine layer (SIREN)."""
    implicit_bandwidth: float = factor(0.25)
    """Highest frequency of the Fourier features at the start, in those that the pixels of a patch carry."""
    latent_dim: int = option(384, least=1, most=MOST_SIZE)
    """Size of z."""
    mapping_depth: int = option(8, least=1, most=MOST_LAYERS)
    """Layers of the mapping network z -> w."""
    mapping_learning_rate: float = factor(0.01)
    """Learning rate of the mapping network, times that of the rest; needs the equalised rate."""
    equalised: bool = True
    """Equalised learning rate."""

    image_by_image = True

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> "ViTGANGenerator":
        """The network; with `classes` > 0 an embedding of the label is joined to the latent.

        Raises UserError where a value is not one that the field takes, or sizes do not fit.
        """
        check(self, "generator")
        return ViTGANGenerator(self, resolution=resolution, channels=channels, classes=classes)


class MappingNetwork(nn.Module):
    """w = MLP(z), z (B, Z), labels (B,) or None -> w (B, D).

    z is divided by its root mean square before the first layer, as in the authors' release; with labels, an
    embedding of each, normalised alike, is concatenated to it.
    """

    def __init__(self, options: ViTGANGeneratorOptions, classes: int) -> None:
        super().__init__()
        rate = options.mapping_learning_rate
        linear = partial(Linear, equalised=options.equalised, learning_rate_multiplier=rate)
        joined = options.latent_dim * (2 if classes else 1)
        self.label = nn.Embedding(classes, options.latent_dim) if classes else None
        self.layers = nn.ModuleList(
            linear(joined if i == 0 else options.width, options.width, gain=math.sqrt(2))
            for i in range(options.mapping_depth)
        )

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        w = F.rms_norm(z, z.shape[-1:], eps=1e-8)
        if self.label is not None:
            assert labels is not None
            embedding = self.label(labels).to(z.dtype)
            w = torch.cat((w, F.rms_norm(embedding, z.shape[-1:], eps=1e-8)), -1)
        for layer in self.layers:
            w = F.leaky_relu(layer(w), 0.2)
        return w


class ViTGANGenerator(Generator):
    """z (B, Z), labels (B,) or None -> images (B, C, H, W) in [-1, 1] (seminar deck, eq. 5-9).

    Our choice: a tanh bounds the image; no source names the last activation.
    """

    can_recompute = True

    def __init__(
        self, options: ViTGANGeneratorOptions, *, resolution: int, channels: int, classes: int = 0
    ) -> None:
        super().__init__(
            resolution=resolution, channels=channels, classes=classes, latent_dim=options.latent_dim
        )
        check_transformer("generator", resolution, options.patch, options.width, options.heads)
        self.options = options
        linear = partial(Linear, equalised=options.equalised)
        width = options.width
        norm = partial(LayerNorm, width)
        if options.entry == "C":
            norm = partial(SelfModulatedLayerNorm, width, width, linear, gain=options.modulation_gain)
        self.mapping = MappingNetwork(options, classes)
        self.position = nn.Parameter(torch.randn(1, (resolution // options.patch) ** 2, width))
        self.blocks = nn.ModuleList(_block(options, linear, norm) for _ in range(options.depth))
        self.norm = norm()
        self.output = _output(options, channels, linear)

    def synthesise(self, w: Tensor) -> Tensor:
        """w (B, D) -> images (B, C, H, W)."""
        tokens = self.tokens(w)
        return torch.tanh(self._call(self.output, tokens, w))

    def modulations(self) -> list[Tensor]:
        """The weights (D, D) of the affine maps to gamma and beta of every self-modulated layer norm."""
        norms = [module for module in self.modules() if isinstance(module, SelfModulatedLayerNorm)]
        return [part.effective_weight() for norm in norms for part in (norm.gamma, norm.beta)]

    def render(self, w: Tensor, scale: int) -> Tensor:
        """w (B, D) -> images (B, C, scale H, scale W): the patches' functions at finer coordinates.

        Raises UserError where the output is not implicit and `scale` is not 1.
        """
        if scale == 1 or not isinstance(self.output, ImplicitOutput):
            return super().render(w, scale)
        return torch.tanh(self.output(self.tokens(w), w, scale=scale))

    def tokens(self, w: Tensor) -> Tensor:
        """w (B, D) -> y (B, L, D): the tokens after the last block and norm, one for each patch."""
        h = self.position.to(w.dtype).expand(w.shape[0], -1, -1)  # (B, L, D)
        if self.options.entry == "A":
            h = h + w.unsqueeze(1)
        elif self.options.entry == "B":
            h = torch.cat((w.unsqueeze(1), h), 1)  # (B, 1 + L, D)
        for block in self.blocks:
            h = self._call(block, h, w)
        return self.norm(h[:, -self.position.shape[1] :], w)

    def _call(self, part: nn.Module, tokens: Tensor, w: Tensor) -> Tensor:
        return recomputed(part, tokens, w) if self.activation_checkpointing else part(tokens, w)


def _block(
    options: ViTGANGeneratorOptions, linear: Callable[..., Linear], norm: Callable[[], nn.Module]
) -> Block:
    width = options.width
    return Block(
        SelfAttention(width, options.heads, linear),
        MultilayerPerceptron(width, options.perceptron_width, linear),
        norm,
    )


def _output(options: ViTGANGeneratorOptions, channels: int, linear: Callable[..., Linear]) -> nn.Module:
    width, patch = options.width, options.patch
    if options.output == "linear":
        return LinearOutput(width, patch, channels, linear)
    if options.output == "conv":
        if patch & (patch - 1):
            raise UserError(f"--generator.output conv needs a patch that is a power of two, not {patch}.")
        return ConvolutionalOutput(width, patch, channels, width, linear)
    return ImplicitOutput(
        width,
        patch,
        channels,
        hidden=options.implicit_width or width,
        combine=options.implicit_combine,
        demodulate=options.implicit_demodulate,
        omega_0=options.omega_0,
        bandwidth=options.implicit_bandwidth,
        linear=linear,
    )
