"""Every row of the tables as a recipe: a base recipe with another generator, discriminator or game.

The rows of "generator" and "discriminator" are the base's ViTGAN with one choice made otherwise.
"""

from collections.abc import Callable
from dataclasses import replace

from vitgan.adversarial import BCR
from vitgan.engine.recipe import Recipe
from vitgan.models import VisionTransformerOptions, ViTGANGeneratorOptions
from vitgan.recipes import ROWS, get
from vitgan.recipes.systems import NO_AUGMENT, SYSTEMS

Change = Callable[[Recipe], Recipe]
SMALL = ("digits", "cifar10-small")


def _generator(**fields: str) -> Change:
    def change(base: Recipe) -> Recipe:
        assert isinstance(base.generator, ViTGANGeneratorOptions)
        return replace(base, generator=replace(base.generator, **fields))  # type: ignore[arg-type]

    return change


def _discriminator(**fields: str | int) -> Change:
    def change(base: Recipe) -> Recipe:
        assert isinstance(base.discriminator, VisionTransformerOptions)
        return replace(base, discriminator=replace(base.discriminator, **fields))  # type: ignore[arg-type]

    return change


def _without_diffaugment(base: Recipe) -> Recipe:
    """bCR keeps its own augmentation: clean against augmented (arXiv 2002.04724)."""
    return replace(base, augment=NO_AUGMENT)


def _without_bcr(base: Recipe) -> Recipe:
    return replace(base, terms=tuple(term for term in base.terms if not isinstance(term, BCR)))


def _plain(base: Recipe) -> Recipe:
    """Every regulariser of the discriminator off at once."""
    plain = _discriminator(attention="dot-product", spectral_norm="none", overlap=0)
    return plain(_without_bcr(_without_diffaugment(base)))


GENERATOR: dict[str, Change] = {
    "a-linear": _generator(entry="A", output="linear"),
    "a-neurrep": _generator(entry="A", output="implicit"),
    "b-linear": _generator(entry="B", output="linear"),
    "b-neurrep": _generator(entry="B", output="implicit"),
    "c-linear": _generator(entry="C", output="linear"),
    "c-neurrep": _generator(entry="C", output="implicit"),
}

DISCRIMINATOR: dict[str, Change] = {
    "all": lambda base: base,
    "no-diffaug": _without_diffaugment,
    "no-bcr": _without_bcr,
    "dot-product": _discriminator(attention="dot-product"),
    "l2-farthest": _discriminator(attention="l2-attending-to-farthest"),
    "plain-spectral-norm": _discriminator(spectral_norm="plain"),
    "no-spectral-norm": _discriminator(spectral_norm="none"),
    "no-overlap": _discriminator(overlap=0),
    "none": _plain,
}


def row_recipe(base: str, row: str) -> Recipe:
    """The recipe BASE-ROW."""
    return make_row(get(base), row, small=base in SMALL)


def make_row(base: Recipe, row: str, *, small: bool) -> Recipe:
    """`base`, a ViTGAN's recipe, with the row's change; `small` picks the systems' small settings."""
    name = f"{base.name}-{row}"
    for changes in (GENERATOR, DISCRIMINATOR):
        if row in changes:
            return replace(changes[row](base), name=name)
    return replace(SYSTEMS[row](base, small), name=name)


assert ROWS["architectures"].keys() == SYSTEMS.keys()
assert ROWS["generator"].keys() == GENERATOR.keys()
assert ROWS["discriminator"].keys() == DISCRIMINATOR.keys()
