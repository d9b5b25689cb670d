"""The models that the page shows, loaded once for all visitors and changed by none."""

import functools
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch

from vitgan.engine.folder import is_run, load_generator, read_run
from vitgan.engine.recipe import Recipe
from vitgan.latent import Direction, factorised, principal_components
from vitgan.models import Discriminator, Generator
from vitgan.sharing import find
from vitgan.sharing.names import PACKAGED
from vitgan.weights import load_network

MOST = 4  # models in memory
DIRECTIONS = 6  # of each kind


@dataclass(frozen=True)
class Model:
    """A generator, and its discriminator where the run has one."""

    generator: Generator
    discriminator: Discriminator | None

    @functools.cached_property
    def directions(self) -> dict[str, Direction]:
        """By name, principal components first."""
        found = principal_components(self.generator, DIRECTIONS)
        if self.generator.modulations():
            found += factorised(self.generator, DIRECTIONS)
        return {direction.name: direction for direction in found}


class Shelf:
    """Models by what a visitor chose: a run of `folder`, one given by its path, or one of the package."""

    def __init__(self, folder: Path, first: str | None) -> None:
        self.folder, self.first = folder, first
        self._lock = threading.Lock()
        self._models: OrderedDict[tuple[str, int], Model] = OrderedDict()

    def names(self) -> list[str]:
        """What can be chosen now."""
        runs = (
            sorted(path.name for path in self.folder.iterdir() if is_run(path))
            if self.folder.is_dir()
            else []
        )
        given = [self.first] if self.first is not None else []
        return list(dict.fromkeys([*given, *runs, *PACKAGED]))

    def place(self, name: str) -> Path:
        """Its folder."""
        if name == self.first or not (self.folder / name).exists():
            return find(name)
        return self.folder / name

    def model(self, name: str) -> Model:
        """Loaded, anew where the run has a newer checkpoint. Raises UserError where there is none."""
        place = self.place(name)
        key = (name, _newest(place))
        with self._lock:
            if key not in self._models:
                self._models[key] = _load(place)
            self._models.move_to_end(key)
            while len(self._models) > MOST:
                self._models.popitem(last=False)
            return self._models[key]


def _newest(place: Path) -> int:
    """A number that grows when the run saves."""
    saved = place / "checkpoints"
    return max((int(path.name) for path in saved.glob("[0-9]*") if path.name.isdecimal()), default=0)


def _load(place: Path) -> Model:
    generator = load_generator(place)
    tensors, description = read_run(place)
    if not any(name.startswith("discriminator.") for name in tensors):
        return Model(generator, None)
    recipe = Recipe.from_dict(description["recipe"])
    data = recipe.data
    discriminator = load_network(
        lambda: recipe.discriminator.build(
            resolution=data.resolution, channels=data.channels, classes=description["classes"]
        ),
        tensors,
        "discriminator",
        place,
    )
    return Model(generator, discriminator)


def generator_of(shelf: Shelf, name: str) -> Generator:
    """The generator of a name."""
    return shelf.model(name).generator


def device_of(generator: Generator) -> torch.device:
    """Where it lies."""
    return next(generator.parameters()).device
