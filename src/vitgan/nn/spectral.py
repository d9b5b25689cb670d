"""Spectral normalisation of a whole network at once, plain and improved.

Improved (deck, "Normalização espectral aprimorada"; blog): W_bar = sigma(W_init) W / sigma(W).
Plain (arXiv 1802.05957): the same with sigma(W_init) = 1.
Shapes: n layers of one shape, O out features, I in features.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.nn.linear import Linear


class SpectralNorm(nn.Module):
    """Normalises the weights of `layers`, all those of one shape in one batched product.

    sigma(W_init) and the first singular vectors come from an exact decomposition when this is built; all
    three are buffers, saved with the weights. `advance` takes one step of power iteration and is called once
    a discriminator update; nothing else moves the vectors. The gradient flows through sigma(W) = u^T W v.
    W is the weight that is used, after the equalising scale (docs/method.md, erratum 3).
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
            scale = torch.tensor([layer.scale for layer in group]).view(-1, 1, 1)
            self.register_buffer(f"scale_{k}", scale, persistent=False)
        self.recalibrate()

    @torch.no_grad()
    def recalibrate(self) -> None:
        """Take the present weights as W_init: exact sigma and singular vectors, by a decomposition."""
        for k in range(len(self.groups)):
            weight = self._stacked(k)
            left, sigma, right = torch.linalg.svd(weight.double(), full_matrices=False)
            self._buffer("left", k).copy_(left[:, :, :1])
            self._buffer("right", k).copy_(right[:, :1].mT)
            self._buffer("initial", k).copy_(sigma[:, :1, None])

    @torch.no_grad()
    def advance(self) -> None:
        """One step of power iteration for every layer: v = W^T u / |W^T u|, then u = W v / |W v|."""
        for k in range(len(self.groups)):
            weight = self._stacked(k)
            right = F.normalize(weight.mT @ self._buffer("left", k), dim=1)
            self._buffer("right", k).copy_(right)
            self._buffer("left", k).copy_(F.normalize(weight @ right, dim=1))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it, every layer computes with its normalised weight."""
        try:
            for k, group in enumerate(self.groups):
                for layer, weight in zip(group, self._normalised(k).unbind(), strict=True):
                    layer.normalised = weight
            yield
        finally:
            for group in self.groups:
                for layer in group:
                    layer.normalised = None

    def _normalised(self, k: int) -> Tensor:
        """W_bar (n, O, I) of group k."""
        weight = self._stacked(k)
        left, right = self._buffer("left", k), self._buffer("right", k)
        sigma = left.mT @ (weight @ right)  # (n, 1, 1)
        target = self._buffer("initial", k) if self.improved else 1.0
        return weight * (target / sigma)

    def _buffer(self, name: str, k: int) -> Tensor:
        return self.get_buffer(f"{name}_{k}")

    def _stacked(self, k: int) -> Tensor:
        """The used weights of group k, (n, O, I)."""
        return torch.stack([layer.weight for layer in self.groups[k]]) * self._buffer("scale", k)
