"""What every discriminator is to the game: images in, a judgement out.

Shapes: B batch, C channels, R resolution, E size of a projection.
"""

import abc
from collections.abc import Iterator
from dataclasses import dataclass, fields

from torch import Tensor, nn


@dataclass(frozen=True)
class Judgement:
    """What a discriminator says of a batch of images."""

    logits: Tensor
    """(B, 1), fp32."""
    pixels: Tensor | None = None
    """A logit for each pixel, (B, 1, R, R), fp32: the U-Net discriminator's."""
    projections: Tensor | None = None
    """(B, E), fp32: the contrastive discriminator's."""

    def split(self, parts: int) -> Iterator["Judgement"]:
        """The judgements of `parts` equal parts of the batch, in order."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        chunks = {name: value.chunk(parts) for name, value in columns.items() if value is not None}
        return (Judgement(**{name: chunk[i] for name, chunk in chunks.items()}) for i in range(parts))


class Discriminator(nn.Module, abc.ABC):
    """images (B, C, R, R) in [-1, 1], labels (B,) or None -> logits (B, 1), fp32."""

    can_recompute = False
    """Whether it knows activation checkpointing."""
    activation_checkpointing = False
    """Keep no activations within the blocks; the backward pass computes them again."""

    @abc.abstractmethod
    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor: ...

    def judge(self, images: Tensor, labels: Tensor | None = None) -> Judgement:
        """All that the game uses of this discriminator: the logits, and what a system has beside."""
        return Judgement(self(images, labels))

    def advance(self) -> None:
        """What must happen once a discriminator update, after it: a power iteration, say."""
