"""Adversarial losses of logits (B, 1); each gives a scalar in fp32."""

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


class AdversarialLoss(Protocol):
    """The two players' losses."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the discriminator minimises, of its logits for real and fake images."""
        ...

    def generator(self, fake: Tensor) -> Tensor:
        """What the generator minimises, of the discriminator's logits for its images."""
        ...


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """Non-saturating logistic loss (arXiv 1406.2661).

    D: softplus(-real) + softplus(fake); G: softplus(-fake).
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        return F.softplus(-fake).mean()


@dataclass(frozen=True, kw_only=True)
class Hinge:
    """Hinge loss (arXiv 1705.02894): D: max(0, 1 - real) + max(0, 1 + fake); G: -fake."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.mean()


@dataclass(frozen=True, kw_only=True)
class Wasserstein:
    """Wasserstein loss (arXiv 1701.07875): D: fake - real; G: -fake. It needs a Lipschitz discriminator."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.mean()
