"""StyleGAN2 (arXiv 1912.04958): a generator of modulated convolutions and a residual discriminator.

Shapes: B batch, C channels, O out channels, R resolution, r resolution of a layer, Z latent size, E width of
w, L styles (one for each convolution, and for the colours of the last).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.config import MOST_LAYERS, MOST_SIZE, check, factor, option
from vitgan.distributed.rng import integers, normal, uniform
from vitgan.errors import UserError
from vitgan.models.base import Discriminator, Generator
from vitgan.models.vitgan import MappingNetwork, ViTGANGeneratorOptions
from vitgan.nn import Convolution, Linear, ModulatedConvolution
from vitgan.nn.convolution import Blur, Upsample
from vitgan.nn.linear import at_least_fp32
from vitgan.registry import register


@register(kind="generator", name="stylegan2")
@dataclass(frozen=True, kw_only=True)
class StyleGAN2GeneratorOptions:
    """Options of the generator; the defaults are those of arXiv 2006.10738 for CIFAR-10.

    The figures of StyleGAN2 in the seminar deck (FID 11.1, IS 9.18) are that paper's baseline.
    """

    channel_base: int = option(4096, least=1)
    """A layer of resolution r has channel_base / r channels, at most `channel_max`."""
    channel_max: int = option(512, least=1)
    """Most channels of a layer."""
    latent_dim: int = option(512, least=1, most=MOST_SIZE)
    """Size of z."""
    width: int = option(512, least=1, most=MOST_SIZE)
    """Size of w."""
    mapping_depth: int = option(8, least=1, most=MOST_LAYERS)
    """Layers of the mapping network z -> w."""
    mapping_learning_rate: float = factor(0.01)
    """Learning rate of the mapping network, times that of the rest."""
    mixing: float = option(0.9, least=0, most=1)
    """Probability that a training image has the styles of two latents (arXiv 1812.04948)."""

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> "StyleGAN2Generator":
        """The network; with `classes` > 0 an embedding of the label is joined to the latent.

        Raises UserError where a value is not one that the field takes, or sizes do not fit.
        """
        check(self, "generator")
        check_pyramid("generator", resolution, self.channel_base)
        return StyleGAN2Generator(self, resolution=resolution, channels=channels, classes=classes)


@register(kind="discriminator", name="stylegan2")
@dataclass(frozen=True, kw_only=True)
class StyleGAN2DiscriminatorOptions:
    """Options of the discriminator; the defaults are those of arXiv 2006.10738 for CIFAR-10."""

    channel_base: int = option(4096, least=1)
    """A block of resolution r has channel_base / r channels, at most `channel_max`."""
    channel_max: int = option(512, least=1)
    """Most channels of a block."""
    residual: bool = True
    """Skip connections around the blocks; arXiv 2006.06676 leaves them out on CIFAR-10."""
    group: int = option(4, least=1)
    """Consecutive images that share a minibatch standard deviation; must divide the batch."""

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> "StyleGAN2Discriminator":
        """The network; with `classes` > 0 it has a logit for each class, and the label's is taken.

        Raises UserError where a value is not one that the field takes, or sizes do not fit.
        """
        check(self, "discriminator")
        check_pyramid("discriminator", resolution, self.channel_base)
        if self.group < 1:
            raise UserError("--discriminator.group must be at least 1.")
        return StyleGAN2Discriminator(self, resolution=resolution, channels=channels, classes=classes)


def check_pyramid(part: str, resolution: int, channel_base: int) -> None:
    """Raise UserError where layers of 4, 8, 16, ... pixels a side do not end at the resolution."""
    if resolution < 8 or resolution & (resolution - 1):
        raise UserError(
            f"StyleGAN2 doubles its resolution from 4 on: set --data.resolution to 8, 16, 32, 64 or another "
            f"power of two, not {resolution}."
        )
    if channel_base < resolution:
        raise UserError(f"--{part}.channel-base {channel_base} must be at least the resolution {resolution}.")


def _channels(options: StyleGAN2GeneratorOptions | StyleGAN2DiscriminatorOptions, resolution: int) -> int:
    return min(options.channel_base // resolution, options.channel_max)


def _activated(x: Tensor) -> Tensor:
    """Leaky ReLU times sqrt(2), which about keeps the variance of x."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


