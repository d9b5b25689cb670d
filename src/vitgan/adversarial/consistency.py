"""Consistency regularisation of the discriminator: bCR, and CutMix for the U-Net discriminator.

Shapes: B batch, C channels, R resolution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vitgan.adversarial.augment import Augmentation, DiffAugment
from vitgan.adversarial.terms import Pass, Term
from vitgan.config import option
from vitgan.distributed.rng import uniform
from vitgan.errors import UserError
from vitgan.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class BCR(Term):
    """Balanced consistency regularisation: real E(D(x) - D(T(x)))^2 + fake E(D(G(z)) - D(T(G(z))))^2.

    The adversarial loss sees x through the game's augmentation. `against` chooses the second view that D is
    to judge alike: another draw of the augmentation, as in ViTGAN's release, or the clean image, as in arXiv
    2002.04724. In a game without augmentation "augmented" compares the clean image with an augmented one.
    """

    real: float = option(10.0, least=0)
    """Weight on real images."""
    fake: float = option(10.0, least=0)
    """Weight on fake images."""
    against: Literal["augmented", "clean"] = "augmented"
    """The second view: another random augmentation of the image, or the image itself."""
    augment: DiffAugment | None = None
    """The second view's augmentation T; None is the game's own, or the default one where that is off."""

    @property
    def active(self) -> bool:
        return self.real > 0 or self.fake > 0

    def check(self, augment: Augmentation) -> None:
        """Raise UserError where the term would compare every image with itself."""
        if self.active and self.against == "clean" and not augment.active:
            raise UserError(
                "bCR against clean images compares each image with itself when nothing is augmented: "
                "set --terms.bcr.against augmented, or --augment to something."
            )

    def second_view(self, augment: Augmentation) -> Callable[[Tensor, torch.Generator], Tensor]:
        if self.against == "clean":
            return _clean
        return self.augment or (augment if augment.active else DiffAugment())

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        assert seen.second_real is not None
        assert seen.second_fake is not None
        return {
            "bcr_real": self.real * (seen.judged_real.logits - seen.second_real.logits).square().mean(),
            "bcr_fake": self.fake * (seen.judged_fake.logits - seen.second_fake.logits).square().mean(),
        }


def _clean(images: Tensor, rng: torch.Generator) -> Tensor:  # noqa: ARG001
    return images


@register(name="cutmix")
@dataclass(frozen=True, kw_only=True)
class CutMix(Term):
    """CutMix of the U-Net discriminator (arXiv 2002.12655): real and fake images mixed by a mask M.

    mix(x, y) = M x + (1 - M) y, M 1 where the pixel is real. The term has three addends: the encoder must
    call the mixed image fake, the decoder must tell the source of each pixel, and it must be consistent,
    E|D_dec(mix(x, G(z))) - mix(D_dec(x), D_dec(G(z)))|^2 of logits D_dec, with a gradient through both sides.
    Images are mixed as the discriminator saw them, and judged in a forward pass of their own.

    Our choice: the loss of the mixed image is logistic, as in the paper, whatever the game's loss. In a step
    that mixes, the loss of the unmixed images stays; the authors' release leaves it out there.
    """

    image: float = option(1.0, least=0)
    """Weight of the encoder's loss on the mixed image."""
    pixels: float = option(1.0, least=0)
    """Weight of the decoder's loss on the pixels of the mixed image."""
    consistency: float = option(1.0, least=0)
    """Weight of the consistency of the decoder's logits."""
    probability: float = option(0.5, least=0, most=1)
    """Share of the steps that mix, after the warm-up."""
    warm_up: int = option(0, least=0)
    """Steps over which `probability` rises linearly from 0 at the start of training."""

    @property
    def active(self) -> bool:
        return self.probability > 0 and max(self.image, self.pixels, self.consistency) > 0

    def due(self, step: int) -> None:  # noqa: ARG002
        return None

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        """Weighted scalars by name, none in a step that does not mix.

        Raises UserError where the discriminator has no logits of pixels.
        """
        real, fake = seen.judged_real.pixels, seen.judged_fake.pixels
        if real is None or fake is None:
            raise UserError(
                "The term CutMix needs a discriminator of pixels: set the discriminator to the U-Net."
            )
        if torch.rand((), device=seen.real.device, generator=seen.rng) >= self._share(seen.step):
            return {}
        mask = rectangles(seen.real, seen.rng)
        judged = seen.discriminator.judge(torch.lerp(seen.fake, seen.real, mask).to(seen.dtype), seen.labels)
        assert judged.pixels is not None
        mask = mask.to(real.dtype)
        difference = judged.pixels - torch.lerp(fake, real, mask)
        return {
            "cutmix_image": self.image * F.softplus(judged.logits).mean(),
            "cutmix_pixels": self.pixels * F.binary_cross_entropy_with_logits(judged.pixels, mask),
            "cutmix_consistency": self.consistency * difference.square().mean(),
        }

    def _share(self, step: int) -> float:
        return self.probability * min(1.0, step / self.warm_up if self.warm_up > 0 else 1.0)


def rectangles(images: Tensor, rng: torch.Generator) -> Tensor:
    """Masks (B, 1, R, R) of 0 and 1, one for each image (B, C, R, R): a rectangle differs from the rest.

    The rectangle's share of the area is uniform in [0, 1] and its sides are in proportion to the image's; its
    centre is uniform over the pixels, and what the border cuts off is not made up for (arXiv 1905.04899).
    Our choice: the rectangle is 0 or 1 with equal probability, and no mask is constant.
    """
    size = images.shape[-1]
    area, row, column, coin = uniform(rng, len(images), 4, 1).unbind(1)
    half = (area.sqrt() * size / 2).floor().clamp(min=1)  # (B, 1)
    place = torch.arange(size, device=images.device)
    rows, columns = (
        (place >= centre - half) & (place < centre + half)
        for centre in ((row * size).floor(), (column * size).floor())
    )  # (B, R) each
    inside = rows[:, :, None] & columns[:, None, :]  # (B, R, R)
    return (inside ^ (coin < 0.5)[:, :, None])[:, None].to(images.dtype)
