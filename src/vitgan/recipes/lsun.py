"""LSUN bedroom 64x64 at the paper's settings (spec, training table)."""

from dataclasses import replace

from vitgan.recipes.celeba import CELEBA

RECIPES = {
    "lsun-bedroom": replace(CELEBA, name="lsun-bedroom", data=replace(CELEBA.data, source="lsun-bedroom"))
}
