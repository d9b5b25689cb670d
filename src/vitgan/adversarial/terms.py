"""What a term of a player's loss sees, what it can ask for, and what it gives.

Shapes: B batch, M images of a part of it, C channels, H x W image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitgan.adversarial.augment import Augmentation
from vitgan.models import Discriminator, Generator, Judgement

View = Callable[[Tensor, torch.Generator], Tensor]
"""Makes a second view of clean images (2B, C, H, W), real then fake."""


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
    """Fake images as the discriminator saw them, (B, C, H, W), without a gradient."""
    labels: Tensor | None
    judged_real: Judgement
    judged_fake: Judgement
    second_real: Judgement | None = None
    """What is said of the term's own second view of the real images; None where it asked for none."""
    second_fake: Judgement | None = None
    near_real: Judgement | None = None
    """What is said of the perturbed real images that the term asked for, those of the first M; else None."""
    near_fake: Judgement | None = None
    dtype: torch.dtype = torch.float32
    """The dtype of the activations."""

    def gradient(self, images: Tensor) -> Tensor:
        """grad_x D(x) at `images` (B, C, H, W), the same shape, differentiable again.

        It takes a pass of its own, in fp32, with attention by plain products: the fused kernel has no second
        derivative.
        """
        images = images.detach().float().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            logits = self.discriminator(images, self.labels)
            (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return gradient


class Term:
    """One addend, or several, of the discriminator's loss; a subclass is a frozen dataclass of its options.

    `losses` is all that a term must define. What it needs beyond the pass it asks for by `second_view`,
    `perturbed` or `Pass.gradient`.
    """

    player = "discriminator"
    """Whose loss the term is added to."""
    image_by_image = True
    """Whether the loss is a mean over images, none of which sees another of its batch."""

    @property
    def active(self) -> bool:
        """False where the term's weights are zero, which leaves it out of the game."""
        return True

    def check(self, augment: Augmentation) -> None:
        """Raise UserError where the term makes no sense in a game with that augmentation."""

    def second_view(self, augment: Augmentation) -> View | None:  # noqa: ARG002
        """Makes the term's second view of all images, which joins the one pass; None for no such view.

        `augment` is the game's own augmentation.
        """
        return None

    def perturbed(
        self,
        real: Tensor,  # noqa: ARG002
        fake: Tensor,  # noqa: ARG002
        rng: torch.Generator,  # noqa: ARG002
    ) -> tuple[Tensor | None, Tensor | None]:
        """Images near those that the discriminator sees, which join the one pass; None for none.

        `real` and `fake` are (B, C, H, W) as the discriminator sees them; what is given, (M, C, H, W) each,
        is near the first M of them. Only asked in a step in which the term is due.
        """
        return None, None

    def due(self, step: int) -> bool | None:  # noqa: ARG002
        """Whether the term has a loss in the step of that number; None where only the step can tell."""
        return True

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        """Weighted scalars by name; empty in a step that has none."""
        raise NotImplementedError


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
    """The dtype of the activations."""


class GeneratorTerm:
    """One addend, or several, of the generator's loss; a subclass is a frozen dataclass of its options."""

    player = "generator"

    @property
    def active(self) -> bool:
        """False where the term's weight is zero, which leaves it out of the game."""
        return True

    def check(self, augment: Augmentation) -> None:
        """Raise UserError where the term makes no sense in a game with that augmentation."""

    def due(self, step: int) -> bool | None:  # noqa: ARG002
        """Whether the term has a loss in the generator's update of that number."""
        return True

    def losses(self, seen: GeneratorPass) -> dict[str, Tensor]:
        """Weighted scalars by name; empty in a step that has none."""
        raise NotImplementedError
