"""Every run by name. The index is plain text, so that listing it imports no torch."""

from importlib import import_module
from typing import Any

from vitgan.errors import UserError, did_you_mean

# Name: (module of this package that holds `RECIPES[name]`, one line).
INDEX = {
    "mnist": (
        "modern",
        "handwritten digits, 28x28 grey, by the modern ViTGAN; 4 minutes on 2 CPU cores",
    ),
    "digits": ("vitgan", "real handwritten digits, 8x8 grey; about 4 minutes on 2 CPU cores"),
    "cifar10": ("vitgan", "CIFAR-10, 32x32, at the paper's size and settings; a GPU"),
    "cifar10-released": (
        "rows",
        "CIFAR-10, 32x32, by the game of the authors' release; a GPU",
    ),
    "celeba-released": (
        "rows",
        "CelebA, 64x64, by the game of the authors' release; a GPU",
    ),
    "cifar10-small": ("vitgan", "CIFAR-10, 32x32, a small ViTGAN for 20 minutes on 2 CPU cores"),
    "cifar10-modern": ("modern", "CIFAR-10, 32x32, the modern ViTGAN; 20 minutes on 2 CPU cores"),
    "cifar10-modern-labels": ("modern", "CIFAR-10, 32x32, the modern ViTGAN conditioned on the class"),
    "celeba-modern": ("modern", "faces, 64x64, the modern ViTGAN; an hour on 2 CPU cores"),
    "celeba": ("vitgan", "CelebA, 64x64, at the paper's size and settings; a GPU"),
    "lsun-bedroom": ("vitgan", "LSUN bedroom, 64x64, at the paper's size and settings; a GPU"),
    "vit-classifier": ("supervised", "a ViT-Base that names the classes of CIFAR-10; a GPU"),
    "vit-classifier-small": ("supervised", "a small ViT that reads handwritten digits; a minute on a CPU"),
    "siren": ("supervised", "a SIREN at the paper's size fits one image, 256x256; a GPU"),
    "siren-small": ("supervised", "a small SIREN fits a handwritten digit, 32x32; seconds on a CPU"),
}

# The tables' rows; each is a recipe too, BASE-ROW, as cifar10-stylegan2.
BASES = ("digits", "cifar10-small", "cifar10", "celeba", "lsun-bedroom")
ROWS = {
    "architectures": {
        "biggan-diffaug": "BigGAN + DiffAugment",
        "stylegan2": "StyleGAN2",
        "transgan-xl": "TransGAN-XL",
        "vanilla-vit": "Vanilla-ViT",
        "vitgan": "ViTGAN",
        "stylegan2-d": "StyleGAN2-D + ViTGAN-G",
        "contrad": "ViTGAN with a contrastive discriminator (ContraD)",
        "unet-d": "ViTGAN with a U-Net discriminator",
    },
    "generator": {
        "a-linear": "A, w added to the positions; linear output",
        "a-neurrep": "A; implicit output (NeurRep)",
        "b-linear": "B, w as one more token; linear output",
        "b-neurrep": "B; implicit output (NeurRep)",
        "c-linear": "C, w by self-modulated layer norms; linear output",
        "c-neurrep": "C; implicit output (NeurRep): ViTGAN",
    },
    "discriminator": {
        "all": "ViTGAN: all of them",
        "no-diffaug": "without DiffAugment",
        "no-bcr": "without bCR",
        "dot-product": "dot-product attention in place of L2",
        "l2-farthest": "L2 attention with the sign that the deck prints (erratum 1)",
        "plain-spectral-norm": "plain spectral norm in place of the improved one",
        "no-spectral-norm": "without spectral norm",
        "no-overlap": "patches that do not overlap",
        "none": "none of them: a plain ViT discriminator",
    },
}


def names() -> list[str]:
    """The recipes' names; the tables' rows are recipes beside these."""
    return list(INDEX)


def row_names() -> list[str]:
    """Those of the tables' rows on each base."""
    return [f"{base}-{row}" for base in BASES for table in ROWS.values() for row in table]


def summary(name: str) -> str:
    """One line on a recipe."""
    return INDEX[name][1]


def get(name: str) -> Any:
    """The recipe of that name: a Recipe, a ClassifierRecipe or a SirenRecipe.

    Raises UserError, listing the names, when there is none.
    """
    if name in INDEX:
        return import_module(f"vitgan.recipes.{INDEX[name][0]}").RECIPES[name]
    for base in sorted(BASES, key=len, reverse=True):
        row = name.removeprefix(f"{base}-")
        if row != name and any(row in rows for rows in ROWS.values()):
            return import_module("vitgan.recipes.rows").row_recipe(base, row)
    raise UserError(
        f"There is no recipe {name!r}: choose one of {', '.join(INDEX)}, or a row of a table, BASE-ROW "
        f"(see `vitgan list`).{did_you_mean(name, [*INDEX, *row_names()])}"
    )
