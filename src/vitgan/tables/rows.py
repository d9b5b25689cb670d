"""The tables: their rows at a size, and what the deck prints for them."""

from dataclasses import dataclass, field, replace
from typing import Literal

from vitgan.engine.recipe import Recipe
from vitgan.models import VisionTransformerOptions, ViTGANGeneratorOptions
from vitgan.recipes import ROWS, get
from vitgan.recipes.rows import make_row

Printed = dict[str, tuple[float | None, float | None]]

TABLES = {
    "architectures": "whole systems against ViTGAN (deck)",
    "generator": "how the latent enters and how a patch is made (deck)",
    "discriminator": "each regulariser of the discriminator on and off (blog; paper's ablation)",
}
DECK = (
    "FID / IS as the deck prints them; Inception features, 50,000 generated images against the training "
    "images where the deck does not say otherwise."
)
PRINTED_PROTOCOL: dict[str, str] = dict.fromkeys(("cifar10", "celeba", "lsun-bedroom"), DECK)
NOTES = {
    "biggan-diffaug": "the printed figure is a class-conditional network's; this row has no labels",
    "transgan-xl": "the printed figure is of its paper's first version, whose discriminator had one scale",
    "stylegan2-d": "the printed figure is the authors' report, not the deck's",
}
# Deck's tables: data set -> (FID, IS).
PRINTED: dict[str, dict[str, Printed]] = {
    "architectures": {
        "biggan-diffaug": {"cifar10": (8.59, 9.25)},
        "stylegan2": {"cifar10": (11.1, 9.18), "celeba": (3.39, 3.43), "lsun-bedroom": (3.25, 2.45)},
        "transgan-xl": {"cifar10": (11.9, 8.63)},
        "vanilla-vit": {"cifar10": (12.7, 8.40), "celeba": (20.2, 2.57), "lsun-bedroom": (218.1, 2.20)},
        "vitgan": {"cifar10": (6.66, 9.30), "celeba": (3.74, 3.21), "lsun-bedroom": (2.65, 2.36)},
        "stylegan2-d": {"cifar10": (4.57, 9.89)},
    },
    "generator": {
        "a-linear": {"cifar10": (14.3, 8.60)},
        "a-neurrep": {"cifar10": (11.3, 9.05)},
        "b-linear": {"cifar10": (328.0, 1.01)},
        "b-neurrep": {"cifar10": (285.0, 2.46)},
        "c-linear": {"cifar10": (15.1, 8.58)},
        "c-neurrep": {"cifar10": (6.66, 9.30)},
    },
    "discriminator": {"all": {"cifar10": (6.66, 9.30)}},
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: a recipe whose source, budget and seed are still to be set."""

    name: str
    label: str
    recipe: Recipe
    printed: Printed = field(default_factory=dict)
    """By data set, (FID, IS); None where one is not printed."""
    note: str = ""


def rows(table: str, *, size: Literal["small", "paper"], resolution: int, channels: int) -> tuple[Row, ...]:
    """The rows of `table` for images of that shape, in the deck's order, all on the same data unmirrored."""
    base = _base(size, resolution, channels)
    printed = PRINTED[table]
    return tuple(
        Row(
            name=name,
            label=label,
            recipe=replace(make_row(base, name, small=size == "small"), data=base.data),
            printed=printed.get(name, {}),
            note=NOTES.get(name, ""),
        )
        for name, label in ROWS[table].items()
    )


def _base(size: Literal["small", "paper"], resolution: int, channels: int) -> Recipe:
    """ViTGAN at the size nearest to the images', with as many tokens as there."""
    if size == "small":
        base = get("digits" if resolution <= 16 else "cifar10-small")
    else:
        base = get("cifar10" if resolution <= 32 else "celeba")
    scale = resolution / base.data.resolution
    generator, discriminator = base.generator, base.discriminator
    assert isinstance(generator, ViTGANGeneratorOptions)
    assert isinstance(discriminator, VisionTransformerOptions)
    return replace(
        base,
        data=replace(base.data, resolution=resolution, channels=channels),
        generator=replace(generator, patch=max(int(generator.patch * scale), 1)),
        discriminator=replace(discriminator, patch=max(int(discriminator.patch * scale), 1)),
    )
