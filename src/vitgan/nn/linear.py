"""The linear layer with an equalised learning rate, its matrix product, and the projection of labels.

Shapes: B batch, I features in, O features out, D width of features, K classes.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST_SIDE = 128  # of a weight that gains from oneDNN; measured (docs/performance.md)
FEWEST_ROWS = 2048


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., I) W^T + b -> (..., O), for W (O, I) and b (O,) of the dtype of x.

    In fp32 on a CPU torch multiplies matrices by MKL and convolves by oneDNN, whose products are 1.3 times
    as fast on an AMD EPYC: there large products are computed as 1 x 1 convolutions, forward and backward.
    """
    if not _convolves(x, weight):
        return F.linear(x, weight, bias)
    rows = x.flatten(0, -3).unsqueeze(1)  # (B, 1, N, I): an image of one row, channels last
    out = F.conv2d(rows.permute(0, 3, 1, 2), weight[:, :, None, None], bias)  # (B, O, 1, N)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


def _convolves(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_exporting()  # the number of rows is to stay open
        and x.ndim >= 3
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and min(weight.shape) >= SMALLEST_SIDE
        and x.shape[:-2].numel() > 1  # torch gives a batch of one to another kernel
        and x.shape[:-1].numel() >= FEWEST_ROWS
        and torch.backends.mkldnn.is_available()
    )


Initialisation = Literal["normal", "uniform"]


def at_least_fp32(x: Tensor) -> Tensor:
    """x itself, or converted to fp32 where its dtype is shorter (bf16, fp16)."""
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


class LabelProjection(Linear):
    """The label's part of a discriminator's logit: the inner product of features with a vector of the class.

    It is the projection of arXiv 1802.05637. The vectors (D, K) are the weight of a linear map of the one-hot
    label. With `unit_variance` their entries start with variance 1 and the product is divided by sqrt(D), so
    that it has variance 1 for features of variance 1; without it the product is that of the paper.
    """

    def __init__(
        self, classes: int, width: int, *, equalised: bool = True, unit_variance: bool = False
    ) -> None:
        gain = math.sqrt(classes) if unit_variance else 1.0
        super().__init__(classes, width, bias=False, gain=gain, equalised=equalised)
        self.divisor = math.sqrt(width) if unit_variance else 1.0

    def logits(self, features: Tensor, labels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """features (B, D, ...), labels (B,) -> (B, 1, ...); the products are summed in `dtype`."""
        vectors = self(F.one_hot(labels, self.in_features).to(features.dtype))  # (B, D)
        vectors = vectors.view(*vectors.shape, *(1,) * (features.ndim - 2))
        return (vectors * features).to(dtype).sum(1, keepdim=True) / self.divisor
