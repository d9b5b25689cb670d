"""Dot-product and L2 attention, attention within windows, and attention over pixels.

Shapes: B batch, N tokens, D width, h heads, d = D / h, C channels, H x W grid.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitgan.compat import softmax_backward
from vitgan.nn.convolution import Convolution
from vitgan.nn.linear import Linear, at_least_fp32

# Measured on a CPU (docs/performance.md).
FUSED_FROM = 512  # keys from which torch's fused kernel is the faster in fp32
DIAGONAL_UP_TO = 384  # keys up to which dS + dS^T is the cheaper in the products' backward


def dot_product_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V of (B, h, N, d) tensors (arXiv 1706.03762).

    Torch's fused kernel computes it, except in bf16 on a CPU, where the plain products are faster.
    """
    if fused_allowed() and not (query.device.type == "cpu" and query.dtype == torch.bfloat16):
        return F.scaled_dot_product_attention(query, key, value)
    return (query * (1 / math.sqrt(query.shape[-1])) @ key.mT).softmax(-1) @ value


def l2_attention(query: Tensor, key: Tensor, value: Tensor, *, attend_to_farthest: bool = False) -> Tensor:
    """softmax_j(-|q_i - k_j|^2 / sqrt(d)) V: query (B, h, M, d), key and value (B, h, N, d) -> (B, h, M, d).

    The attention of arXiv 2006.04710. |q_i|^2 is the same for all j and drops out of the softmax, which
    leaves 2 q_i.k_j - |k_j|^2: no (M, N, d) tensor. `attend_to_farthest` takes the plus sign that the seminar
    deck and the blog post print (docs/method.md, erratum 1). Three implementations give the same number:
    torch's fused kernel over heads with the norms as additional features, matrix products with a backward
    pass of their own, and the plain products, which are used within `sdpa_kernel(SDPBackend.MATH)`. The fused
    kernel cannot be differentiated twice.
    """
    if not fused_allowed():
        return plain_l2_attention(query, key, value, attend_to_farthest=attend_to_farthest)
    long = key.shape[-2] >= FUSED_FROM and key.dtype == torch.float32
    if key.device.type != "cpu" or long:
        return fused_l2_attention(query, key, value, attend_to_farthest=attend_to_farthest)
    own = None if query is key else query.flatten(0, 1)
    sign = -1.0 if attend_to_farthest else 1.0
    return _L2Products.apply(own, key.flatten(0, 1), value.flatten(0, 1), sign).unflatten(0, key.shape[:2])


def fused_allowed() -> bool:
    """Whether kernels without a second derivative may be used: not within `sdpa_kernel(SDPBackend.MATH)`.

    Compiled code is never run within that context (`vitgan.engine.compile`), so the answer is True while
    compiling; reading the state of the context there would break the compiled graph.
    """
    return torch.compiler.is_compiling() or torch.backends.cuda.flash_sdp_enabled()


def plain_l2_attention(
    query: Tensor, key: Tensor, value: Tensor, *, attend_to_farthest: bool = False
) -> Tensor:
    """`l2_attention` by its formula: products in the inputs' dtype, norms and softmax in fp32 or wider."""
    products = at_least_fp32(query @ key.mT)  # (B, h, M, N)
    squared_norm = key.to(products.dtype).square().sum(-1)  # (B, h, N)
    sign = -1.0 if attend_to_farthest else 1.0
    logits = (2 * products - squared_norm.unsqueeze(-2)) * (sign / math.sqrt(query.shape[-1]))
    return logits.softmax(-1).to(value.dtype) @ value


