"""Multi-head self-attention by dot product and by L2 distance.

Shapes: B batch, N tokens, D width, h heads, d = D / h.
"""

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.nn.linear import Linear


def dot_product_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V of (B, h, N, d) tensors (arXiv 1706.03762), by torch's fused kernel."""
    return F.scaled_dot_product_attention(query, key, value)


def l2_attention(query: Tensor, value: Tensor, *, attend_to_farthest: bool = False) -> Tensor:
    """softmax_j(-|q_i - q_j|^2 / sqrt(d)) V of (B, h, N, d) tensors, keys tied to the queries.

    [Kim et al., arXiv 2006.04710]. |q_i|^2 is the same for all j and drops out of the softmax, which leaves
    2 q_i.q_j - |q_j|^2: no (N, N, d) tensor. Distances and softmax are in fp32 at least.
    `attend_to_farthest` takes the plus sign that the deck and the blog print (docs/method.md, erratum 1).
    """
    products = query @ query.mT  # (B, h, N, N)
    if products.itemsize < 4:
        products = products.float()
    squared_norm = query.to(products.dtype).square().sum(-1)  # (B, h, N)
    sign = -1.0 if attend_to_farthest else 1.0
    logits = (2 * products - squared_norm.unsqueeze(-2)) * (sign / math.sqrt(query.shape[-1]))
    return logits.softmax(-1).to(value.dtype) @ value


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, D) -> (B, h, N, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, h, N, d) -> (B, N, D)."""
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Dot-product self-attention, (B, N, D) -> (B, N, D) (deck eq. 2).

    The key has no bias: it would add the same number to every logit of a row, which softmax ignores.
    """

    def __init__(self, width: int, heads: int, linear: Callable[..., Linear] = Linear) -> None:
        super().__init__()
        self.heads = heads
        self.query = linear(width, width)
        self.key = linear(width, width, bias=False)
        self.value = linear(width, width)
        self.out = linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (split_heads(f(x), self.heads) for f in (self.query, self.key, self.value))
        return self.out(merge_heads(dot_product_attention(query, key, value)))


class L2Attention(nn.Module):
    """L2 self-attention with one query/key matrix W_q = W_k, (B, N, D) -> (B, N, D) (deck, [K]).

    The query/key map has no bias: it cancels in every distance. It starts smaller than the other layers, at
    a gain of (4 d)^(-1/4), at which the logits of unit-variance tokens have mean -1: at gain 1 they have mean
    -2 sqrt(d), every token attends to itself alone, and ISN would hold W_q at that size.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        linear: Callable[..., Linear] = Linear,
        *,
        attend_to_farthest: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.attend_to_farthest = heads, attend_to_farthest
        self.query_key = linear(width, width, bias=False, gain=(4 * width / heads) ** -0.25)
        self.value = linear(width, width)
        self.out = linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, value = split_heads(self.query_key(x), self.heads), split_heads(self.value(x), self.heads)
        return self.out(merge_heads(l2_attention(query, value, attend_to_farthest=self.attend_to_farthest)))
