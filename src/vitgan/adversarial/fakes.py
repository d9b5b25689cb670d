"""The generator's images of one step, and the way of a gradient back into the generator.

Shapes: B batch, C channels, H x W image, Z latent size.
"""

import torch
from torch import Tensor

from vitgan.models import Generator


class Fakes:
    """Images G(z) of z (B, Z) with labels (B,) or None, made in `parts` parts.

    In one part with `learn` the activations are kept until `backward`: one forward serves the updates of both
    players. In several parts they are made again, a part at a time, with the same random numbers.

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
    ) -> None:
        self._generator, self._device = generator, rng.device
        own_labels = [None] * parts if labels is None else labels.chunk(parts)
        self._inputs = list(zip(z.chunk(parts), own_labels, strict=True))
        self._states: list[Tensor] = []
        made = []
        with torch.set_grad_enabled(learn and parts == 1):
            for inputs in self._inputs:
                self._states.append(rng.get_state())
                made.append(generator.training_images(*inputs, rng).float())
        self._graph = made[0] if learn and parts == 1 else None
        self.images = torch.cat(made).detach()

    def backward(self, gradient: Tensor) -> None:
        """Add what the gradient (B, C, H, W) of the images means for the generator's parameters to theirs."""
        if self._graph is not None:
            graph, self._graph = self._graph, None
            graph.backward(gradient)
            return
        parts = gradient.chunk(len(self._inputs))
        for inputs, state, part in zip(self._inputs, self._states, parts, strict=True):
            rng = torch.Generator(self._device)
            rng.set_state(state)
            self._generator.training_images(*inputs, rng).float().backward(part)
