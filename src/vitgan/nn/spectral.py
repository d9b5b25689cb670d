"""Spectral normalisation of a whole network at once, plain and improved.

Improved (arXiv 2107.04589; the seminar deck and the blog post): W_bar = sigma(W_init) W / sigma(W).
Plain (arXiv 1802.05957): the same with sigma(W_init) = 1.
Shapes: n layers of one shape, O out features, I in features.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.nn.linear import Linear

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
