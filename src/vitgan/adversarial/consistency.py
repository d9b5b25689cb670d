"""Balanced consistency regularisation (blog; arXiv 2002.04724)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vitgan.adversarial.augment import Augmentation, DiffAugment
from vitgan.adversarial.terms import Pass


@dataclass(frozen=True, kw_only=True)
class BCR:
    """real E(D(x) - D(T(x)))^2 + fake E(D(G(z)) - D(T(G(z))))^2.

    The adversarial loss sees x through the game's DiffAugment. The second view is, by `against`, another draw
    of it ([authors]: two independent augmentations) or the clean image (arXiv 2002.04724: clean against
    augmented). With no DiffAugment in the game, "augmented" is itself clean against augmented.
    """

    real: float = 10.0
    """Weight on real images."""
    fake: float = 10.0
    """Weight on fake images."""
    against: Literal["augmented", "clean"] = "augmented"
    """The second view: another augmentation of the image, or the image itself."""
    augment: DiffAugment | None = None
    """The second view's augmentation T; None is the game's own, or the default one where that is off."""

    @property
    def active(self) -> bool:
        return self.real > 0 or self.fake > 0

    def second_view(self, augment: Augmentation) -> Callable[[Tensor, torch.Generator], Tensor]:
        if self.against == "clean":
            return _clean
        return self.augment or (augment if augment.active else DiffAugment())

    def due(self, step: int) -> bool:  # noqa: ARG002
        return True

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        assert seen.second_real is not None
        assert seen.second_fake is not None
        return {
            "bcr_real": self.real * (seen.judged_real.logits - seen.second_real.logits).square().mean(),
            "bcr_fake": self.fake * (seen.judged_fake.logits - seen.second_fake.logits).square().mean(),
        }


def _clean(images: Tensor, rng: torch.Generator) -> Tensor:  # noqa: ARG001
    return images
