"""The models that the page can show, each loaded once and shared by all visitors, who only read it."""

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
from vitgan.latent.interpolation import latent_of
from vitgan.models import Discriminator, Generator
from vitgan.sharing import find
from vitgan.sharing.hub import PACKAGED, packaged
from vitgan.terminal import printable

MOST_MODELS = 4  # in memory at a time; the one used longest ago goes first
DIRECTIONS = 6  # of each kind: principal components, factorised directions


@dataclass(frozen=True)
class Model:
    """The networks of a run. An exported generator and those of the package come without a discriminator."""

    generator: Generator
    discriminator: Discriminator | None
    hooks_lock: Any = field(default_factory=threading.Lock)
    """Held while hooks record the discriminator's attention, or they would record other visitors' images."""
    means: dict[int | None, Tensor] = field(default_factory=dict)
    """What `mean_w` has computed, by class."""

    def mean_w(self, label: int | None) -> Tensor:
        """The mean of w, (1, ...), of a class or of all, towards which truncation pulls."""
        if label not in self.means:
            self.means[label] = self.generator.mean_w(label)
        return self.means[label]

    @functools.cached_property
    def directions(self) -> dict[str, Direction]:
        """Directions of w by name: principal components, then factorised ones if w modulates."""
        found = principal_components(self.generator, DIRECTIONS)
        if self.generator.modulations():
            found += factorised(self.generator, DIRECTIONS)
        return {direction.name: direction for direction in found}

    def label(self, label: int) -> int | None:
        """`label` where the generator has classes, else None."""
        return label if self.generator.classes else None

    def latents(self, seeds: Sequence[int], label: int, truncation: float = 1.0) -> Tensor:
        """The latents w (K, ...) of the first image of each of K seeds.

        They are moved towards the mean of w of the class: `truncation` 1 leaves them as they are, 0 gives it.
        """
        w = torch.cat([latent_of(self.generator, seed, self.label(label)) for seed in seeds])
        return w if truncation == 1 else torch.lerp(self.mean_w(self.label(label)), w, truncation)


class ModelCache:
    """Models by name: the runs in `folder`, the generators of the package, and the run `first` if given.

    The last few that were asked for stay in memory. Threads may share one cache.
    """

    def __init__(self, folder: Path, first: str | None) -> None:
        self.folder = folder
        self._given = {} if first is None else {printable(first): find(first)}
        self._lock = threading.Lock()
        self._models: OrderedDict[tuple[str, int, int], Model] = OrderedDict()

    def names(self) -> list[str]:
        """The names of all runs that exist now."""
        return list(self._places())

    def folder_of(self, name: str) -> Path:
        """The folder of a run by its name. Raises UserError where there is no such run, or no longer."""
        places = self._places()
        if name not in places:
            raise UserError(f"There is no run {name} here, or no more: choose another one.")
        return places[name]

    def get(self, name: str) -> Model:
        """The model of a run by its name, loaded again where the run has saved a newer checkpoint.

        Raises UserError where there is no such run, or no network can be read from it.
        """
        place = self.folder_of(name)
        key = (name, *_saved(place))
        with self._lock:
            if key not in self._models:
                self._models[key] = _load(place)
            self._models.move_to_end(key)
            while len(self._models) > MOST_MODELS:
                self._models.popitem(last=False)
            return self._models[key]

    def _places(self) -> dict[str, Path]:
        places = dict(self._given)
        if self.folder.is_dir():
            runs = sorted(path for path in self.folder.iterdir() if path.is_dir() and is_run(path))
            known = {path.resolve() for path in places.values()}
            places |= {printable(path.name): path for path in runs if path.resolve() not in known}
        for name in PACKAGED:
            if name not in self._given:
                places[f"{name} (of the package)" if name in places else name] = packaged(name)
        return places


def _saved(place: Path) -> tuple[int, int]:
    """Images seen at the newest checkpoint, and when the folder of checkpoints last changed, in ns."""
    saved = place / "checkpoints"
    newest = max((int(path.name) for path in saved.glob("[0-9]*") if path.name.isdecimal()), default=0)
    try:
        return newest, saved.stat().st_mtime_ns
    except OSError:
        return newest, 0


def _load(place: Path) -> Model:
    """The generator of a run, and its discriminator where the checkpoint holds one."""
    tensors, description = read_run(place)
    generator = build_generator(tensors, description, place)
    return Model(generator, build_discriminator(tensors, description, place))