def fused_l2_attention(
    query: Tensor, key: Tensor, value: Tensor, *, attend_to_farthest: bool = False
) -> Tensor:
    """`l2_attention` by torch's fused kernel: q' = [q, 1, 1], k' = [k, -|k|^2 / 2], scale 2 / sqrt(d).

    The norm takes two features, its rounded value and the rounding error, so in bf16 it has 16 bits.
    """
    size, dtype = query.shape[-1], query.dtype
    norm = at_least_fp32(key).square().sum(-1, keepdim=True) / -2  # (B, h, N, 1)
    coarse = norm.to(dtype)
    extra = [coarse, (norm - coarse.to(norm.dtype)).to(dtype)]
    zeros = key.new_zeros(*key.shape[:-1], -(size + 2) % 8)  # the kernels of a GPU want a multiple of 8
    keys = torch.cat((key, *extra, zeros), -1)
    ones = query.new_ones(*query.shape[:-1], 2)
    queries = torch.cat((query, ones, query.new_zeros(*query.shape[:-1], zeros.shape[-1])), -1)
    values = F.pad(value, (0, keys.shape[-1] - size))
    scaled = -queries if attend_to_farthest else queries  # kernels want a positive scale
    return F.scaled_dot_product_attention(scaled, keys, values, scale=2 / math.sqrt(size))[..., :size]


