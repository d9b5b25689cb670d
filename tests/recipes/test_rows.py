"""The tables' rows as recipes: each differs from its base in what it says, builds, and trains."""

from dataclasses import replace

import pytest
import torch

import systems
from vitgan import recipes
from vitgan.adversarial import BCR, R1, Game
from vitgan.config import differences
from vitgan.engine.gan import Recipe
from vitgan.errors import UserError
from vitgan.models import VisionTransformerOptions, ViTGANGeneratorOptions
from vitgan.tables.plan import PRINTED, TABLES, rows

ALL = [(table, row) for table, names in recipes.ROWS.items() for row in names]


def game(recipe: Recipe) -> Game:
    return Game(
        loss=recipe.loss,
        augment=recipe.augment,
        terms=recipe.terms,
        generator_terms=recipe.generator_terms,
        generator_every=recipe.training.generator_every,
    )


def built(recipe: Recipe):
    torch.manual_seed(0)
    size = {"resolution": recipe.data.resolution, "channels": recipe.data.channels}
    return recipe.generator.build(**size), recipe.discriminator.build(**size)


@pytest.mark.parametrize("base", recipes.BASES)
@pytest.mark.parametrize(("table", "row"), ALL)
def test_every_row_is_a_recipe_that_comes_back_from_json(base: str, table: str, row: str):  # noqa: ARG001
    recipe = recipes.get(f"{base}-{row}")
    assert recipe.name == f"{base}-{row}"
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize("row", ["vanilla-vit", "stylegan2-d", "contrad", "unet-d"])
def test_a_system_of_parts_trains(row: str):
    """In 320 toy images terms are finite, parameters move, samples are in range and outlive a save."""
    recipe = recipes.get(f"digits-{row}")
    generator, discriminator = built(recipe)
    seen = systems.train_and_check(
        systems.players(generator, discriminator), game(recipe), systems.toy_images(8, 1), steps=40
    )
    assert len(seen["loss_discriminator"]) == 40
    systems.check_samples(generator, lambda: built(recipe)[0])


@pytest.mark.parametrize(("table", "row"), [pair for pair in ALL if pair[0] != "architectures"])
def test_an_ablation_takes_its_steps(table: str, row: str):  # noqa: ARG001
    recipe = recipes.get(f"digits-{row}")
    pair = systems.players(*built(recipe))
    systems.train_and_check(pair, game(recipe), systems.toy_images(8, 1), steps=3)


def test_rows_of_the_generator_differ_in_the_generator_alone():
    base = recipes.get("cifar10").to_dict()
    for row in recipes.ROWS["generator"]:
        found = differences(base, recipes.get(f"cifar10-{row}").to_dict())
        changed = {line.split(":")[0] for line in found} - {"name"}
        assert changed <= {"generator.entry", "generator.output"}
        generator = recipes.get(f"cifar10-{row}").generator
        assert (generator.entry, generator.output) == (row[0].upper(), named_output(row))
    assert differences(base, recipes.get("cifar10-c-neurrep").to_dict()) == [
        "name: cifar10 -> cifar10-c-neurrep"
    ]


def named_output(row: str) -> str:
    return "linear" if row.endswith("linear") else "implicit"


def test_rows_of_the_discriminator_differ_in_what_they_name():
    """Each makes one choice, the row of all has none, and the row of none has every one."""
    base = recipes.get("cifar10").to_dict()
    changed = {
        row: {line.split(":")[0] for line in differences(base, recipes.get(f"cifar10-{row}").to_dict())}
        - {"name"}
        for row in recipes.ROWS["discriminator"]
    }
    assert changed["all"] == set()
    assert {field.split(".")[0] for field in changed["no-diffaug"]} == {"augment"}
    assert changed["no-bcr"] == {"terms[0]"}
    assert changed["dot-product"] == changed["l2-farthest"] == {"discriminator.attention"}
    assert changed["plain-spectral-norm"] == changed["no-spectral-norm"] == {"discriminator.spectral_norm"}
    assert changed["no-overlap"] == {"discriminator.overlap"}
    single = ("no-diffaug", "no-bcr", "dot-product", "no-spectral-norm", "no-overlap")
    assert changed["none"] == set().union(*(changed[row] for row in single))


def test_vanilla_vit_is_the_decks():
    recipe = recipes.get("cifar10-vanilla-vit")
    generator, discriminator = recipe.generator, recipe.discriminator
    assert isinstance(generator, ViTGANGeneratorOptions)
    assert isinstance(discriminator, VisionTransformerOptions)
    assert (generator.entry, generator.output) == ("A", "linear")
    assert (discriminator.attention, discriminator.spectral_norm) == ("dot-product", "none")
    assert discriminator.overlap == 0
    assert {type(term) for term in recipe.terms} == {BCR, R1}
    assert recipe.augment.active


@pytest.mark.parametrize("size", ["small", "paper"])
@pytest.mark.parametrize("table", TABLES)
def test_a_table_has_its_rows_on_the_same_data(table: str, size):
    found = rows(table, size=size, resolution=32, channels=3)
    assert [row.name for row in found] == list(recipes.ROWS[table])
    assert len({replace(row.recipe.data, flip=False) for row in found}) == 1
    assert PRINTED[table].keys() <= recipes.ROWS[table].keys()


def test_rows_fit_images_of_other_sizes():
    for resolution, channels in ((16, 1), (64, 3)):
        for row in rows("architectures", size="small", resolution=resolution, channels=channels):
            generator, _ = built(row.recipe)
            with torch.no_grad():
                made = generator(generator.latents(2, seed=0))
            assert made.shape == (2, channels, resolution, resolution)


def test_an_unknown_row_is_said():
    with pytest.raises(UserError, match="BASE-ROW"):
        recipes.get("digits-stylegan7")


@pytest.mark.parametrize(("size", "base"), [("small", "cifar10-small"), ("paper", "cifar10")])
@pytest.mark.parametrize("table", ["architectures", "generator", "discriminator"])
def test_a_row_of_a_table_is_the_recipe_of_its_name(size: str, base: str, table: str) -> None:
    for row in rows(table, size=size, resolution=32, channels=3):  # type: ignore[arg-type]
        assert replace(row.recipe, name="") == replace(recipes.get(f"{base}-{row.name}"), name=""), row.name


@pytest.mark.parametrize("name", ["cifar10", "celeba"])
def test_the_released_game_differs_from_the_paper_s_by_what_the_release_sets(name: str) -> None:
    """The settings are those of the release's README and configuration of CIFAR-10."""
    paper, released = recipes.get(name), recipes.get(f"{name}-released")
    assert (released.generator, released.discriminator) == (paper.generator, paper.discriminator)
    assert released.terms == (BCR(real=1.0, fake=1.0),)
    assert released.training.batch == 64
    assert (
        released.optimiser_generator.learning_rate == released.optimiser_discriminator.learning_rate == 0.001
    )
    assert released.optimiser_generator.warm_up == 3_000 * 64
    assert released.ema.half_life == 1_000_000
    assert released.data.flip
    assert (released.augment.cutout, released.augment.scaling) == (0.3, 0.0)
    pair = recipes.get(f"{name}-stylegan2-d")
    same = replace(pair, name=released.name, discriminator=released.discriminator, terms=released.terms)
    assert same == released
    assert pair.terms == (*released.terms, R1(gamma=0.4, every=1))
