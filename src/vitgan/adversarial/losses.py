"""Adversarial losses of logits (B, 1); each gives a scalar in fp32."""

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from vitgan.registry import register


class AdversarialLoss(Protocol):
    """The two players' losses, of the discriminator's logits (B, 1) for as many real and fake images.

    In the generator's update the real images' logits carry no gradient; they are those of the discriminator's
    update of the same step, or with `training.judge_real_again` of the updated discriminator.
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the discriminator minimises, a scalar."""
        ...

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the generator minimises, a scalar."""
        ...


@register
@dataclass(frozen=True, kw_only=True)
class Logistic:
    """Non-saturating logistic loss (arXiv 1406.2661).

    D: softplus(-real) + softplus(fake); G: softplus(-fake).
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:  # noqa: ARG002
        return F.softplus(-fake).mean()


@register
@dataclass(frozen=True, kw_only=True)
class Hinge:
    """Hinge loss (arXiv 1705.02894): D: max(0, 1 - real) + max(0, 1 + fake); G: -fake."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:  # noqa: ARG002
        return -fake.mean()


@register
@dataclass(frozen=True, kw_only=True)
class Wasserstein:
    """Wasserstein loss (arXiv 1701.07875): D: fake - real; G: -fake. It needs a Lipschitz discriminator."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:  # noqa: ARG002
        return -fake.mean()


@register
@dataclass(frozen=True, kw_only=True)
class Relativistic:
    """Relativistic pairing loss (arXiv 1807.00734; with R1 and R2 in arXiv 2501.05441).

    Each fake is judged against one real image: D: softplus(fake - real); G: softplus(real - fake). At chance
    both are log 2.
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(fake - real).mean()

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(real - fake).mean()
