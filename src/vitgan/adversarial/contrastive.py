"""The contrastive losses of ContraD (arXiv 2103.09742).

Shapes: B batch, E size of one projection.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vitgan.adversarial.augment import Augmentation, StrongAugment
from vitgan.adversarial.terms import Pass, Term
from vitgan.config import check, option
from vitgan.distributed.collectives import all_gather
from vitgan.errors import UserError
from vitgan.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Contrastive(Term):
    """real NT-Xent(h_r of two views of each real image) + fake SupCon(h_f of fakes against both real views).

    It wants a discriminator with projections, and at least two images in a batch. The images of all
    processes are compared. The weight of the adversarial loss, lambda_dis, is 1.
    The second view of the fakes is not used: the paper has one of each fake.
    """

    real: float = option(1.0, least=0)
    """Weight of the loss of real images."""
    fake: float = option(1.0, least=0)
    """Weight of the loss of fake images, lambda_con."""
    temperature: float = option(0.1, above=0)
    """Divisor of the cosine similarities."""

    image_by_image = False

    def __post_init__(self) -> None:
        check(self, "terms.contrastive")

    @property
    def active(self) -> bool:
        return self.real > 0 or self.fake > 0

    def second_view(self, augment: Augmentation) -> Callable[[Tensor, torch.Generator], Tensor]:
        """Another draw of the game's augmentation, or `StrongAugment` where that is off."""
        return augment if augment.active else StrongAugment()

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        """Raises UserError where the discriminator has no projections, or the batch is of one image."""
        assert seen.second_real is not None
        first, second, fake = (
            judged.projections for judged in (seen.judged_real, seen.second_real, seen.judged_fake)
        )
        if first is None or second is None or fake is None:
            raise UserError("The term Contrastive needs projections: set the discriminator to ContraD's.")
        first, second, fake = (all_gather(projections) for projections in (first, second, fake))
        if len(fake) < 2:
            raise UserError(
                "The term Contrastive compares images of a batch: set --training.batch to at least 2."
            )
        (first_r, first_f), (second_r, second_f) = first.chunk(2, 1), second.chunk(2, 1)  # (B, E) each
        of_real = nt_xent(first_r, second_r, self.temperature)
        of_fake = fakes_against_reals(fake.chunk(2, 1)[1], torch.cat((first_f, second_f)), self.temperature)
        return {"contrastive_real": self.real * of_real, "contrastive_fake": self.fake * of_fake}


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss of two views (B, E) of the same images (arXiv 2002.05709, eq. 1), a scalar.

    Each of the 2B projections has to find the other view of its image among the 2B - 1 others.
    """
    logits = _similarities(torch.cat((first, second)), temperature)  # (2B, 2B)
    count = len(first)
    other = torch.arange(2 * count, device=first.device).roll(count)
    return F.cross_entropy(logits, other)


def fakes_against_reals(fake: Tensor, real: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss of fakes (B, E), one class, against reals (M, E), a scalar.

    For each fake the mean, over the other fakes, of -log of the share that the pair has among all pairs of
    that fake (arXiv 2004.11362, eq. 2, with fakes alone as anchors: arXiv 2103.09742). Fakes attract each
    other and repel the real images, which do not attract each other.
    """
    count = len(fake)
    logits = _similarities(torch.cat((fake, real)), temperature)[:count]  # (B, B + M)
    shares = logits.log_softmax(1)[:, :count]
    itself = torch.eye(count, dtype=torch.bool, device=fake.device)
    return -shares.masked_fill(itself, 0).sum() / (count * (count - 1))


def _similarities(z: Tensor, temperature: float) -> Tensor:
    """Cosines of (N, E) over the temperature, (N, N); minus infinity of each with itself."""
    z = F.normalize(z, dim=1)
    return (z @ z.mT / temperature).fill_diagonal_(-torch.inf)