class SynthesisLayer(nn.Module):
    """x (B, C, r, r), or (B, C, r / 2, r / 2) with `up`, and w (B, E) -> (B, O, r, r).

    Modulated 3 x 3 convolution, one noise image times a learned strength, bias, leaky ReLU
    (arXiv 1912.04958, figure 2c). The noise is drawn from `rng`, or else the layer's own, which is saved.
    """

    noise: Tensor

    def __init__(
        self, channels_in: int, channels_out: int, resolution: int, latent_width: int, *, up: bool
    ) -> None:
        super().__init__()
        self.convolution = ModulatedConvolution(channels_in, channels_out, 3, latent_width, up=up)
        self.strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(1, 1, resolution, resolution))

    def forward(self, x: Tensor, w: Tensor, rng: torch.Generator | None = None) -> Tensor:
        x = self.convolution(x, w)
        noise = self.noise
        if rng is not None:
            noise = normal(rng, len(x), 1, *x.shape[2:])
        return _activated(x + (self.strength * noise).to(x.dtype))


class StyleGAN2Generator(Generator):
    """z (B, Z), labels (B,) or None -> images (B, C, R, R), not clamped: nothing bounds them in the paper.

    w is (B, L, E): a style for each layer, all the same but where two latents are mixed.
    `path_length_mean` is the running mean that PathLength regularises to; it is saved with the weights.
    """

    path_length_mean: Tensor

    def __init__(
        self, options: StyleGAN2GeneratorOptions, *, resolution: int, channels: int, classes: int = 0
    ) -> None:
        super().__init__(
            resolution=resolution, channels=channels, classes=classes, latent_dim=options.latent_dim
        )
        self.options = options
        sizes = [4 << k for k in range(int(math.log2(resolution)) - 1)]
        self.mapping = StyleMapping(options, classes, styles=2 * len(sizes))
        self.constant = nn.Parameter(torch.randn(1, _channels(options, 4), 4, 4))
        self.layers, self.colours = nn.ModuleList(), nn.ModuleList()
        for r in sizes:
            width, out = options.width, _channels(options, r)
            if r > 4:
                self.layers.append(SynthesisLayer(_channels(options, r // 2), out, r, width, up=True))
            self.layers.append(SynthesisLayer(out, out, r, width, up=False))
            self.colours.append(ModulatedConvolution(out, channels, 1, width, demodulate=False))
        self.upsample = Upsample()
        self.register_buffer("path_length_mean", torch.zeros(()))

    def synthesise(self, w: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """w (B, L, E) -> images (B, C, R, R), with noise from `rng` or else the layers' own.

        The image is the sum, in fp32, of every resolution's colours, upsampled (figure 7b). The colours have
        the style of the convolution that follows them, as in the authors' release.
        """
        styles = w.unbind(1)
        x = self.constant.to(w.dtype).expand(w.shape[0], -1, -1, -1)
        x = self.layers[0](x, styles[0], rng)
        image = at_least_fp32(self.colours[0](x, styles[1]))
        for k, colour in enumerate(self.colours[1:], 1):
            x = self.layers[2 * k - 1](x, styles[2 * k - 1], rng)
            x = self.layers[2 * k](x, styles[2 * k], rng)
            image = self.upsample(image) + at_least_fp32(colour(x, styles[2 * k + 1]))
        return image

    def modulations(self) -> list[Tensor]:
        """The weights (O, E) of the affine map from w to the style of every modulated convolution."""
        parts = [module for module in self.modules() if isinstance(module, ModulatedConvolution)]
        return [part.style.effective_weight() for part in parts]

    def training_images(self, z: Tensor, labels: Tensor | None, rng: torch.Generator) -> Tensor:
        """z (B, Z), labels (B,) or None -> images (B, C, R, R) with fresh noise, some with mixed styles."""
        w = self.mapping(z, labels)
        if self.options.mixing > 0:
            w = self._mixed(w, labels, rng)
        return self.synthesise(w, rng)

    def _mixed(self, w: Tensor, labels: Tensor | None, rng: torch.Generator) -> Tensor:
        """w (B, L, E), some of whose images have another latent's styles from a random layer on.

        Each image is mixed with probability `mixing`.
        """
        count, styles, _ = w.shape
        z = normal(rng, count, self.latent_dim).to(w.dtype)
        mixed = uniform(rng, count, 1) < self.options.mixing
        first = integers(rng, 1, styles, count, 1)
        others = mixed & (torch.arange(styles, device=rng.device) >= first)  # (B, L)
        return torch.where(others.unsqueeze(-1), self.mapping(z, labels), w)


class StyleMapping(MappingNetwork):
    """z (B, Z), labels (B,) or None -> w (B, L, E), the same style for every layer.

    ViTGAN's mapping network is StyleGAN2's.
    """

    def __init__(self, options: StyleGAN2GeneratorOptions, classes: int, *, styles: int) -> None:
        same = ViTGANGeneratorOptions(
            latent_dim=options.latent_dim,
            width=options.width,
            mapping_depth=options.mapping_depth,
            mapping_learning_rate=options.mapping_learning_rate,
        )
        super().__init__(same, classes)
        self.styles = styles

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(z, labels).unsqueeze(1).expand(-1, self.styles, -1)


class DownsamplingBlock(nn.Module):
    """x (B, C, r, r) -> (B, O, r / 2, r / 2): two 3 x 3 convolutions, the second of stride 2 behind a blur.

    With `residual` a blurred and halved 1 x 1 convolution of x joins, and the sum is divided by sqrt(2)
    (arXiv 1912.04958, figure 7c).
    """

    def __init__(self, channels_in: int, channels_out: int, *, residual: bool) -> None:
        super().__init__()
        self.first = Convolution(channels_in, channels_in, 3)
        self.blur = Blur(padding=2)
        self.second = Convolution(channels_in, channels_out, 3, stride=2, padding=0)
        self.skip = None
        if residual:
            halve = Blur(padding=1, stride=2)
            self.skip = nn.Sequential(halve, Convolution(channels_in, channels_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = _activated(self.second(self.blur(_activated(self.first(x)))))
        return y if self.skip is None else (y + self.skip(x)) / math.sqrt(2)


def minibatch_deviation(x: Tensor, group: int) -> Tensor:
    """Appends to x (B, C, r, r) a channel that says how much the images of a group differ: (B, C + 1, r, r).

    It is the standard deviation over `group` consecutive images, averaged over channels and pixels, in fp32
    (arXiv 1710.10196, section 3). `group` must divide B.
    """
    groups = at_least_fp32(x).unflatten(0, (-1, group))  # (B / group, group, C, r, r)
    variance = (groups - groups.mean(1, keepdim=True)).square().mean(1)
    deviation = (variance + 1e-8).sqrt().mean((1, 2, 3))  # (B / group,)
    feature = deviation.repeat_interleave(group).to(x.dtype)
    return torch.cat((x, feature.view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])), 1)


class StyleGAN2Discriminator(Discriminator):
    """images (B, C, R, R) in [-1, 1], labels (B,) or None -> logits (B, 1) in fp32.

    Real and fake batches may be concatenated: no group of the minibatch standard deviation has images of two
    of them, as the size of each is a multiple of `group`. Raises UserError for a size that is not.
    From 4 x 4 pixels on it computes in fp32, as the authors' release does.
    """

    def __init__(
        self, options: StyleGAN2DiscriminatorOptions, *, resolution: int, channels: int, classes: int = 0
    ) -> None:
        super().__init__(resolution=resolution, channels=channels, classes=classes)
        self.options = options
        self.colour = Convolution(channels, _channels(options, resolution), 1)
        sizes = [resolution >> k for k in range(int(math.log2(resolution)) - 2)]
        self.blocks = nn.Sequential(
            *(
                DownsamplingBlock(
                    _channels(options, r), _channels(options, r // 2), residual=options.residual
                )
                for r in sizes
            )
        )
        last = _channels(options, 4)
        self.convolution = Convolution(last + 1, last, 3)
        self.dense = Linear(last * 4 * 4, last)
        self.head = Linear(last, max(classes, 1))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        if len(images) % self.options.group:
            raise UserError(
                f"A batch of {len(images)} images is not a multiple of --discriminator.group "
                f"{self.options.group}: set --training.batch to a multiple, or the group to a divisor."
            )
        x = at_least_fp32(self.blocks(_activated(self.colour(images))))  # (B, O, 4, 4)
        x = _activated(self.convolution(minibatch_deviation(x, self.options.group)))
        logits = self.head(_activated(self.dense(x.flatten(1))))
        if not self.classes:
            return logits
        assert labels is not None
        return logits.gather(1, labels.unsqueeze(1))
