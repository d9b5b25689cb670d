"""The product of rows and a weight matrix, by whichever of torch's ways computes it fastest.

Shapes: I in features, O out features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_SIDE = 128  # of a weight that gains from oneDNN; measured (docs/performance.md)
FEWEST_ROWS = 2048


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., I) W^T + b -> (..., O), for W (O, I) and b (O,) of the dtype of x.

    In fp32 on a CPU torch multiplies matrices by MKL and convolves by oneDNN, whose products are 1.3 times
    as fast on an AMD EPYC: large products are 1 x 1 convolutions there, forward and backward.
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
