"""Every run by name. The index is plain text, so that listing it imports no torch."""

from importlib import import_module
from typing import TYPE_CHECKING

from vitgan.errors import UserError

if TYPE_CHECKING:
    from vitgan.engine.recipe import Recipe

# Name: (module of this package that holds `recipe(name)`, one line).
INDEX = {
    "digits": ("digits", "real handwritten digits, 8x8 grey; about 4 minutes on 2 CPU cores"),
    "cifar10": ("cifar10", "CIFAR-10, 32x32, at the paper's size and settings; a GPU"),
    "cifar10-small": ("cifar10", "CIFAR-10, 32x32, a small ViTGAN for 20 minutes on 2 CPU cores"),
    "celeba": ("celeba", "CelebA, 64x64, at the paper's size and settings; a GPU"),
    "lsun-bedroom": ("lsun", "LSUN bedroom, 64x64, at the paper's size and settings; a GPU"),
}


def names() -> list[str]:
    """The recipes' names."""
    return list(INDEX)


def summary(name: str) -> str:
    """One line on a recipe."""
    return INDEX[name][1]


def get(name: str) -> "Recipe":
    """The recipe of that name. Raises UserError, listing the names, when there is none."""
    if name not in INDEX:
        raise UserError(f"There is no recipe {name!r}: choose one of {', '.join(INDEX)} (see `vitgan list`).")
    module = import_module(f"vitgan.recipes.{INDEX[name][0]}")
    return module.RECIPES[name]
