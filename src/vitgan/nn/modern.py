"""The transformer blocks of the modern ViTGAN: norms without a mean, rotary attention, gates, layer scales.

Shapes: B batch, S x S grid of tokens, L = S^2 tokens in raster order, D width, E width of w, h heads,
d = D / h, M hidden size of a feed-forward block.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.nn.attention import dot_product_attention
from vitgan.nn.linear import Linear

Activation = Literal["leaky-relu", "silu", "swiglu"]
EPSILON = 1e-6
SLOPE = 0.2
PLAIN_UP_TO = 32  # tokens up to which plain products beat torch's fused kernel on a CPU, forward and backward
WAVELENGTH = 100.0  # of the slowest rotary feature, in radians a token; grids have tens of tokens a side


def rms_norm(x: Tensor) -> Tensor:
    """x / sqrt(mean of x^2 over the last axis + epsilon), the shape of x (arXiv 1910.07467).

    On a CPU by a backward of its own: torch's takes four times as long as that of a layer norm there.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.rms_norm(x, x.shape[-1:], eps=EPSILON)
    return _RootMeanSquare.apply(x)


class _RootMeanSquare(torch.autograd.Function):
    """`rms_norm`: with y = r x and r one over the root mean square, dx = r (dy - y mean(y dy))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        squared = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()  # (..., 1)
        inverse = squared.div_(x.shape[-1]).add_(EPSILON).rsqrt_()
        y = x * inverse
        ctx.save_for_backward(x, y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, y, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: one that can be differentiated
            y = F.rms_norm(x, x.shape[-1:], eps=EPSILON)
            (found,) = torch.autograd.grad(y, x, gradient, create_graph=True)
            return found
        mean = (gradient * y).sum(-1, keepdim=True).div_(-y.shape[-1])
        return torch.addcmul(gradient, y, mean).mul_(inverse)


class RMSNorm(nn.Module):
    """`rms_norm` times a learned vector: x (..., D) -> (..., D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x) * self.weight.to(x.dtype)


