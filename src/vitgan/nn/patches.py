"""Images to patches and back (seminar deck, eq. 1 and 9).

Shapes: B batch, C channels, H x W image, P patch, o overlap, L = HW / P^2 patches in raster order, D width.
The pixels of a patch are laid out channel first: C, rows, columns.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.nn.linear import Linear


def patchify(images: Tensor, patch: int, overlap: int = 0) -> Tensor:
    """Images (B, C, H, W) -> patches (B, L, C (P + 2o)^2), extended by `overlap` pixels o on every side.

    The image is padded with zeros and the stride stays P, so that L does not depend on the overlap.
    """
    if overlap == 0:
        return F.pixel_unshuffle(images, patch).flatten(2).mT
    side = patch + 2 * overlap
    if images.device.type == "cpu":
        return F.unfold(images, side, stride=patch, padding=overlap).mT
    # F.unfold starts a kernel for every image there.
    views = F.pad(images, (overlap,) * 4).unfold(2, side, patch).unfold(3, side, patch)  # (B, C, h, w, s, s)
    return views.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """Patches (B, L, C P^2) -> square images (B, C, H, W), the inverse of `patchify` without overlap."""
    side = round(patches.shape[1] ** 0.5)
    return F.pixel_shuffle(patches.mT.unflatten(2, (side, side)), patch)


class LinearOutput(nn.Module):
    """The linear mapping x_p^i = y^i E of the baselines: tokens (B, L, D) -> image (B, C, H, W).

    w is accepted, as by the other outputs, and ignored.
    """

    def __init__(self, width: int, patch: int, channels: int, linear: Callable[..., Linear] = Linear) -> None:
        super().__init__()
        self.patch = patch
        self.project = linear(width, channels * patch**2)

    def forward(self, tokens: Tensor, w: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return unpatchify(self.project(tokens), self.patch)
