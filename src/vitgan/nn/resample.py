"""Low-pass filtered changes of size (arXiv 1912.04958, appendix B; the filter is of arXiv 1904.11486).

Shapes: B batch, C channels, H x W image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAPS = (1.0, 3.0, 3.0, 1.0)


class Blur(nn.Module):
    """[1, 3, 3, 1] / 8 along both axes, times `gain`: x (B, C, H, W) -> (B, C, H', W').

    Zeros lie beyond the border, `padding` of them on each side; of the result every `stride`-th pixel is
    kept: H' = (H + 2 padding - 4) // stride + 1.
    """

    kernel: Tensor

    def __init__(self, *, padding: int, stride: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        self.padding, self.stride = padding, stride
        self.register_buffer("kernel", low_pass() * gain, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        return F.conv2d(x, kernel, stride=self.stride, padding=self.padding, groups=x.shape[1])


class Upsample(nn.Module):
    """Twice the size: x (B, C, H, W) -> (B, C, 2H, 2W), a zero after each pixel, then 4 times the filter."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", low_pass() * 4, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


def low_pass() -> Tensor:
    """The outer product of [1, 3, 3, 1] / 8 with itself, (4, 4)."""
    taps = torch.tensor(TAPS) / sum(TAPS)
    return torch.outer(taps, taps)
