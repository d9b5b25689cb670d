"""Multi-head self-attention by dot product and by L2 distance.

Shapes: B batch, N tokens, D width, h heads, d = D / h.
"""

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.nn.linear import Linear, at_least_fp32


def dot_product_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V of (B, h, N, d) tensors (arXiv 1706.03762), by torch's fused kernel."""
    return F.scaled_dot_product_attention(query, key, value)


def l2_attention(query: Tensor, key: Tensor, value: Tensor, *, attend_to_farthest: bool = False) -> Tensor:
    """softmax_j(-|q_i - k_j|^2 / sqrt(d)) V: query (B, h, M, d), key and value (B, h, N, d) -> (B, h, M, d).

    [Kim et al., arXiv 2006.04710]. |q_i|^2 is the same for all j and drops out of the softmax, which leaves
    2 q_i.k_j - |k_j|^2: no (M, N, d) tensor. The products are in the dtype of the inputs,
    norms and softmax in fp32 at least.
    `attend_to_farthest` takes the plus sign that the deck and the blog print (docs/method.md, erratum 1).
    """
    products = at_least_fp32(query @ key.mT)  # (B, h, M, N)
    squared_norm = key.to(products.dtype).square().sum(-1)  # (B, h, N)
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

    With `first` the output is that of the first so many tokens, which attend to all N. The key has no bias:
    it would add the same number to every logit of a row, which softmax ignores.
    """

    def __init__(self, width: int, heads: int, linear: Callable[..., Linear] = Linear) -> None:
        super().__init__()
        self.heads = heads
        self.query = linear(width, width)
        self.key = linear(width, width, bias=False)
        self.value = linear(width, width)
        self.out = linear(width, width)

    def forward(self, x: Tensor, first: int | None = None) -> Tensor:
        query = split_heads(self.query(x[:, :first]), self.heads)
        key, value = split_heads(self.key(x), self.heads), split_heads(self.value(x), self.heads)
        return self.out(merge_heads(dot_product_attention(query, key, value)))


class L2Attention(nn.Module):
    """L2 self-attention with one query/key matrix W_q = W_k, (B, N, D) -> (B, N, D) (deck, [K]).

    With `first` the output is that of the first so many tokens, which attend to all N. The query/key map has
    no bias: it cancels in every distance. [choice] It starts smaller than the other layers, at a gain of 1/2:
    the logits of unit-variance tokens then have mean -sqrt(d) / 2 and standard deviation 0.7. At gain 1 the
    mean is -2 sqrt(d), every token attends to itself alone, and ISN would hold W_q at that size.
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
        self.query_key = linear(width, width, bias=False, gain=0.5)
        self.value = linear(width, width)
        self.out = linear(width, width)

    def forward(self, x: Tensor, first: int | None = None) -> Tensor:
        key, value = split_heads(self.query_key(x), self.heads), split_heads(self.value(x), self.heads)
        query = key[:, :, :first]
        return self.out(
            merge_heads(l2_attention(query, key, value, attend_to_farthest=self.attend_to_farthest))
        )
