"""The generator's images of one step, and the way of a gradient back into the generator.

Shapes: B batch, C channels, H x W image, Z latent size.
"""

import torch
from torch import Tensor

from vitgan.draws import in_parts
from vitgan.models import Generator


class Fakes:
    """Images G(z) of z (B, Z) with labels (B,) or None, made in `parts` parts.

    With `learn` the activations are kept until `backward`: one forward serves the updates of both players.
    With `again` they are not, and the images are made again, a part at a time, with the same random numbers.

    Attributes
        images: (B, C, H, W) in [-1, 1], fp32, without a gradient.
    """

    def __init__(
        self,
        generator: Generator,
        z: Tensor,
        labels: Tensor | None,
        rng: torch.Generator,
        *,
        parts: int = 1,
        learn: bool = True,
        again: bool = False,
    ) -> None:
        self._generator, self._rng = generator, rng
        self._start = rng.get_state() if again else None
        own_labels = [None] * parts if labels is None else labels.chunk(parts)
        self._inputs = list(zip(z.chunk(parts), own_labels, strict=True))
        with torch.set_grad_enabled(learn and not again):
            made = [self._make(part) for part in in_parts(rng, parts)]
        self._kept = made if learn and not again else None
        self.images = torch.cat(made).detach()

    def _make(self, part: int) -> Tensor:
        return self._generator.training_images(*self._inputs[part], self._rng).float()

    def backward(self, gradient: Tensor) -> None:
        """Add what the gradient (B, C, H, W) of the images means for the generator's parameters to theirs."""
        gradients = gradient.chunk(len(self._inputs))
        if self._kept is not None:
            kept, self._kept = self._kept, None
            for images, own in zip(kept, gradients, strict=True):
                images.backward(own)
            return
        assert self._start is not None
        later = self._rng.get_state()
        self._rng.set_state(self._start)
        for part in in_parts(self._rng, len(self._inputs)):
            self._make(part).backward(gradients[part])
        self._rng.set_state(later)
