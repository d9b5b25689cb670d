"""Gradient penalties of the discriminator."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitgan.adversarial.terms import Pass, WithoutView
from vitgan.draws import uniform


@dataclass(frozen=True, kw_only=True)
class R1(WithoutView):
    """gamma / 2 E|grad_x D(x)|^2 over real images (arXiv 1801.04406), every `every` steps and times `every`.

    [choice] x is the image that the discriminator sees, after augmentation: no double backward passes
    through the augmentation. The pass is the discriminator's own, in fp32, with attention by plain products
    (the fused kernel has no second derivative).
    """

    gamma: float = 0.0
    """Weight; 0 leaves the penalty out."""
    every: int = 16
    """Steps between two penalties (arXiv 1912.04958, lazy regularisation)."""

    @property
    def active(self) -> bool:
        return self.gamma > 0

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        if not self.due(seen.step):
            return {}
        squared = _gradient(seen, seen.real).square().sum((1, 2, 3))  # (B,)
        return {"r1": self.every * self.gamma / 2 * squared.mean()}


@dataclass(frozen=True, kw_only=True)
class GradientPenalty(WithoutView):
    """weight E(|grad_x D(x)| / centre - 1)^2 at points x between real and fake images (arXiv 1704.00028).

    The division by `centre`, which makes the target a slope of `centre`, is arXiv 1710.10196's. [choice]
    x lies between images as the discriminator sees them, after augmentation.
    """

    weight: float = 0.0
    """Weight; 0 leaves the penalty out."""
    centre: float = 1.0
    """Norm of the gradient at which there is no penalty."""

    @property
    def active(self) -> bool:
        return self.weight > 0

    def due(self, step: int) -> bool:  # noqa: ARG002
        return True

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        share = uniform(seen.rng, len(seen.real), 1, 1, 1)
        norm = _gradient(seen, torch.lerp(seen.real, seen.fake, share)).flatten(1).norm(dim=1)  # (B,)
        return {"gradient_penalty": self.weight * (norm / self.centre - 1).square().mean()}


@dataclass(frozen=True, kw_only=True)
class Drift(WithoutView):
    """weight E D(x)^2 over real images: keeps logits whose zero no loss fixes from wandering off.

    (arXiv 1710.10196, appendix A.1, beside the Wasserstein loss.)
    """

    weight: float = 0.0
    """Weight; 0 leaves the term out."""

    @property
    def active(self) -> bool:
        return self.weight > 0

    def due(self, step: int) -> bool:  # noqa: ARG002
        return True

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        return {"drift": self.weight * seen.judged_real.logits.square().mean()}


def _gradient(seen: Pass, images: Tensor) -> Tensor:
    """grad_x D(x) at `images` (B, C, H, W), the same shape, differentiable again."""
    images = images.detach().float().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        logits = seen.discriminator(images, seen.labels)
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient
