"""ContraD: a discriminator upon contrastive features (arXiv 2103.09742).

Shapes: B batch, C channels, R resolution, D width of the features, H hidden size, E size of one projection.
"""

import math
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.config import MOST_LAYERS, MOST_SIZE, check, option
from vitgan.errors import UserError
from vitgan.models.base import Discriminator, Judgement
from vitgan.models.vit import VisionTransformer, VisionTransformerOptions
from vitgan.nn import Convolution, Linear
from vitgan.nn.norm import Normalisation
from vitgan.registry import register

SLOPE = 0.1  # of the heads' leaky ReLU, as in the authors' release


@dataclass(frozen=True, kw_only=True)
class ResidualOptions:
    """Options of the convolutional encoder; the defaults are those of the paper's SNResNet-18."""

    width: int = option(64, least=1, most=MOST_SIZE)
    """Channels of the first stage; each of the later stages doubles them."""
    blocks: int = option(2, least=1, most=MOST_LAYERS)
    """Residual blocks of a stage."""
    stages: int = option(4, least=1, most=MOST_LAYERS)
    """Most stages; images below 32 pixels have fewer, as the last stage is no smaller than 4 x 4."""
    spectral_norm: Normalisation = "plain"
    """Normalisation of every weight matrix of the encoder."""
    equalised: bool = False
    """Equalised learning rate."""


@register(kind="discriminator", name="contrad")
@dataclass(frozen=True, kw_only=True)
class ContraDDiscriminatorOptions:
    """Options of the contrastive discriminator.

    The defaults are ViTGAN's discriminator for CIFAR-10, with the heads of the paper's authors' release. The
    paper's own CIFAR-10 discriminators are convolutional: `ResidualOptions()` is one of them.
    """

    backbone: VisionTransformerOptions | ResidualOptions = field(default_factory=VisionTransformerOptions)
    """The encoder; of a Vision Transformer the `head` is left out."""
    hidden: int = option(512, least=1, most=MOST_SIZE)
    """Hidden size H of each of the three heads: two of projection, one of the discriminator."""
    projection: int = option(128, least=1, most=MOST_SIZE)
    """Size E of the projection of real images, and of that of fake ones."""

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> "ContraDDiscriminator":
        """The network; with `classes` > 0 its logit depends on a label (projection, arXiv 1802.05637).

        Raises UserError where a value is not one that the field takes, or sizes do not fit.
        """
        check(self, "discriminator")
        return ContraDDiscriminator(self, resolution=resolution, channels=channels, classes=classes)


class ContraDDiscriminator(Discriminator):
    """An encoder, two projection heads h_r and h_f, and a small discriminator, each an MLP of two layers.

    images (B, C, R, R) in [-1, 1], labels (B,) or None -> logits (B, 1), fp32.

    The adversarial loss does not teach the encoder: `judge` stops the gradient of the features, d(sg(f(x))),
    while the encoder's parameters require one. Where they are frozen, in the generator's update, the gradient
    flows on to the images. `forward` never stops it: a gradient penalty, which differentiates D(x) by x,
    teaches the encoder too, as in the authors' release.
    """

    def __init__(
        self, options: ContraDDiscriminatorOptions, *, resolution: int, channels: int, classes: int = 0
    ) -> None:
        super().__init__(resolution=resolution, channels=channels, classes=classes)
        backbone = options.backbone
        self.options = options
        self.encoder, width = _encoder(backbone, resolution, channels)
        head = partial(_Head, width, options.hidden, equalised=backbone.equalised)
        self.project_real, self.project_fake = head(options.projection), head(options.projection)
        self.head = head(1)
        self.label = self.label_projection(options.hidden, equalised=backbone.equalised, unit_variance=True)
        self.normalise(backbone.spectral_norm, self.encoder)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self._logits(self.features(images), labels)

    def judge(self, images: Tensor, labels: Tensor | None = None) -> Judgement:
        """Logits, and the projections (B, 2 E): h_r's, then h_f's."""
        y = self.features(images)
        projections = torch.cat((self.project_real(y), self.project_fake(y)), 1).float()
        learns = any(parameter.requires_grad for parameter in self.encoder.parameters())
        return Judgement(self._logits(y.detach() if learns else y, labels), projections=projections)

    def features(self, images: Tensor) -> Tensor:
        """The encoder's features f(x) (B, D) of images x (B, C, R, R)."""
        with self.normalised():
            return self.encoder.features(images)

    def _logits(self, y: Tensor, labels: Tensor | None) -> Tensor:
        hidden = self.head.hidden(y)
        return self.labelled(self.head.out(hidden).float(), hidden, labels, self.label)


