"""The interface of the terms of a loss: what a term receives, can request, and returns.

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
    """The discriminator's forward pass of one update, as the terms of its loss receive it."""

    discriminator: Discriminator
    step: int
    """Number of updates before this one."""
    rng: torch.Generator
    """The source of what a term draws beyond the pass, on the device of the images."""
    real: Tensor
    """Real images as the discriminator saw them, (B, C, H, W)."""
    fake: Tensor
    """Fake images as the discriminator saw them, (B, C, H, W), without a gradient."""
    labels: Tensor | None
    """Labels (B,) of the real images and, alike, of the fake ones; None without classes."""
    judged_real: Judgement
    """The discriminator's outputs for `real`."""
    judged_fake: Judgement
    """The discriminator's outputs for `fake`."""
    second_real: Judgement | None = None
    """The outputs for the term's second view of the real images; None where it requested none."""
    second_fake: Judgement | None = None
    """The outputs for the term's second view of the fake images; None where it requested none."""
    near_real: Judgement | None = None
    """The outputs for the first M real images as the term perturbed them; None where it perturbed none."""
    near_fake: Judgement | None = None
    """The outputs for the first M fake images as the term perturbed them; None where it perturbed none."""
    dtype: torch.dtype = torch.float32
    """The dtype of the activations."""
    strength: Tensor | float = 1.0
    """The factor by which a schedule multiplies R1 and R2, exact and by differences, in this step."""

    def gradient(self, images: Tensor) -> Tensor:
        """grad_x D(x) at `images` (B, C, H, W), the same shape, differentiable again.

        It takes a forward pass of its own, in fp32, with attention by plain products, as the fused kernel has
        no second derivative.
        """
        images = images.detach().float().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            logits = self.discriminator(images, self.labels)
            (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return gradient


class Term:
    """One addend, or several, of the discriminator's loss; a subclass is a frozen dataclass of its options.

    `losses` is all that a term must define. Whatever it needs beyond the common pass it requests through
    `second_view`, `perturbed` or `Pass.gradient`.
    """

    player = "discriminator"
    """The player to whose loss the term is added."""
    image_by_image = True
    """Whether the loss is a mean over images, each of which contributes independently of its batch."""

    @property
    def active(self) -> bool:
        """False where the term's weights are zero, which leaves it out of the game."""
        return True

    def check(self, augment: Augmentation) -> None:
        """Raise UserError where the term makes no sense in a game with that augmentation."""

    def second_view(self, augment: Augmentation) -> View | None:  # noqa: ARG002
        """A function that makes a second view of all images, which joins the pass; None for no such view.

        `augment` is the game's own augmentation.
        """
        return None

    def perturbed(
        self,
        real: Tensor,  # noqa: ARG002
        fake: Tensor,  # noqa: ARG002
        rng: torch.Generator,  # noqa: ARG002
    ) -> tuple[Tensor | None, Tensor | None]:
        """Perturbed real and fake images, which join the pass; None instead of either for none.

        `real` and `fake` are (B, C, H, W) as the discriminator sees them; what is returned, (M, C, H, W)
        each, are perturbations of the first M of them. Called only in steps in which the term is due.
        """
        return None, None

    def due(self, step: int) -> bool | None:  # noqa: ARG002
        """Whether the term has a loss in the step of that number; None where only the step can tell."""
        return True

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        """The weighted losses, scalars by name; empty in a step in which the term is not due."""
        raise NotImplementedError


@dataclass(frozen=True)
class GeneratorPass:
    """One update of the generator, as the terms of its loss receive it."""

    generator: Generator
    step: int
    """Number of the generator's updates before this one."""
    rng: torch.Generator
    """The source of what a term draws, on the device of the generator."""
    count: int
    """Number B of images of the update."""
    labels: Tensor | None
    """Labels (B,) of the update's images; None without classes."""
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
        """The weighted losses, scalars by name; empty in a step in which the term is not due."""
        raise NotImplementedError
