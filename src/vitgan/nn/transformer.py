"""The transformer block, its MLP, and activation checkpointing."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitgan.nn.attention import fused_allowed
from vitgan.nn.linear import Linear


def recomputed(
    function: Callable[..., Tensor],
    *inputs: Tensor | int | None,
    again: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Tensor:
    """function(*inputs) under activation checkpointing: the backward pass computes the activations again.

    `again` makes the context of that second computation, for what `function` reads beside its inputs. Within
    `sdpa_kernel(SDPBackend.MATH)`, where gradients are differentiated a second time, activations are kept.
    """
    if not (torch.is_grad_enabled() and fused_allowed()):
        return function(*inputs)
    return checkpoint(
        function,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), again()),
    )


class MultilayerPerceptron(nn.Module):
    """Two layers with a GELU between them: (B, N, D) -> (B, N, D)."""

    def __init__(self, width: int, hidden: int, linear: Callable[..., Linear] = Linear) -> None:
        super().__init__()
        self.up = linear(width, hidden)
        self.down = linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """h' = MSA(norm(h, w)) + h; h = MLP(norm(h', w)) + h': h (B, N, D), w (B, E) or None -> (B, N, D).

    The residual is the un-normalised h. `norm()` makes a module that is called with (h, w). With `first` only
    that many leading tokens are computed, which attend to all N: (B, first, D).
    """

    def __init__(self, attention: nn.Module, perceptron: nn.Module, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm_attention, self.attention = norm(), attention
        self.norm_perceptron, self.perceptron = norm(), perceptron

    def forward(self, h: Tensor, w: Tensor | None = None, first: int | None = None) -> Tensor:
        h = h[:, :first] + self.attention(self.norm_attention(h, w), first)
        return h + self.perceptron(self.norm_perceptron(h, w))