class _L2Products(torch.autograd.Function):
    """`l2_attention` of (B h, N, d) with fewer passes over the (M, N) logits than autograd would make.

    The first product is added to the norms less their mean: softmax ignores the mean, and bf16 rounds small
    numbers less. Where query and key are one matrix, S = K K^T is symmetric in them, so that
    dK = c ((dS + dS^T) - diag(column sums of dS)) K with c = 2 sign / sqrt(d), a single product. A gradient
    that is to be differentiated again is computed through the plain products.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor | None, key: Tensor, value: Tensor, sign: float) -> Tensor:
        ctx.sign, ctx.scale = sign, 2 * sign / math.sqrt(key.shape[-1])
        norm = torch.linalg.vector_norm(at_least_fp32(key), dim=-1).square().unsqueeze(1)  # (B h, 1, N)
        centred = ((norm.mean(-1, keepdim=True) - norm) * (ctx.scale / 2)).to(key.dtype)
        weights = torch.baddbmm(centred, key if query is None else query, key.mT, alpha=ctx.scale).softmax(-1)
        ctx.save_for_backward(query, key, value, weights)
        return weights @ value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, weights = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph
            return *_plain_gradients(query, key, value, gradient, ctx.sign), None
        of_value = weights.mT @ gradient
        of_logits = softmax_backward(gradient @ value.mT, weights)
        return *_l2_gradients(query, key, of_logits, ctx.scale), of_value, None


def _plain_gradients(
    query: Tensor | None, key: Tensor, value: Tensor, gradient: Tensor, sign: float
) -> tuple[Tensor | None, ...]:
    """Differentiable gradients of query, key and value; that of `query` is None where it is the key."""
    inputs = [key, value] if query is None else [query, key, value]
    out = plain_l2_attention(key if query is None else query, key, value, attend_to_farthest=sign < 0)
    found = torch.autograd.grad(out, inputs, gradient, create_graph=True)
    return (None, *found) if query is None else found


def _l2_gradients(
    query: Tensor | None, key: Tensor, of_logits: Tensor, scale: float
) -> tuple[Tensor | None, Tensor]:
    """Gradients of query and key from that of the logits (B h, M, N); None for a query that is the key."""
    columns = of_logits.sum(-2)  # (B h, N)
    if query is None and key.shape[-2] <= DIAGONAL_UP_TO:
        both = of_logits + of_logits.mT
        both.diagonal(dim1=-2, dim2=-1).sub_(columns)
        return None, torch.baddbmm(key, both, key, beta=0, alpha=scale)
    own = key if query is None else query
    of_key = torch.baddbmm(key * columns.unsqueeze(-1), of_logits.mT, own, beta=-scale, alpha=scale)
    if query is None:
        return None, of_key.baddbmm_(of_logits, key, alpha=scale)
    return torch.baddbmm(query, of_logits, key, beta=0, alpha=scale), of_key


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, D) -> (B, h, N, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, h, N, d) -> (B, N, D)."""
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Dot-product self-attention, (B, N, D) -> (B, N, D) (seminar deck, eq. 2).

    With `first` only the output of that many leading tokens is computed, which attend to all N. The key has
    no bias, which would add the same number to every logit of a row: softmax ignores that.
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
    """L2 self-attention with one query/key matrix W_q = W_k, (B, N, D) -> (B, N, D) (arXiv 2006.04710).

    With `first` only the output of that many leading tokens is computed, which attend to all N. The query/key
    map has no bias, which would cancel in every distance. Our choice: it starts smaller than the other
    layers, at a gain of 1/2, so that the logits of unit-variance tokens have mean -sqrt(d) / 2 and standard
    deviation 0.7. At gain 1 the mean is -2 sqrt(d), every token attends to itself alone, and improved
    spectral normalisation would hold W_q at that size.
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
        query = key if first is None else key[:, :, :first]
        return self.out(
            merge_heads(l2_attention(query, key, value, attend_to_farthest=self.attend_to_farthest))
        )


def relative_bias(table: Tensor) -> Tensor:
    """A bias of each offset, (h, 2G - 1, 2G - 1), as one of each pair of G x G tokens, (h, G^2, G^2).

    Query (r, c) and key (r', c') get table[:, r' - r + G - 1, c' - c + G - 1]. The table is read through
    strided views, so that its gradient is a sum over them, without indexing or scattered addition.
    """
    side = (table.shape[-1] + 1) // 2
    views = table.unfold(1, side, 1).unfold(
        2, side, 1
    )  # (h, G, G, G, G): [a, b, i, j] is table[a + i, b + j]
    return views.flip(1, 2).flatten(3, 4).flatten(1, 2)


def to_windows(tokens: Tensor, window: int) -> Tensor:
    """Tokens (B, S^2, D) -> windows (B (S / G)^2, G^2, D), and the tokens of each, in raster order."""
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
    standard deviation 0.02, as in the authors' release. The key has no bias, which softmax would ignore.
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
        """x (B, S^2, D) -> (B, S^2, D). `first` must be None: every token of the grid is computed."""
        assert first is None
        windows = to_windows(x, self.window)  # (B (S / G)^2, G^2, D)
        query, key, value = (
            split_heads(layer(windows), self.heads) for layer in (self.query, self.key, self.value)
        )
        bias = relative_bias(self.table).to(x.dtype).unsqueeze(0)  # (1, h, G^2, G^2)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return from_windows(self.out(merge_heads(out)), self.side)


class PixelAttention(nn.Module):
    """x + gamma out(softmax_j(q_i . k_j) v_j) over pixels i, j: x (B, C, H, W) -> (B, C, H, W).

    q, k, v and out are 1 x 1 convolutions without bias, q and k of C / 8 channels; the products are not
    divided by the root of their size. gamma is a scalar that starts at 0: the block starts as the identity,
    and until gamma has moved the convolutions get no gradient (arXiv 1805.08318).

    Differs from the paper: v has C / 2 channels, and k and v are maxima of 2 x 2 pixels, which takes a
    quarter of the products. The release of arXiv 1809.11096 has both.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        convolution = partial(Convolution, kernel=1, bias=False, equalised=False)
        small, half = max(channels // 8, 1), max(channels // 2, 1)
        self.query = convolution(channels, small)
        self.key = convolution(channels, small)
        self.value = convolution(channels, half)
        self.out = convolution(half, channels)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2)  # (B, C / 8, HW)
        key, value = (F.max_pool2d(f(x), 2).flatten(2) for f in (self.key, self.value))  # (B, ., HW / 4)
        weights = at_least_fp32(query.mT @ key).softmax(-1).to(x.dtype)  # (B, HW, HW / 4)
        attended = (value @ weights.mT).unflatten(2, x.shape[2:])  # (B, C / 2, H, W)
        return x + self.gamma.to(x.dtype) * self.out(attended)


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
