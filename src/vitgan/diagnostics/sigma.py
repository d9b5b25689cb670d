"""The largest singular value of every weight, as it is, as it is used, and as it began.

Shapes: O out features or channels, I in features or channels, k side of a kernel.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vitgan.nn import Convolution, Linear, SpectralNorm

NOT_MATRICES = (nn.Embedding,)


@dataclass(frozen=True, kw_only=True)
class LayerSigma:
    """Largest singular values of one weight."""

    layer: str
    """The module's name in its network."""
    kind: Literal["linear", "convolution"]
    """A convolution's sigma is that of its (O, I k k) matrix, not its norm as a map of images."""
    shape: tuple[int, ...]
    stored: float
    """sigma(W), after the equalising scale and before any spectral norm."""
    used: float
    """sigma of the weight that the layer computes with."""
    start: float
    """sigma(W_init): the spectral norm's buffer, else the network as its seed made it."""

    @property
    def ratio(self) -> float:
        """used / start: 1 where an improved spectral norm holds, up to the lag of its power iteration."""
        return self.used / self.start if self.start else float("inf")


@torch.no_grad()
def sigmas(network: nn.Module, at_start: nn.Module) -> list[LayerSigma]:
    """One entry for each weight of two or more axes; `at_start` is the network with its first weights."""
    stored, start = dict(weights(network)), dict(weights(at_start))
    known = _normed_starts(network)
    convolutions = {name for name, module in network.named_modules() if _is_convolution(module)}
    with normalised(network):
        used = dict(weights(network))
    return [
        LayerSigma(
            layer=name,
            kind="convolution" if name in convolutions else "linear",
            shape=tuple(weight.shape),
            stored=largest_singular_value(weight),
            used=largest_singular_value(used[name]),
            start=known[name] if name in known else largest_singular_value(start[name]),
        )
        for name, weight in stored.items()
    ]


def largest_singular_value(weight: Tensor) -> float:
    """sigma of the matrix (O, the rest), in fp64: the root of the smaller Gram matrix' top eigenvalue."""
    matrix = weight.detach().double().cpu().flatten(1)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    return float(torch.linalg.eigvalsh(matrix @ matrix.mT)[-1].clamp(min=0).sqrt())


@contextmanager
def normalised(network: nn.Module) -> Iterator[None]:
    """Within it the layers of `network` compute with their normalised weights. Do not call `network` itself
    there: its own forward would end the normalisation."""
    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, SpectralNorm):
                stack.enter_context(module.applied())
        yield


def weights(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, weight after its equalising scale) of each module that multiplies by one."""
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, NOT_MATRICES) or not isinstance(weight, Tensor) or weight.ndim < 2:
            continue
        if isinstance(module, Linear):
            yield name, module.effective_weight()
        else:
            yield name, weight * getattr(module, "scale", 1.0)


def _is_convolution(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(module, Convolution) or (isinstance(weight, Tensor) and weight.ndim > 2)


def _normed_starts(network: nn.Module) -> dict[str, float]:
    """sigma(W_init) by layer name, from the buffers of the spectral norms."""
    names = {module: name for name, module in network.named_modules()}
    return {
        names[layer]: float(norm.get_buffer(f"initial_{k}")[i])
        for norm in network.modules()
        if isinstance(norm, SpectralNorm)
        for k, group in enumerate(norm.groups)
        for i, layer in enumerate(group)
    }