class _Head(nn.Module):
    """y (B, D) -> (B, O): linear, leaky ReLU, linear; without spectral norm, as in the authors' release."""

    def __init__(self, width: int, hidden: int, outputs: int, *, equalised: bool) -> None:
        super().__init__()
        self.into = Linear(width, hidden, gain=math.sqrt(2), equalised=equalised)
        self.out = Linear(hidden, outputs, equalised=equalised)

    def hidden(self, y: Tensor) -> Tensor:
        """(B, H)."""
        return F.leaky_relu(self.into(y), SLOPE)

    def forward(self, y: Tensor) -> Tensor:
        return self.out(self.hidden(y))


class ResidualEncoder(nn.Module):
    """A residual network of two-convolution blocks without batch norm: images to features (B, D).

    The stem and the first stage work at the size of the image; each later stage halves the size by average
    pooling, which is our choice, and doubles the channels. D is the channels of the last stage, averaged over
    its grid.
    """

    def __init__(self, options: ResidualOptions, *, resolution: int, channels: int) -> None:
        super().__init__()
        if resolution < 8 or resolution & (resolution - 1):
            raise UserError(
                f"ContraD's residual encoder needs a resolution that is a power of two and at least 8, not "
                f"{resolution}: set --data.resolution to one."
            )
        stages = min(options.stages, resolution.bit_length() - 2)
        widths = [options.width << k for k in range(stages)]
        convolution = partial(Convolution, gain=math.sqrt(2), equalised=options.equalised)
        self.width = widths[-1]
        self.stem = convolution(channels, widths[0])
        self.blocks = nn.ModuleList(
            _ResidualBlock(
                widths[max(k - 1, 0)] if first else width,
                width,
                halves=first and k > 0,
                convolution=convolution,
            )
            for k, width in enumerate(widths)
            for first in (True, *(False,) * (options.blocks - 1))
        )

    def features(self, images: Tensor) -> Tensor:
        x = F.relu(self.stem(images))
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))


class _ResidualBlock(nn.Module):
    """x (B, C, H, W) -> (B, O, H, W), or half the size: relu(shortcut(x) + conv(relu(conv(x))))."""

    def __init__(
        self, channels_in: int, channels_out: int, *, halves: bool, convolution: partial[Convolution]
    ) -> None:
        super().__init__()
        self.first = convolution(channels_in, channels_out)
        self.second = convolution(channels_out, channels_out)
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else convolution(channels_in, channels_out, 1)
        self.pool = nn.AvgPool2d(2) if halves else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return F.relu(self.shortcut(x) + self.second(F.relu(self.first(x))))


def _encoder(
    options: VisionTransformerOptions | ResidualOptions, resolution: int, channels: int
) -> "tuple[VisionTransformer | ResidualEncoder, int]":
    """The encoder and the width of its features."""
    if isinstance(options, ResidualOptions):
        encoder = ResidualEncoder(options, resolution=resolution, channels=channels)
        return encoder, encoder.width
    transformer = VisionTransformer(options, resolution=resolution, channels=channels)
    # The heads here take the place of its own, which would get no gradient.
    transformer.head, transformer.spectral = nn.Sequential(), None
    return transformer, options.width
