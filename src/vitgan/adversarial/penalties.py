"""Penalties on gradients: R1, WGAN-GP and drift of the discriminator, path length of the generator.

Shapes: B batch, C channels, H x W image, L styles, E width of w.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitgan.adversarial.terms import GeneratorPass, GeneratorTerm, Pass, Term
from vitgan.config import option
from vitgan.distributed import collectives
from vitgan.distributed.rng import normal, uniform
from vitgan.errors import UserError
from vitgan.models import Judgement
from vitgan.registry import register


class _SquaredGradient(Term):
    """gamma / 2 E|grad_x D(x)|^2, every `every` steps and times `every`."""

    gamma: float
    every: int

    @property
    def active(self) -> bool:
        return self.gamma > 0

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def _penalty(self, seen: Pass, images: Tensor) -> Tensor:
        squared = seen.gradient(images).square().sum((1, 2, 3))  # (B,)
        return self.every * self.gamma / 2 * squared.mean()


@register
@dataclass(frozen=True, kw_only=True)
class R1(_SquaredGradient):
    """gamma / 2 E|grad_x D(x)|^2 over real images (arXiv 1801.04406), every `every` steps and times `every`.

    [choice] x is the image that the discriminator sees, after augmentation: no double backward passes
    through the augmentation.
    """

    gamma: float = option(0.1, least=0)
    """Weight; 0 leaves the penalty out."""
    every: int = option(16, least=1)
    """Steps between two penalties (arXiv 1912.04958, lazy regularisation)."""

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        return {"r1": self._penalty(seen, seen.real)} if self.due(seen.step) else {}


@register
@dataclass(frozen=True, kw_only=True)
class R2(_SquaredGradient):
    """gamma / 2 E|grad_x D(x)|^2 over fake images (arXiv 1801.04406; beside R1 in arXiv 2501.05441).

    [choice] x is the image that the discriminator sees, after augmentation.
    """

    gamma: float = option(0.1, least=0)
    """Weight; 0 leaves the penalty out."""
    every: int = option(16, least=1)
    """Steps between two penalties, each of which is multiplied by as many."""

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        return {"r2": self._penalty(seen, seen.fake)} if self.due(seen.step) else {}


class _FiniteDifference(Term):
    """gamma / 2 E((D(x + sigma n) - D(x)) / sigma)^2, n ~ N(0, I), without a second derivative."""

    gamma: float
    sigma: float
    share: float

    @property
    def active(self) -> bool:
        return self.gamma > 0

    def _near(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """The first images of the batch (B, C, H, W) with noise, (M, C, H, W)."""
        count = max(1, round(self.share * len(images)))
        return images[:count] + self.sigma * normal(rng, count, *images.shape[1:]).to(images.dtype)

    def _penalty(self, judged: Judgement, near: Judgement | None) -> Tensor:
        assert near is not None
        slope = (near.logits - judged.logits[: len(near.logits)]) / self.sigma  # (M, 1)
        return self.gamma / 2 * slope.square().mean()


@register
@dataclass(frozen=True, kw_only=True)
class ApproximateR1(_FiniteDifference):
    """R1 by finite differences (arXiv 2501.08316, 2511.22475), on a part of the real images, in every step.

    For small `sigma` the mean over n of ((D(x + sigma n) - D(x)) / sigma)^2 is |grad_x D(x)|^2. The perturbed
    images join the discriminator's one pass, so attention stays fused. In bf16 a `sigma` below about 0.05
    measures rounding.
    """

    gamma: float = option(0.1, least=0)
    """Weight; 0 leaves the penalty out."""
    sigma: float = option(0.05, above=0)
    """Standard deviation of the noise, on images in [-1, 1]."""
    share: float = option(0.25, above=0, most=1)
    """Share of the batch that is perturbed."""

    def perturbed(self, real: Tensor, fake: Tensor, rng: torch.Generator) -> tuple[Tensor, None]:  # noqa: ARG002
        return self._near(real, rng), None

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        return {"approximate_r1": self._penalty(seen.judged_real, seen.near_real)}


@register
@dataclass(frozen=True, kw_only=True)
class ApproximateR2(_FiniteDifference):
    """R2 by finite differences on a part of the fake images, every step; see `ApproximateR1`."""

    gamma: float = option(0.1, least=0)
    """Weight; 0 leaves the penalty out."""
    sigma: float = option(0.05, above=0)
    """Standard deviation of the noise, on images in [-1, 1]."""
    share: float = option(0.25, above=0, most=1)
    """Share of the batch that is perturbed."""

    def perturbed(self, real: Tensor, fake: Tensor, rng: torch.Generator) -> tuple[None, Tensor]:  # noqa: ARG002
        return None, self._near(fake, rng)

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        return {"approximate_r2": self._penalty(seen.judged_fake, seen.near_fake)}


@register
@dataclass(frozen=True, kw_only=True)
class GradientPenalty(Term):
    """weight E(|grad_x D(x)| / centre - 1)^2 at points x between real and fake images (arXiv 1704.00028).

    The division by `centre`, which makes the target a slope of `centre`, is arXiv 1710.10196's. [choice]
    x lies between images as the discriminator sees them, after augmentation.
    """

    weight: float = option(10.0, least=0)
    """Weight; 0 leaves the penalty out."""
    centre: float = option(1.0, least=0)
    """Norm of the gradient at which there is no penalty."""

    @property
    def active(self) -> bool:
        return self.weight > 0

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        share = uniform(seen.rng, len(seen.real), 1, 1, 1)
        norm = seen.gradient(torch.lerp(seen.real, seen.fake, share)).flatten(1).norm(dim=1)  # (B,)
        return {"gradient_penalty": self.weight * (norm / self.centre - 1).square().mean()}


@register
@dataclass(frozen=True, kw_only=True)
class Drift(Term):
    """weight E D(x)^2 over real images: keeps logits whose zero no loss fixes from wandering off.

    (arXiv 1710.10196, appendix A.1, beside the Wasserstein loss.)
    """

    weight: float = option(0.001, least=0)
    """Weight; 0 leaves the term out."""

    @property
    def active(self) -> bool:
        return self.weight > 0

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        return {"drift": self.weight * seen.judged_real.logits.square().mean()}


@register
@dataclass(frozen=True, kw_only=True)
class Centring(Term):
    """weight (mean of D over real and fake images)^2 (after the centring of arXiv 2511.22475).

    It keeps the part of the logits that a relativistic loss does not see, what real and fake have in common,
    from wandering off to where bf16 has no digits left.
    """

    weight: float = option(0.001, least=0)
    """Weight; 0 leaves the term out."""

    @property
    def active(self) -> bool:
        return self.weight > 0

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        both = (seen.judged_real.logits.mean() + seen.judged_fake.logits.mean()) / 2
        return {"centring": self.weight * both.square()}


@register
@dataclass(frozen=True, kw_only=True)
class PathLength(GeneratorTerm):
    """weight E(|J_w^T y| - a)^2, J_w = d G(w) / d w, y ~ N(0, I) / sqrt(HW) (eq. 4), every `every` steps.

    It is multiplied by `every`. a is the running mean of |J_w^T y|, the generator's buffer
    `path_length_mean`; it moves here alone, before it is used; no gradient passes it. The images are
    the term's own, in fp32. Where w is (B, L, E), one style a layer, the norm is the root of the mean over L
    of squared norms, [StyleGAN2's release].

    Differs from the paper: the noise within the generator is its fixed one, styles are not mixed.
    """

    weight: float = option(2.0, least=0)
    """Weight; 0 leaves the term out."""
    every: int = option(4, least=1)
    """Steps between two of them (lazy regularisation, appendix B)."""
    decay: float = option(0.01, least=0, most=1)
    """Share of the newest mean in the running one."""
    shrink: int = option(2, least=1)
    """The term has a batch of its own, smaller than the update's by this factor."""

    @property
    def active(self) -> bool:
        return self.weight > 0

    def due(self, step: int) -> bool:
        return (step + 1) % self.every == 0

    def losses(self, seen: GeneratorPass) -> dict[str, Tensor]:
        """Raises UserError where the generator keeps no `path_length_mean`."""
        mean = dict(seen.generator.named_buffers(recurse=False)).get("path_length_mean")
        if mean is None:
            raise UserError(
                "Path length needs a generator that keeps its mean: set PathLength's weight to 0."
            )
        if not self.due(seen.step):
            return {}
        lengths = self._lengths(seen)
        with torch.no_grad():
            mean.lerp_(collectives.all_reduce_mean(lengths.mean()), self.decay)
        return {"path_length": self.every * self.weight * (lengths - mean.clone()).square().mean()}

    def _lengths(self, seen: GeneratorPass) -> Tensor:
        """|J_w^T y| of each image of the term's own batch, (B,), differentiable."""
        count, rng = max(seen.count // self.shrink, 1), seen.rng
        z = normal(rng, count, seen.generator.latent_dim)
        labels = None if seen.labels is None else seen.labels[:: self.shrink][:count]
        with sdpa_kernel(SDPBackend.MATH):
            w = seen.generator.mapping(z, labels)
            images = seen.generator.synthesise(w)
            y = normal(rng, *images.shape) / images[0, 0].numel() ** 0.5
            (gradient,) = torch.autograd.grad((images * y).sum(), w, create_graph=True)
        return gradient.square().sum(-1).reshape(count, -1).mean(1).sqrt()
