"""What a run trains, as the run sees it."""

from typing import Any, Protocol

from PIL import Image
from torch import Tensor, nn

from vitgan.data import Batch
from vitgan.models import Generator


class Task(Protocol):
    """A thing to train: the networks, their optimisers and the one step."""

    @property
    def generator(self) -> Generator | None:
        """What draws samples and is scored, the averaged weights; None where there is none."""
        ...

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What is trained, by name."""
        ...

    @property
    def note(self) -> str | None:
        """A line to tell before the first step, whose time is told after it; None where there is none."""
        ...

    def step(
        self, batch: Batch, images_seen: int, seed: int | None = None
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """One update on `batch`, the first of which is image `images_seen` of the run.

        What is drawn comes from `seed`, by default the recipe's, and `images_seen`.

        Returns detached scalars, and the learning rates.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training changes, by name, on the CPU."""
        ...

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        ...

    def picture(self) -> Image.Image:
        """What it can do now."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a checkpoint says beside the recipe to build the networks again, ready for JSON."""
        ...
