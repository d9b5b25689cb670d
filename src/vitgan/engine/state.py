"""Everything that training changes, and its way into named tensors and back."""

import abc
import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vitgan import processes
from vitgan.adversarial import Players
from vitgan.data import ImageSet
from vitgan.draws import PartGenerator
from vitgan.engine.recipe import Recipe
from vitgan.errors import UserError
from vitgan.models import Discriminator, Generator
from vitgan.weights import misfit


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


@dataclass
class State(NamedState):
    """Players and the averaged generator."""

    players: Players
    average: Generator

    def _modules(self) -> dict[str, nn.Module]:
        players = self.players
        return {
            "generator": players.generator,
            "discriminator": players.discriminator,
            "average": self.average,
        }

    def _optimisers(self) -> dict[str, tuple[nn.Module, torch.optim.Optimizer]]:
        players = self.players
        return {
            "optimiser_generator": (players.generator, players.optimiser_generator),
            "optimiser_discriminator": (players.discriminator, players.optimiser_discriminator),
        }


def build_state(recipe: Recipe, images: ImageSet | None, device: torch.device) -> State:
    """A run at image 0: weights drawn from the recipe's seed alone, the same on every device."""
    generator, discriminator = build_networks(recipe, images)
    generator, discriminator = generator.to(device), discriminator.to(device)
    if recipe.training.activation_checkpointing:
        _checkpoint_activations(generator, discriminator)
    players = Players(
        generator=generator,
        discriminator=discriminator,
        optimiser_generator=recipe.optimiser_generator.build(generator.parameters()),
        optimiser_discriminator=recipe.optimiser_discriminator.build(discriminator.parameters()),
    )
    average = copy.deepcopy(generator).eval().requires_grad_(False)
    return State(players, average)


def _checkpoint_activations(*networks: Generator | Discriminator) -> None:
    for network in networks:
        if not network.can_recompute:
            raise UserError(
                f"{type(network).__name__} has no activation checkpointing: leave "
                "--training.activation-checkpointing out, or set --training.accumulate to use less memory."
            )
        network.activation_checkpointing = True


def build_networks(recipe: Recipe, images: ImageSet | None) -> tuple[Generator, Discriminator]:
    """Generator and discriminator on the CPU, drawn from the seed; `images` gives the number of classes."""
    data = recipe.data
    classes = len(images.classes) if data.labels and images is not None else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        generator = recipe.generator.build(
            resolution=data.resolution, channels=data.channels, classes=classes
        )
        discriminator = recipe.discriminator.build(
            resolution=data.resolution, channels=data.channels, classes=classes
        )
    return generator, discriminator


def step_generator(seed: int, images_seen: int, device: torch.device, batch: int = 0) -> torch.Generator:
    """The random numbers of one step, a function of (seed, images seen): nothing to save or restore.

    Each process gives the numbers of its part of the `batch` images, so how many there are changes none.
    """
    number = int(np.random.SeedSequence((seed, 0, images_seen)).generate_state(1, np.uint64)[0])
    generator = PartGenerator(device)
    generator.manual_seed(number & (2**63 - 1))
    generator.rank, generator.ranks, generator.batch = processes.rank(), processes.ranks(), batch
    return generator


def _below(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name[len(part) + 1 :]: t for name, t in tensors.items() if name.startswith(f"{part}.")}