def axial_angles(side: int, size: int) -> Tensor:
    """The angles of axial rotary positions: (side^2, size / 2), radians (arXiv 2104.09864, 2403.13298).

    Token (r, c) turns the first half of the pairs of features by its row r, the second by its column c, at
    size / 4 frequencies each, from 1 down to nearly 1 / 100 in equal ratios.
    """
    if size % 4:
        raise ValueError(f"Axial rotary positions need heads whose size is a multiple of 4, not {size}.")
    frequency = WAVELENGTH ** -(torch.arange(size // 4, dtype=torch.float64) / (size // 4))
    steps = torch.arange(side, dtype=torch.float64)
    row, column = torch.meshgrid(steps, steps, indexing="ij")
    turned = [axis.reshape(-1, 1) * frequency for axis in (row, column)]  # (side^2, size / 4) each
    return torch.cat(turned, 1)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Feature i and i + d / 2 of x (B, h, L, d) turned together, by cosine and sine of (L, d / 2) angles."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), -1)


class RotaryAttention(nn.Module):
    """Self-attention over a grid of S x S tokens: (B, L, D) -> (B, L, D).

    With `normalised` every head's queries and keys have root mean square 1 times a learned vector, which
    bounds the logits (arXiv 2302.05442); with `rotary` they are then turned by `axial_angles`, so a logit
    depends on the offset of two tokens. Query, key and value are one product without a bias. The last map
    starts with gain `gain`.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(
        self,
        width: int,
        heads: int,
        side: int,
        linear: Callable[..., Linear] = Linear,
        *,
        normalised: bool = True,
        rotary: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.heads, self.normalised, self.rotary = heads, normalised, rotary
        self.query_key_value = linear(width, 3 * width, bias=False)
        self.out = linear(width, width, gain=gain)
        if normalised:
            self.norm_query, self.norm_key = RMSNorm(width // heads), RMSNorm(width // heads)
        if rotary:
            angles = axial_angles(side, width // heads)
            self.register_buffer("cosine", angles.cos().float(), persistent=False)
            self.register_buffer("sine", angles.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.query_key_value(x).unflatten(-1, (3, self.heads, -1))  # (B, L, 3, h, d)
        query, key, value = parts.permute(2, 0, 3, 1, 4).contiguous().unbind(0)  # (B, h, L, d) each
        if self.normalised:
            query, key = self.norm_query(query), self.norm_key(key)
        if self.rotary:
            turn = (self.cosine.to(x.dtype), self.sine.to(x.dtype))
            query, key = rotate(query, *turn), rotate(key, *turn)
        attended = _attend(query, key, value)  # (B, h, L, d)
        return self.out(attended.transpose(1, 2).flatten(2))


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    if query.device.type == "cpu" and key.shape[-2] <= PLAIN_UP_TO:
        return (query * (1 / math.sqrt(query.shape[-1])) @ key.mT).softmax(-1) @ value
    return dot_product_attention(query, key, value)


class DepthwiseConvolution(nn.Module):
    """h + a 3 x 3 convolution of each feature over the grid: (B, L, M) -> (B, L, M), zeros beyond the border.

    It gives a feed-forward block its neighbours (arXiv 2104.05707). It starts at nothing: the block is the
    plain one.
    """

    def __init__(self, hidden: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.weight = nn.Parameter(torch.zeros(hidden, 1, 3, 3))

    def forward(self, h: Tensor) -> Tensor:
        grid = h.mT.unflatten(2, (self.side, self.side))  # (B, M, S, S), channels last
        around = F.conv2d(grid, self.weight.to(h.dtype), padding=1, groups=grid.shape[1])
        return h + around.flatten(2).mT


class FeedForward(nn.Module):
    """Two layers with an activation between them: (B, L, D) -> (B, L, D).

    "swiglu" is silu(a) * b of two first layers (arXiv 2002.05202), whose hidden size is 2 / 3 of `hidden`
    so that the cost is alike. With `depthwise` neighbours mix before the last layer, which starts with gain
    `gain`.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        side: int,
        linear: Callable[..., Linear] = Linear,
        *,
        activation: Activation = "leaky-relu",
        depthwise: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        inner = max(1, hidden * 2 // 3) if activation == "swiglu" else hidden
        self.up = linear(width, 2 * inner if activation == "swiglu" else inner, gain=math.sqrt(2))
        self.neighbours = DepthwiseConvolution(inner, side) if depthwise else nn.Identity()
        self.down = linear(inner, width, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        if self.activation == "swiglu":
            opened, shut = h.chunk(2, -1)
            h = F.silu(opened) * shut
        else:
            h = F.leaky_relu(h, SLOPE) if self.activation == "leaky-relu" else F.silu(h)
        return self.down(self.neighbours(h))


class ModulatedBlock(nn.Module):
    """h += g1 * MSA(s1 * norm(h) + b1); h += g2 * FFN(s2 * norm(h) + b2): h (B, L, D), w (B, E) -> (B, L, D).

    Scales s, shifts b and gates g are affine maps of w, 1, 0 and 1 at w = 0; `gain` is their standard
    deviation for w of unit variance (arXiv 2212.09748, 2509.24935). Without `gated` the gates are 1.
    """

    def __init__(
        self,
        attention: nn.Module,
        feed_forward: nn.Module,
        width: int,
        latent_width: int,
        linear: Callable[..., Linear] = Linear,
        *,
        gated: bool = True,
        gain: float = 0.1,
    ) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward
        self.parts = 6 if gated else 4
        self.modulation = linear(latent_width, self.parts * width, gain=gain)

    def forward(self, h: Tensor, w: Tensor) -> Tensor:
        parts = self.modulation(w).unsqueeze(1).chunk(self.parts, -1)  # (B, 1, D) each
        h = self._added(h, self.attention(modulated(rms_norm(h), *parts[:2])), parts[4:5])
        return self._added(h, self.feed_forward(modulated(rms_norm(h), *parts[2:4])), parts[5:])

    def _added(self, h: Tensor, branch: Tensor, gate: tuple[Tensor, ...]) -> Tensor:
        return torch.addcmul(h, 1 + gate[0], branch) if gate else h + branch


def modulated(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(1 + scale) * h + shift, of h (B, L, D) and vectors (B, 1, D)."""
    return torch.addcmul(shift, 1 + scale, h)


class ScaledBlock(nn.Module):
    """h += a * MSA(norm(h)); h += b * FFN(norm(h)): (B, L, D) -> (B, L, D), with learned vectors a and b.

    LayerScale (arXiv 2103.17239): a and b start at `scale`; None leaves them out.
    """

    def __init__(
        self, attention: nn.Module, feed_forward: nn.Module, width: int, *, scale: float | None = 0.1
    ) -> None:
        super().__init__()
        self.norm_attention, self.attention = RMSNorm(width), attention
        self.norm_feed_forward, self.feed_forward = RMSNorm(width), feed_forward
        self.scale_attention = None if scale is None else nn.Parameter(torch.full((width,), scale))
        self.scale_feed_forward = None if scale is None else nn.Parameter(torch.full((width,), scale))

    def forward(self, h: Tensor) -> Tensor:
        h = _scaled_sum(h, self.scale_attention, self.attention(self.norm_attention(h)))
        return _scaled_sum(h, self.scale_feed_forward, self.feed_forward(self.norm_feed_forward(h)))


def _scaled_sum(h: Tensor, scale: Tensor | None, branch: Tensor) -> Tensor:
    return h + branch if scale is None else torch.addcmul(h, scale.to(h.dtype), branch)
