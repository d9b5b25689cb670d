"""The numbers of each step, kept on the device until someone reads them."""

import math
import sys

import torch
from torch import Tensor

from vitgan import processes
from vitgan.errors import UserError

# In the order in which a step computes them: the first that is wrong is where it went wrong.
FIRST_TO_LAST = (
    "term_",
    "loss_discriminator",
    "gradient_norm_discriminator",
    "loss_generator",
    "gradient_norm_generator",
)


class Diverged(UserError):
    """A number of training is NaN, infinite or larger than any that training recovers from.

    Attributes
        images: images seen before the step.
        term: the first such number's name in the log.
        values: every number of that step, by name.
    """

    def __init__(self, text: str, images: int, term: str, values: dict[str, float] | None = None) -> None:
        super().__init__(text)
        self.images, self.term, self.values = images, term, values or {}


class StepMetrics:
    """Gathers the scalars of steps without waiting for the device; `read` gives their means.

    A number beyond `largest` either way counts as one that is not finite does.
    """

    def __init__(self, largest: float = math.inf) -> None:
        self.largest = largest
        self._steps: list[tuple[int, dict[str, Tensor]]] = []

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(self, images_seen: int, values: dict[str, Tensor]) -> None:
        """`values` are those of the step that began at `images_seen` images."""
        self._steps.append((images_seen, values))

    def read(self) -> dict[str, float]:
        """The mean of each number, over all processes and the steps that had it since the last reading.

        Raises Diverged, naming the image count, the term and the gradient norms, when one was out of bounds.
        """
        steps = [(images, list(values), torch.stack(list(values.values()))) for images, values in self._steps]
        self._steps.clear()
        if not steps:
            return {}
        numbers = torch.cat([values for _, _, values in steps]).cpu()
        processes.average_([numbers])
        parts = numbers.split([len(names) for _, names, _ in steps])
        found = [
            dict(zip(names, part.tolist(), strict=True))
            for (_, names, _), part in zip(steps, parts, strict=True)
        ]
        for (images, _, _), values in zip(steps, found, strict=True):
            self._check(images, values)
        names = dict.fromkeys(name for values in found for name in values)
        columns = {name: [values[name] for values in found if name in values] for name in names}
        return {name: sum(column) / len(column) for name, column in columns.items()}

    def _check(self, images: int, values: dict[str, float]) -> None:
        most = min(self.largest, sys.float_info.max)
        wrong = [name for name, value in values.items() if not abs(value) <= most]
        if not wrong:
            return
        term = next((name for start in FIRST_TO_LAST for name in wrong if name.startswith(start)), wrong[0])
        how = "became" if not math.isfinite(values[term]) else "exploded to"
        norms = [
            f"{name.removeprefix('gradient_norm_').replace('gradient_norm', 'network')} {value:.4g}"
            for name, value in values.items()
            if name.startswith("gradient_norm")
        ]
        said = f" (gradient norms: {', '.join(norms)})" if norms else ""
        value = f"{values[term]:.4g}" if math.isfinite(values[term]) else f"{values[term]}"
        text = f"{term.removeprefix('term_')} {how} {value} at image {images}{said}"
        raise Diverged(text, images, term, values)
