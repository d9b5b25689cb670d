"""The one linear layer: its initialisation, its equalised learning rate, its precision.

Shapes: I in features, O out features.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from vitgan.nn.product import affine

Initialisation = Literal["normal", "uniform"]


def at_least_fp32(x: Tensor) -> Tensor:
    """x, in fp32 where its dtype is a shorter one."""
    return x.float() if x.itemsize < 4 else x


class Linear(nn.Module):
    """x (..., I) -> x W^T + b (..., O), with W of standard deviation `gain` / sqrt(I) at the start.

    With `equalised` (arXiv 1912.04958, after 1710.10196) the stored weight has unit variance and W is the
    stored weight times a constant, so Adam's steps are alike, relative to the weight, in every layer;
    `learning_rate_multiplier` m stores weight / m and multiplies by m. `bias_scale` is the constant of the
    bias. Without `equalised` W and b themselves are stored, and neither constant is used.
    The weight is cast to the dtype of x: the precision of a network is the dtype of its input.
    """

    # The weight to use in place of scale * weight while a SpectralNorm is applied.
    normalised: Tensor | None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        bias_start: float = 0.0,
        bias_scale: float = 1.0,
        gain: float = 1.0,
        learning_rate_multiplier: float = 1.0,
        equalised: bool = True,
        initialisation: Initialisation = "normal",
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.gain = gain
        deviation = gain / math.sqrt(in_features)
        self.scale = deviation * learning_rate_multiplier if equalised else 1.0
        self.bias_scale = bias_scale * learning_rate_multiplier if equalised else 1.0
        stored = deviation / self.scale
        weight = torch.empty(out_features, in_features)
        if initialisation == "normal":
            nn.init.normal_(weight, std=stored)
        else:
            nn.init.uniform_(weight, -math.sqrt(3) * stored, math.sqrt(3) * stored)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.full((out_features,), bias_start / self.bias_scale)) if bias else None

    def effective_weight(self) -> Tensor:
        """W (O, I), in fp32: the weight that is used, spectrally normalised where that is applied."""
        return self.weight * self.scale if self.normalised is None else self.normalised

    def effective_bias(self) -> Tensor | None:
        """b (O,), or None."""
        return self.bias if self.bias is None or self.bias_scale == 1.0 else self.bias * self.bias_scale

    def forward(self, x: Tensor) -> Tensor:
        bias = self.effective_bias()
        return affine(x, self.effective_weight().to(x.dtype), None if bias is None else bias.to(x.dtype))

    @torch.no_grad()
    def assign(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Store parameters such that the layer computes x `weight`^T + `bias`."""
        self.weight.copy_(weight / self.scale)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias / self.bias_scale)

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, scale={self.scale:.4g}"
        )
