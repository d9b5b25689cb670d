"""Self-attention between the pixels of a feature map (arXiv 1805.08318).

Shapes: B batch, C channels, H x W grid.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.nn.convolution import Convolution
from vitgan.nn.linear import at_least_fp32


class PixelAttention(nn.Module):
    """x + gamma out(softmax_j(q_i . k_j) v_j) over pixels i, j: x (B, C, H, W) -> (B, C, H, W).

    q, k, v and out are 1 x 1 convolutions without bias, q and k of C / 8 channels; the products are not
    divided by the root of their size. gamma, a number, starts at 0: the block starts as the identity, and
    until gamma has moved the convolutions get no gradient.

    Differs from the paper: v has C / 2 channels, and k and v are taken at the maxima of 2 x 2 pixels, a
    quarter of the products. So has arXiv 1809.11096 in its release.
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
