"""The one linear layer: its initialisation, its equalised learning rate, its precision.

Shapes: I in features, O out features.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Initialisation = Literal["normal", "uniform"]


class Linear(nn.Module):
    """x (..., I) -> x W^T + b (..., O), with W of standard deviation `gain` / sqrt(I) at the start.

    With `equalised` (arXiv 1912.04958, after 1710.10196) the stored weight has unit variance and W is the
    stored weight times a constant, so Adam's steps are alike, relative to the weight, in every layer;
    `learning_rate_multiplier` m stores weight / m and multiplies by m. Without it W itself is stored.
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
        gain: float = 1.0,
        learning_rate_multiplier: float = 1.0,
        equalised: bool = True,
        initialisation: Initialisation = "normal",
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        deviation = gain / math.sqrt(in_features)
        self.scale = deviation * learning_rate_multiplier if equalised else 1.0
        self.bias_scale = learning_rate_multiplier if equalised else 1.0
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

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias
        if bias is not None:
            bias = (bias if self.bias_scale == 1.0 else bias * self.bias_scale).to(x.dtype)
        return F.linear(x, self.effective_weight().to(x.dtype), bias)

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
