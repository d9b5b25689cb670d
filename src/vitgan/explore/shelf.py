"""The models that the page shows, loaded once for all visitors and changed by none."""

import functools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitgan.engine.run_folder import build_discriminator, build_generator, is_run, read_run
from vitgan.errors import UserError
from vitgan.latent import Direction, factorised, principal_components
from vitgan.latent.films import latent_of
from vitgan.models import Discriminator, Generator
from vitgan.sharing import find
from vitgan.sharing.hub import PACKAGED, packaged

MOST = 4  # models in memory
DIRECTIONS = 6  # of each kind


@dataclass(frozen=True)
class Model:
    """A generator, and its discriminator where the run has one."""

    generator: Generator
    discriminator: Discriminator | None
    looking: Any = field(default_factory=threading.Lock)
    """Held while the discriminator is read: its hooks would read another visitor's image too."""

    @functools.cached_property
    def mean(self) -> Tensor:
        """Of w, (1, ...)."""
        return self.generator.mean_w()

    @functools.cached_property
    def directions(self) -> dict[str, Direction]:
        """By name, principal components first."""
        found = principal_components(self.generator, DIRECTIONS)
        if self.generator.modulations():
            found += factorised(self.generator, DIRECTIONS)
        return {direction.name: direction for direction in found}

    def label(self, label: int) -> int | None:
        """The class that is asked for, of a generator with classes."""
        return label if self.generator.classes else None

    def latents(self, seeds: Sequence[int], label: int, truncation: float = 1.0) -> Tensor:
        """w (K, ...) of the first image of each seed, pulled to the mean of w."""
        w = torch.cat([latent_of(self.generator, seed, self.label(label)) for seed in seeds])
        return w if truncation == 1 else torch.lerp(self.mean, w, truncation)


class Shelf:
    """Models by what a visitor chose: a run of `folder`, one given by its path, or one of the package."""

    def __init__(self, folder: Path, first: str | None) -> None:
        self.folder = folder
        self._given = {} if first is None else {first: find(first)}
        self._lock = threading.Lock()
        self._models: OrderedDict[tuple[str, int, int], Model] = OrderedDict()

    def names(self) -> list[str]:
        """What can be chosen now."""
        return list(self._places())

    def place(self, name: str) -> Path:
        """Its folder. Raises UserError for anything that cannot be chosen, or no more."""
        places = self._places()
        if name not in places:
            raise UserError(f"There is no run {name} here, or no more: choose another one.")
        return places[name]

    def model(self, name: str) -> Model:
        """Loaded, anew where the run has a newer checkpoint. Raises UserError where there is none."""
        place = self.place(name)
        key = (name, *_saved(place))
        with self._lock:
            if key not in self._models:
                self._models[key] = _load(place)
            self._models.move_to_end(key)
            while len(self._models) > MOST:
                self._models.popitem(last=False)
            return self._models[key]

    def _places(self) -> dict[str, Path]:
        places = dict(self._given)
        if self.folder.is_dir():
            runs = sorted(path for path in self.folder.iterdir() if path.is_dir() and is_run(path))
            known = {path.resolve() for path in places.values()}
            places |= {path.name: path for path in runs if path.resolve() not in known}
        for name in PACKAGED:
            if name not in self._given:
                places[f"{name} (of the package)" if name in places else name] = packaged(name)
        return places


def _saved(place: Path) -> tuple[int, int]:
    """The newest checkpoint's images, and when the folder of checkpoints has last changed, in ns."""
    saved = place / "checkpoints"
    newest = max((int(path.name) for path in saved.glob("[0-9]*") if path.name.isdecimal()), default=0)
    try:
        return newest, saved.stat().st_mtime_ns
    except OSError:
        return newest, 0


def _load(place: Path) -> Model:
    tensors, description = read_run(place)
    generator = build_generator(tensors, description, place)
    return Model(generator, build_discriminator(tensors, description, place))
