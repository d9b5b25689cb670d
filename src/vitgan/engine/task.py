"""The interface of what a run trains, and its state as named tensors."""

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
    """What a run trains: networks, their optimisers, and a training step."""

    @property
    def generator(self) -> Generator | None:
        """The averaged generator, which draws samples and is evaluated; None where there is none."""
        ...

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks that are trained, by name."""
        ...

    @property
    def note(self) -> str | None:
        """A line to show before the first step, after which its duration is shown; None for neither."""
        ...

    def step(
        self, batch: Batch, images_seen: int, seed: int | None = None
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """One update on `batch`, before which the run has seen `images_seen` images.

        Random numbers are drawn from `seed`, by default the recipe's, and `images_seen`. Returns detached
        scalars, and the learning rates.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that training changes, by name, on the CPU."""
        ...

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Load what `tensors` returned. Raises UserError, and changes nothing, where they do not fit."""
        ...

    def picture(self) -> Image.Image:
        """A picture of the present state: a sample grid, for example."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a checkpoint records, beside the recipe, to build the networks again; ready for JSON."""
        ...


class NamedState(abc.ABC):
    """A state of modules, and optimisers of some of them, as named tensors."""

    @abc.abstractmethod
    def _modules(self) -> dict[str, nn.Module]:
        """The modules, by name."""

    @abc.abstractmethod
    def _optimisers(self) -> dict[str, tuple[nn.Module, torch.optim.Optimizer]]:
        """The optimisers, by name, each with the module whose parameters it updates."""

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name: weights, buffers, optimiser moments and step counts."""
        named = {
            f"{part}.{name}": t for part, m in self._modules().items() for name, t in m.state_dict().items()
        }
        for part, (module, optimiser) in self._optimisers().items():
            for name, parameter in module.named_parameters():
                for key, value in optimiser.state.get(parameter, {}).items():
                    named[f"{part}.{name}.{key}"] = value
        return {name: t.detach().contiguous().cpu() for name, t in named.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Load what `tensors` returned. Raises UserError, and changes nothing, where they do not fit."""
        self._check(tensors)
        for part, module in self._modules().items():
            module.load_state_dict(below(tensors, part))
        for part, (module, optimiser) in self._optimisers().items():
            moments = below(tensors, part)
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
        """Raise UserError where a name, a shape or a dtype differs from that of this state's tensors."""
        for part, module in self._modules().items():
            if (reason := misfit(module.state_dict(), below(tensors, part))) is not None:
                raise UserError(f"The checkpoint's {part} does not fit the recipe: {reason}.")
        for part, (module, _) in self._optimisers().items():
            moments = below(tensors, part)
            for name, parameter in module.named_parameters():
                for key, like in (
                    ("step", ()),
                    ("exp_avg", parameter.shape),
                    ("exp_avg_sq", parameter.shape),
                ):
                    found = moments.get(f"{name}.{key}")
                    if found is not None and (found.shape != like or found.dtype != torch.float32):
                        raise UserError(f"The checkpoint's {part} does not fit the recipe: {name}.{key}.")


def below(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part, "generator" for example, by their names without it."""
    return {name[len(part) + 1 :]: t for name, t in tensors.items() if name.startswith(f"{part}.")}
