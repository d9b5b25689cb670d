"""Layer norm, self-modulated layer norm, and batch norm conditioned on a latent.

Shapes: B batch, N tokens, D width, E width of w, C channels, H x W grid.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.distributed import collectives
from vitgan.nn.linear import Linear

EPSILON = 1e-6


class LayerNorm(nn.Module):
    """Plain layer norm over D that accepts, and ignores, the latent: h (B, L, D) -> (B, L, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, h: Tensor, w: Tensor | None = None) -> Tensor:  # noqa: ARG002
        weight, bias = self.weight.to(h.dtype), self.bias.to(h.dtype)
        return F.layer_norm(h, weight.shape, weight, bias, EPSILON)


class SelfModulatedLayerNorm(nn.Module):
    """SLN(h, w) = gamma(w) * (h - mu) / sigma + beta(w): h (B, L, D), w (B, E) -> (B, L, D).

    mu and sigma, the standard deviation, are per token over D; gamma and beta are vectors of size D, each
    an affine map of w of this norm's own. At w = 0 it starts as a plain layer norm, gamma = 1 and beta = 0.

    Differs from the paper: gamma and beta depend on w from the start, where the maps' weights have standard
    deviation `gain` / sqrt(E). At gain 0 all images start alike, and training does not pull them apart
    (docs/decisions.md).
    """

    def __init__(
        self, width: int, latent_width: int, linear: Callable[..., Linear] = Linear, *, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.width = width
        self.gamma = linear(latent_width, width, gain=gain, bias_start=1.0)
        self.beta = linear(latent_width, width, gain=gain)

    def forward(self, h: Tensor, w: Tensor) -> Tensor:
        gamma = self.gamma(w).unsqueeze(1)  # (B, 1, D)
        beta = self.beta(w).unsqueeze(1)
        return beta + gamma * F.layer_norm(h, (self.width,), eps=EPSILON)


BATCH_EPSILON = 1e-5


class Standardisation(nn.Module):
    """(x - mu) / sigma of each channel: x (B, C, H, W) -> (B, C, H, W) (arXiv 1502.03167).

    In training mode mu and sigma are those of the batch over all processes, and the running ones move toward
    them by the share `momentum`; in eval mode the running ones are used, so that an image depends on no
    other. Both are stored, and computed, in fp32 where the input has a shorter dtype.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and collectives.world_size() > 1:
            return self._of_all_processes(x)
        return F.batch_norm(
            x, self.mean, self.variance, training=self.training, momentum=self.momentum, eps=BATCH_EPSILON
        )

    def _of_all_processes(self, x: Tensor) -> Tensor:
        wide, axes = x.to(torch.promote_types(x.dtype, torch.float32)), (0, 2, 3)
        count = collectives.world_size() * x.numel() // x.shape[1]
        mean = collectives.all_reduce_sum(wide.sum(axes)) / count
        apart = wide - mean[:, None, None]
        variance = collectives.all_reduce_sum(apart.square().sum(axes)) / count
        with torch.no_grad():
            self.mean.lerp_(mean.to(self.mean.dtype), self.momentum)
            self.variance.lerp_((variance * (count / (count - 1))).to(self.mean.dtype), self.momentum)
        return (apart * (variance + BATCH_EPSILON).rsqrt()[:, None, None]).to(x.dtype)


class BatchNorm(nn.Module):
    """Plain batch norm that accepts, and ignores, the condition: x (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.standardise = Standardisation(channels)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        gamma, beta = (p.to(x.dtype)[:, None, None] for p in (self.weight, self.bias))
        return torch.addcmul(beta, gamma, self.standardise(x))


class LabelTable(Linear):
    """A vector for each class, as a linear map of the one-hot label (B, K) -> (B, O); stored unscaled.

    It is a class of its own because the generator's spectral norm leaves it out: a normalised table of ten
    classes would share one unit of spectral norm between all channels.
    """

    def __init__(self, classes: int, size: int, *, bias: bool = True, bias_start: float = 0.0) -> None:
        super().__init__(classes, size, bias=bias, bias_start=bias_start, equalised=False)


class ConditionalBatchNorm(nn.Module):
    """gamma(c) * (x - mu) / sigma + beta(c): x (B, C, H, W), c (B, E) -> (B, C, H, W).

    c is a one-hot label (arXiv 1707.00683), an embedding of it joined to a part of the latent (arXiv
    1809.11096), or a part of the latent alone (self-modulation, arXiv 1810.01365). gamma and beta are affine
    maps of c with biases that start at 1 and 0.
    """

    def __init__(self, channels: int, condition_dim: int, linear: Callable[..., Linear] = Linear) -> None:
        super().__init__()
        self.standardise = Standardisation(channels)
        self.gamma = linear(condition_dim, channels, bias_start=1.0)
        self.beta = linear(condition_dim, channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gamma, beta = (f(condition)[:, :, None, None] for f in (self.gamma, self.beta))  # (B, C, 1, 1)
        return torch.addcmul(beta, gamma, self.standardise(x))
