"""The common base of runs of one network with one loss: the classifier and the image fit.

Shapes: B batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from vitgan.distributed import collectives
from vitgan.engine.optim import AdamOptions
from vitgan.engine.recipe import RunRecipe, TrainingOptions, activation_dtype
from vitgan.engine.task import NamedState
from vitgan.errors import UserError
from vitgan.models import Generator

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class SupervisedRecipe(RunRecipe):
    """The base of the recipes of runs of one network."""

    optimiser: AdamOptions


class OneNetwork(NamedState):
    """A task of one network, its optimiser and a loss: the base of the classifier and of the image fit."""

    generator: Generator | None = None
    note: str | None = None

    def __init__(self, recipe: "SupervisedRecipe", network: nn.Module, device: torch.device) -> None:
        self.options, self.adam, self.device = recipe.training, recipe.optimiser, device
        self.dtype = activation_dtype(recipe.training.precision, device)
        self._network = network.to(device)
        self.networks = {"network": self._network}
        self.optimiser = recipe.optimiser.build(network.parameters())

    def _modules(self) -> dict[str, nn.Module]:
        return {"network": self._network}

    def _optimisers(self) -> dict[str, tuple[nn.Module, torch.optim.Optimizer]]:
        return {"optimiser": (self._network, self.optimiser)}

    def _update(self, loss: Tensor, images_seen: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """One update by the gradient of `loss`; returns detached scalars, and the learning rate."""
        rate = self.adam.set_rate(self.optimiser, images_seen, self.options.batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [p.grad for p in self._network.parameters() if p.grad is not None]
        collectives.average_gradients_(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        self.optimiser.step()
        return {"loss": loss.detach(), "gradient_norm": norm}, {"learning_rate": rate}


def _seeded(recipe: RunRecipe, build: Callable[[], Network]) -> Network:
    """The network that `build` makes on the CPU, with weights drawn from the recipe's seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return build()


def _refuse_settings_of_a_game(training: TrainingOptions) -> None:
    plain = TrainingOptions()
    for name in ("generator_every", "shared_fakes", "accumulate", "activation_checkpointing", "compile"):
        if getattr(training, name) != getattr(plain, name):
            flag = name.replace("_", "-")
            raise UserError(f"--training.{flag} belongs to two networks in a game: leave it out here.")
