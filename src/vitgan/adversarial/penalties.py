"""Penalties on gradients: R1, WGAN-GP and drift of the discriminator, path length of the generator.

Shapes: B batch, C channels, H x W image, L styles, E width of w.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitgan.adversarial.terms import GeneratorPass, Pass, WithoutView
from vitgan.distributed import collectives
from vitgan.distributed.rng import normal, uniform
from vitgan.errors import UserError


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


@dataclass(frozen=True, kw_only=True)
class PathLength:
    """weight E(|J_w^T y| - a)^2, J_w = d G(w) / d w, y ~ N(0, I) / sqrt(HW) (eq. 4), every `every` steps.

    It is multiplied by `every`. a is the running mean of |J_w^T y|, the generator's buffer
    `path_length_mean`; it moves here alone, before it is used; no gradient passes it. The images are
    the term's own, in fp32. Where w is (B, L, E), one style a layer, the norm is the root of the mean over L
    of squared norms, [StyleGAN2's release].

    Differs from the paper: the noise within the generator is its fixed one, styles are not mixed.
    """

    weight: float = 2.0
    """Weight; 0 leaves the term out."""
    every: int = 4
    """Steps between two of them (lazy regularisation, appendix B)."""
    decay: float = 0.01
    """Share of the newest mean in the running one."""
    shrink: int = 2
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
