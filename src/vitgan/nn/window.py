"""Self-attention over a square grid of tokens, with relative positions and, where the grid is large, windows.

Shapes: B batch, S side of the grid, N = S^2 tokens in raster order, D width, h heads, G side of a window.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.nn.attention import merge_heads, split_heads
from vitgan.nn.linear import Linear


def relative_bias(table: Tensor) -> Tensor:
    """A bias for each offset, (h, 2G - 1, 2G - 1) -> for each query and key of a G x G grid, (h, G^2, G^2).

    Query (r, c) and key (r', c') get table[:, r' - r + G - 1, c' - c + G - 1]. Reads the table by views, so
    its gradient is a sum over them: no index, no scattered addition.
    """
    side = (table.shape[-1] + 1) // 2
    views = table.unfold(1, side, 1).unfold(
        2, side, 1
    )  # (h, G, G, G, G): [a, b, i, j] is table[a + i, b + j]
    return views.flip(1, 2).flatten(3, 4).flatten(1, 2)


def to_windows(tokens: Tensor, window: int) -> Tensor:
    """(B, S^2, D) -> (B (S / G)^2, G^2, D): windows, and the tokens of each, in raster order."""
    count = math.isqrt(tokens.shape[1]) // window
    squares = tokens.unflatten(1, (count, window, count, window)).transpose(2, 3)
    return squares.flatten(3, 4).flatten(0, 2)


def from_windows(windows: Tensor, side: int) -> Tensor:
    """(B (S / G)^2, G^2, D) -> (B, S^2, D), the inverse of `to_windows` for a grid of `side` S."""
    window = math.isqrt(windows.shape[1])
    count = side // window
    squares = windows.unflatten(1, (window, window)).unflatten(0, (-1, count, count))
    return squares.transpose(2, 3).flatten(1, 4)


class GridAttention(nn.Module):
    """Attention within each G x G window of an S x S grid, (B, N, D) -> (B, N, D) (arXiv 2102.07074).

    softmax_j(q_i.k_j / sqrt(d) + b(place_j - place_i)) v_j with a learned bias b for each head and offset,
    over the tokens j of the window of i; G = S is attention over all. G must divide S. The bias starts with
    standard deviation 0.02 [authors]. The key has no bias: softmax ignores it.
    """

    def __init__(
        self, width: int, heads: int, side: int, window: int, linear: Callable[..., Linear] = Linear
    ) -> None:
        super().__init__()
        assert side % window == 0
        self.heads, self.side, self.window = heads, side, window
        self.query = linear(width, width)
        self.key = linear(width, width, bias=False)
        self.value = linear(width, width)
        self.out = linear(width, width)
        self.table = nn.Parameter(0.02 * torch.randn(heads, 2 * window - 1, 2 * window - 1))

    def forward(self, x: Tensor, first: int | None = None) -> Tensor:
        """`first` is for attention that computes some tokens alone; here it must be None."""
        assert first is None
        windows = to_windows(x, self.window)  # (B (S / G)^2, G^2, D)
        query, key, value = (
            split_heads(layer(windows), self.heads) for layer in (self.query, self.key, self.value)
        )
        bias = relative_bias(self.table).to(x.dtype).unsqueeze(0)  # (1, h, G^2, G^2)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return from_windows(self.out(merge_heads(out)), self.side)
