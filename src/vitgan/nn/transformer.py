"""Pre-norm transformer blocks, with a latent where the norms take one (deck eq. 2-3 and 6-7).

Shapes: B batch, N tokens, D width, E width of w.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.nn.linear import Linear


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

    The residual is the un-normalised h. `norm()` makes a module that is called with (h, w). With `first`
    only the first so many tokens are computed, which attend to all N: (B, first, D).
    """

    def __init__(self, attention: nn.Module, perceptron: nn.Module, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm_attention, self.attention = norm(), attention
        self.norm_perceptron, self.perceptron = norm(), perceptron

    def forward(self, h: Tensor, w: Tensor | None = None, first: int | None = None) -> Tensor:
        h = h[:, :first] + self.attention(self.norm_attention(h, w), first)
        return h + self.perceptron(self.norm_perceptron(h, w))
