"""The U-Net discriminator, with a logit for the image and one for every pixel (arXiv 2002.12655).

Shapes: B batch, C channels, R resolution, H x W grid, O channels out, D channels of the bottleneck.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.config import MOST_LAYERS, MOST_SIZE, check, option
from vitgan.errors import UserError
from vitgan.models.base import Discriminator, Judgement
from vitgan.nn import Convolution, Linear
from vitgan.nn.norm import Normalisation
from vitgan.registry import register


@register(kind="discriminator", name="unet")
@dataclass(frozen=True, kw_only=True)
class UNetDiscriminatorOptions:
    """Options of the U-Net discriminator.

    At 128 and 256 pixels the defaults are the paper's networks; it has none for CIFAR-10.
    """

    width: int = option(64, least=1, most=MOST_SIZE)
    """Channels of the first level; each of the later levels doubles them, as far as `widest`."""
    widest: int = option(8, least=1, most=MOST_SIZE)
    """Most channels, in `width`; the bottleneck of five levels or more has twice as many."""
    levels: int | None = option(None, least=0, most=MOST_LAYERS)
    """Halvings of the image; None leaves a bottleneck of 4 x 4, and makes two of 8 pixels."""
    spectral_norm: Normalisation = "plain"
    """Normalisation of every weight matrix."""
    equalised: bool = False
    """Equalised learning rate."""

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> "UNetDiscriminator":
        """The network; with `classes` > 0 all logits depend on a label (projection, arXiv 1802.05637).

        Raises UserError where a value is not one that the field takes, or sizes do not fit.
        """
        check(self, "discriminator")
        return UNetDiscriminator(self, resolution=resolution, channels=channels, classes=classes)


class UNetDiscriminator(Discriminator):
    """An encoder of BigGAN's blocks and a decoder of their mirror images, with skips at each level.

    images (B, C, R, R) in [-1, 1], labels (B,) or None -> logits (B, 1), fp32: the encoder's, which are all
    that a gradient penalty sees. `judge` runs the decoder too.
    """

    def __init__(
        self, options: UNetDiscriminatorOptions, *, resolution: int, channels: int, classes: int = 0
    ) -> None:
        super().__init__(resolution=resolution, channels=channels, classes=classes)
        self.options = options
        widths = _widths(options, _levels(options, resolution))
        convolution = partial(Convolution, equalised=options.equalised)
        linear = partial(Linear, equalised=options.equalised)
        self.encoder = nn.ModuleList(
            DownBlock(a, b, convolution, first=k == 0)
            for k, (a, b) in enumerate(zip([channels, *widths[:-1]], widths, strict=True))
        )
        # Each step of the decoder but the first takes the map of its level beside what comes from below.
        below = [widths[-1], *(2 * width for width in widths[-2::-1])]
        above = [*widths[-2::-1], widths[0]]
        self.decoder = nn.ModuleList(UpBlock(a, b, convolution) for a, b in zip(below, above, strict=True))
        self.verdict = linear(widths[-1], 1)
        self.pixel_verdict = convolution(widths[0], 1, 1)
        self.label = self.label_projection(widths[-1], equalised=options.equalised)
        self.pixel_label = self.label_projection(widths[0], equalised=options.equalised)
        self._draw_orthogonal()
        self.normalise(options.spectral_norm)

    def _draw_orthogonal(self) -> None:
        """Draw all weight matrices anew, orthogonal as BigGAN's (arXiv 1809.11096)."""
        for layer in (module for module in self.modules() if isinstance(module, Linear)):
            layer.assign(nn.init.orthogonal_(torch.empty_like(layer.weight)))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        with self.normalised():
            return self._image_logits(self._encoded(images)[-1], labels)

    def judge(self, images: Tensor, labels: Tensor | None = None) -> Judgement:
        """Logits of the images, (B, 1), and of their pixels, (B, 1, R, R)."""
        with self.normalised():
            maps = self._encoded(images)
            return Judgement(self._image_logits(maps[-1], labels), pixels=self._pixel_logits(maps, labels))

    def _encoded(self, images: Tensor) -> list[Tensor]:
        """The map of every level, finest first, (B, O, H, W) each."""
        maps, x = [], images
        for block in self.encoder:
            x = block(x)
            maps.append(x)
        return maps

    def _image_logits(self, bottleneck: Tensor, labels: Tensor | None) -> Tensor:
        """D_enc, (B, 1): linear in the bottleneck's sum over its grid."""
        h = F.relu(bottleneck).sum((2, 3))  # (B, D)
        return self.labelled(self.verdict(h).float(), h, labels, self.label)

    def _pixel_logits(self, maps: list[Tensor], labels: Tensor | None) -> Tensor:
        """D_dec, (B, 1, R, R)."""
        x = maps[-1]
        for k, block in enumerate(self.decoder):
            x = block(x if k == 0 else torch.cat((x, maps[-1 - k]), 1))
        x = F.relu(x)  # (B, O, R, R)
        return self.labelled(self.pixel_verdict(x).float(), x, labels, self.pixel_label)


class DownBlock(nn.Module):
    """BigGAN's discriminator block, x (B, C, H, W) -> (B, O, H / 2, W / 2); no ReLU before the first."""

    def __init__(
        self, channels_in: int, channels_out: int, convolution: Callable[..., Convolution], *, first: bool
    ) -> None:
        super().__init__()
        self.before = nn.Identity() if first else nn.ReLU()
        self.first = convolution(channels_in, channels_out)
        self.second = convolution(channels_out, channels_out)
        self.shortcut = convolution(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second(F.relu(self.first(self.before(x))))
        # A 1 x 1 convolution and a mean of pixels commute: the shortcut is computed at the smaller size.
        return F.avg_pool2d(inner, 2) + self.shortcut(F.avg_pool2d(x, 2))


class UpBlock(nn.Module):
    """A `DownBlock` mirrored, x (B, C, H, W) -> (B, O, 2 H, 2 W), by repeating pixels."""

    def __init__(self, channels_in: int, channels_out: int, convolution: Callable[..., Convolution]) -> None:
        super().__init__()
        self.first = convolution(channels_in, channels_out)
        self.second = convolution(channels_out, channels_out)
        self.shortcut = convolution(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second(F.relu(self.first(_doubled(F.relu(x)))))
        return inner + _doubled(self.shortcut(x))


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _levels(options: UNetDiscriminatorOptions, resolution: int) -> int:
    if resolution < 8 or resolution & (resolution - 1):
        raise UserError(
            f"The U-Net discriminator needs a power of two of 8 or more as resolution, not {resolution}: "
            "set --data.resolution to one."
        )
    most = int(math.log2(resolution))
    levels = max(2, most - 2) if options.levels is None else options.levels
    if not 1 <= levels <= most:
        raise UserError(
            f"Images of {resolution} pixels allow --discriminator.levels 1 to {most}, not {levels}."
        )
    return levels


def _widths(options: UNetDiscriminatorOptions, levels: int) -> list[int]:
    """Channels of each level: in `width` 1, 2, 4, 8, 16 for five, 1, 2, 4, 8, 8, 16 for six (the paper's)."""
    factors = [min(2**k, options.widest) for k in range(levels)]
    if levels > 4:
        factors[-1] = 2 * options.widest
    return [options.width * factor for factor in factors]
