"""Gradient penalties of the discriminator."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitgan.adversarial.augment import DiffAugment
from vitgan.adversarial.terms import Pass


@dataclass(frozen=True, kw_only=True)
class R1:
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

    def second_view(self, augment: DiffAugment) -> None:  # noqa: ARG002
        return None

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        if seen.step % self.every:
            return {}
        images = seen.real.detach().float().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            logits = seen.discriminator(images, seen.labels)
            (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return {"r1": self.every * self.gamma / 2 * gradient.square().sum((1, 2, 3)).mean()}
