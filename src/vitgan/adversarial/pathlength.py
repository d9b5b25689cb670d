"""Path-length regularisation of the generator (arXiv 1912.04958, section 3.2).

Shapes: B batch, C channels, H x W image, L styles, E width of w.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitgan import processes
from vitgan.adversarial.terms import GeneratorPass
from vitgan.draws import normal
from vitgan.errors import UserError


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
            mean.lerp_(processes.mean(lengths.mean()), self.decay)
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
