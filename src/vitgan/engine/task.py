"""What a run trains, as the run sees it, and its way into named tensors and back."""

import abc
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from vitgan.data import Batch
from vitgan.errors import UserError
from vitgan.models import Generator
from vitgan.models.base import misfit


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


class NamedState(abc.ABC):
    """Modules and the optimisers of some of them, as named tensors."""

    @abc.abstractmethod
    def _modules(self) -> dict[str, nn.Module]:
        """By name."""

    @abc.abstractmethod
    def _optimisers(self) -> dict[str, tuple[nn.Module, torch.optim.Optimizer]]:
        """By name: an optimiser, and the module whose parameters it moves."""

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name: weights, spectral buffers, optimiser moments and step counts."""
        named = {
            f"{part}.{name}": t for part, m in self._modules().items() for name, t in m.state_dict().items()
        }
        for part, (module, optimiser) in self._optimisers().items():
            for name, parameter in module.named_parameters():
                for key, value in optimiser.state.get(parameter, {}).items():
                    named[f"{part}.{name}.{key}"] = value
        return {name: t.detach().contiguous().cpu() for name, t in named.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`. Raises UserError, and changes nothing, where they do not fit."""
        self._check(tensors)
        for part, module in self._modules().items():
            module.load_state_dict(_below(tensors, part))
        for part, (module, optimiser) in self._optimisers().items():
            moments = _below(tensors, part)
            for name, parameter in module.named_parameters():
                found = {
                    key: moments[f"{name}.{key}"]
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"{name}.{key}" in moments
                }
                if found:
                    optimiser.state[parameter] = {
                        k: v.to(parameter.device, copy=True) for k, v in found.items()
                    }

    def _check(self, tensors: dict[str, Tensor]) -> None:
        """Raise UserError where a name, a shape or a type is not that of the own tensors."""
        for part, module in self._modules().items():
            if (reason := misfit(module.state_dict(), _below(tensors, part))) is not None:
                raise UserError(f"The checkpoint's {part} does not fit the recipe: {reason}.")
        for part, (module, _) in self._optimisers().items():
            moments = _below(tensors, part)
            for name, parameter in module.named_parameters():
                for key, like in (
                    ("step", ()),
                    ("exp_avg", parameter.shape),
                    ("exp_avg_sq", parameter.shape),
                ):
                    found = moments.get(f"{name}.{key}")
                    if found is not None and (found.shape != like or found.dtype != torch.float32):
                        raise UserError(f"The checkpoint's {part} does not fit the recipe: {name}.{key}.")


def _below(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name[len(part) + 1 :]: t for name, t in tensors.items() if name.startswith(f"{part}.")}
