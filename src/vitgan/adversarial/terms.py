"""What a term of a player's loss sees and gives.

Shapes: B batch, C channels, H x W image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vitgan.adversarial.augment import Augmentation
from vitgan.models import Discriminator, Generator, Judgement


@dataclass(frozen=True)
class Pass:
    """The discriminator's one pass of an update, as the terms see it."""

    discriminator: Discriminator
    step: int
    """Updates before this one."""
    rng: torch.Generator
    """For what a term draws beyond the pass, on the device of the images."""
    real: Tensor
    """Real images as the discriminator saw them, (B, C, H, W)."""
    fake: Tensor
    """Fake ones as it saw them, (B, C, H, W), without a gradient."""
    labels: Tensor | None
    judged_real: Judgement
    judged_fake: Judgement
    second_real: Judgement | None
    """Of the term's own second view of the real images; None when it asked for none."""
    second_fake: Judgement | None
    dtype: torch.dtype = torch.float32
    """Of the activations."""


class Term(Protocol):
    """One addend, or several, of the discriminator's loss."""

    @property
    def active(self) -> bool:
        """False when its weights are zero, which leaves it out of the game."""
        ...

    def second_view(self, augment: Augmentation) -> Callable[[Tensor, torch.Generator], Tensor] | None:
        """Makes the second view of clean images (2B, C, H, W), real then fake, that joins the one pass.

        None for no view. `augment` is the game's own augmentation.
        """
        ...

    def due(self, step: int) -> bool | None:
        """Whether it has a loss in the step of that number; None where only the step itself can tell."""
        ...

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        """Weighted scalars by name; empty in a step that has none."""
        ...


class WithoutView:
    """Of a term that asks for no second view."""

    def second_view(self, augment: Augmentation) -> None:  # noqa: ARG002
        return None


@dataclass(frozen=True)
class GeneratorPass:
    """An update of the generator, as its own terms see it."""

    generator: Generator
    step: int
    """Updates of the generator before this one."""
    rng: torch.Generator
    count: int
    """Images B of the update."""
    labels: Tensor | None
    dtype: torch.dtype
    """Of the activations."""


class GeneratorTerm(Protocol):
    """One addend, or several, of the generator's loss."""

    @property
    def active(self) -> bool:
        """False when its weight is zero, which leaves it out of the game."""
        ...

    def due(self, step: int) -> bool | None:
        """Whether it has a loss in the generator's step of that number."""
        ...

    def losses(self, seen: GeneratorPass) -> dict[str, Tensor]:
        """Weighted scalars by name; empty in a step that has none."""
        ...
