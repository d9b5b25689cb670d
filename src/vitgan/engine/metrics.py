"""The numbers of each step, kept on the device until someone reads them."""

import math

import torch
from torch import Tensor

from vitgan.errors import UserError

# In the order in which a step computes them: the first that is not finite is where it went wrong.
FIRST_TO_LAST = (
    "term_",
    "loss_discriminator",
    "gradient_norm_discriminator",
    "loss_generator",
    "gradient_norm_generator",
)


class Diverged(UserError):
    """A number of a step is NaN or infinite."""


class StepMetrics:
    """Gathers the scalars of steps without waiting for the device; `read` gives their means."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, dict[str, Tensor]]] = []

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(self, images_seen: int, values: dict[str, Tensor]) -> None:
        """`values` are those of the step that began at `images_seen` images."""
        self._steps.append((images_seen, values))

    def read(self) -> dict[str, float]:
        """The mean of each number over the steps that had it since the last reading.

        Raises Diverged, naming the image count and the term, when one was not finite.
        """
        steps = [(images, _floats(values)) for images, values in self._steps]
        self._steps.clear()
        for images, values in steps:
            _check_finite(images, values)
        names = dict.fromkeys(name for _, values in steps for name in values)
        columns = {name: [values[name] for _, values in steps if name in values] for name in names}
        return {name: sum(column) / len(column) for name, column in columns.items()}


def _floats(values: dict[str, Tensor]) -> dict[str, float]:
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


def _check_finite(images: int, values: dict[str, float]) -> None:
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        first = next((name for start in FIRST_TO_LAST for name in wrong if name.startswith(start)), wrong[0])
        raise Diverged(f"{first.removeprefix('term_')} became {values[first]} at image {images}")
