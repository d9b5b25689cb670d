"""Layer norm, self-modulated layer norm, and batch norm conditioned on a latent.

Shapes: B batch, N tokens, D width, E width of w, C channels, H x W grid.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

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


Normalisation = Literal["improved", "plain", "none"]


class SpectralNorm(nn.Module):
    """Normalises the weights of `layers`, all those of one shape by one batched product.

    sigma(W_init) and the first singular vectors come from an exact decomposition when the module is built.
    `advance` takes one step of power iteration and is called once after each update of the network: its sigma
    serves every forward pass until the next update, those for the generator's loss included. Nothing else
    changes sigma or the vectors, which are buffers and are saved with the weights. The gradient flows through
    sigma(W) = u^T W v. W is the weight in use, after the equalising scale (docs/method.md, erratum 3).
    """

    def __init__(self, layers: Sequence[Linear], *, improved: bool = True) -> None:
        super().__init__()
        self.improved = improved
        shapes = dict.fromkeys(tuple(layer.weight.shape) for layer in layers)
        # A plain list of lists: the layers belong to the network, not to this module.
        self.groups = [[layer for layer in layers if tuple(layer.weight.shape) == s] for s in shapes]
        for k, (group, (rows, columns)) in enumerate(zip(self.groups, shapes, strict=True)):
            self.register_buffer(f"left_{k}", torch.empty(len(group), rows, 1))
            self.register_buffer(f"right_{k}", torch.empty(len(group), columns, 1))
            self.register_buffer(f"initial_{k}", torch.empty(len(group), 1, 1))
            self.register_buffer(f"sigma_{k}", torch.empty(len(group), 1, 1))
            scale = torch.tensor([layer.scale for layer in group]).view(-1, 1, 1)
            self.register_buffer(f"scale_{k}", scale, persistent=False)
        self.recalibrate()

    @torch.no_grad()
    def recalibrate(self) -> None:
        """Take the present weights as W_init; exact decompositions give sigma and the singular vectors."""
        for k in range(len(self.groups)):
            weight = self._stacked(k) * self._buffer("scale", k)
            left, sigma, right = torch.linalg.svd(weight.double(), full_matrices=False)
            self._buffer("left", k).copy_(left[:, :, :1])
            self._buffer("right", k).copy_(right[:, :1].mT)
            self._buffer("initial", k).copy_(sigma[:, :1, None])
            self._buffer("sigma", k).copy_(sigma[:, :1, None])

    @torch.no_grad()
    def advance(self) -> None:
        """One step of power iteration for all layers: v = W^T u / |W^T u|, sigma = |W v|, u = W v / sigma."""
        for k in range(len(self.groups)):
            weight = self._stacked(k)
            right = F.normalize(weight.mT @ self._buffer("left", k), dim=1)
            image = weight @ right
            norm = image.norm(dim=1, keepdim=True)
            self._buffer("right", k).copy_(right)
            self._buffer("left", k).copy_(image / norm)
            self._buffer("sigma", k).copy_(norm * self._buffer("scale", k))

    @contextmanager
    def applied(self) -> Iterator[list[Tensor]]:
        """A context within which every layer computes with its normalised weight.

        It yields these weights in the form that `using` takes.
        """
        weights = [self._normalised(k) for k in range(len(self.groups))]
        with self.using(weights):
            yield weights

    @contextmanager
    def using(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """A context within which every layer computes with its part of `weights`, one (n, O, I) a group."""
        try:
            for group, stacked in zip(self.groups, weights, strict=True):
                for layer, weight in zip(group, stacked.unbind(), strict=True):
                    layer.normalised = weight
            yield
        finally:
            for group in self.groups:
                for layer in group:
                    layer.normalised = None

    def _normalised(self, k: int) -> Tensor:
        """W_bar (n, O, I) of group k."""
        sigma = self._buffer("sigma", k)
        target = self._buffer("initial", k) if self.improved else torch.ones_like(sigma)
        factor = self._buffer("scale", k) * target / sigma
        vectors = self._buffer("left", k), self._buffer("right", k)
        return _Normalise.apply(self._stacked(k), factor, target, *vectors)

    def _buffer(self, name: str, k: int) -> Tensor:
        return self.get_buffer(f"{name}_{k}")

    def _stacked(self, k: int) -> Tensor:
        """The stored weights of group k, (n, O, I)."""
        return torch.stack([layer.weight for layer in self.groups[k]])


class _Normalise(torch.autograd.Function):
    """W_bar = f W with f = scale target / sigma: W (n, O, I); f, target (n, 1, 1); u (n, O, 1); v (n, I, 1).

    d sigma / d W = scale u v^T, hence dW = f (G - <G, W_bar> / target u v^T) for the gradient G of W_bar.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, factor: Tensor, target: Tensor, left: Tensor, right: Tensor
    ) -> Tensor:
        normalised = weight * factor
        ctx.save_for_backward(normalised, factor, target, left, right)
        return normalised

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        normalised, factor, target, left, right = ctx.saved_tensors
        along = torch.linalg.vecdot(gradient.flatten(1), normalised.flatten(1)).view_as(target) / target
        return torch.baddbmm(gradient, left * -along, right.mT).mul_(factor), None, None, None, None
