"""What a regularising term of the discriminator's loss sees and gives.

Shapes: B batch, C channels, H x W image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from vitgan.adversarial.augment import DiffAugment


@dataclass(frozen=True)
class Pass:
    """The discriminator's one pass of an update, as the terms see it."""

    discriminator: nn.Module
    step: int
    """Updates before this one."""
    real: Tensor
    """Real images as the discriminator saw them, (B, C, H, W)."""
    labels: Tensor | None
    logits_real: Tensor
    """(B, 1), and the same for the fakes."""
    logits_fake: Tensor
    second_real: Tensor | None
    """Logits of the term's own second view of the real images, (B, 1); None when it asked for none."""
    second_fake: Tensor | None


class Term(Protocol):
    """One addend, or several, of the discriminator's loss."""

    @property
    def active(self) -> bool:
        """False when its weights are zero, which leaves it out of the game."""
        ...

    def second_view(self, augment: DiffAugment) -> Callable[[Tensor, torch.Generator], Tensor] | None:
        """Makes the second view of clean images (B, C, H, W) that joins the one pass; None for no view.

        `augment` is the game's own augmentation.
        """
        ...

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        """Weighted scalars by name; empty in a step that has none."""
        ...
