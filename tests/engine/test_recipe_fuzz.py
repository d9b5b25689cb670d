"""Recipe JSON: whatever `recipe.json` or a checkpoint holds is a recipe, or refused in one sentence."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from inputs import NUMBERS, refused_in_one_sentence, texts
from tiny_recipes import KINDS, ROWS, TINY
from vitgan import recipes
from vitgan.engine.gan import Recipe
from vitgan.engine.recipe import RunRecipe, read_recipe
from vitgan.engine.supervised import ClassifierRecipe, SirenRecipe, build_classifier
from vitgan.errors import UserError
from vitgan.io import read_json
from vitgan.models.base import within

pytestmark = [pytest.mark.fuzz, pytest.mark.usefixtures("one_thread")]

REAL = [recipes.get(name).to_dict() for name in [*recipes.names(), *ROWS]]

LAYERS = {"depth", "depths", "mapping_depth", "blocks", "stages", "levels"}  # what takes time to make


def test_any_recipe_json_is_read_or_refused_in_one_sentence(fuzz: Any, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            recipe = read_recipe(read_json(path))
        except ValueError as error:
            refused_in_one_sentence(error)
        else:
            assert read_recipe(recipe.to_dict()) == recipe
            assert recipe.conflicts(recipe) == []

    fuzz(check, texts(REAL))


def build(recipe: RunRecipe, classes: int) -> None:
    """Every network, its optimiser and its schedule; none of more than a million elements."""
    sizes = {"resolution": recipe.data.resolution, "channels": recipe.data.channels}
    if isinstance(recipe, Recipe):
        for options in (recipe.generator, recipe.discriminator):
            network = within({}, lambda options=options: options.build(**sizes, classes=classes), "x")
            recipe.optimiser_generator.build(network.parameters())
        recipe.ema.decay(recipe.training.batch, 1000)
        recipe.optimiser_generator.rate(1000, recipe.training.batch)
    elif isinstance(recipe, ClassifierRecipe):
        within({}, lambda: build_classifier(recipe, classes), "x")
    else:
        assert isinstance(recipe, SirenRecipe)
        within({}, lambda: recipe.network.build(channels=recipe.data.channels), "x")


@pytest.mark.parametrize("recipe", TINY, ids=KINDS)
def test_the_tiny_recipes_are_built(recipe: RunRecipe) -> None:
    """The recipes that the test below mutates are valid before it does."""
    build(recipe, 0 if isinstance(recipe, Recipe) else 3)


@st.composite
def with_other_numbers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A tiny recipe with up to three numbers of its parts changed; and a number of classes."""
    value = draw(st.sampled_from(TINY)).to_dict()
    parts = [part for part in value.values() if isinstance(part, dict)]
    parts += [part["backbone"] for part in parts if "backbone" in part]
    numbers = [(p, k) for p in parts for k, v in p.items() if type(v) in (int, float) or v is None]
    for _ in range(draw(st.integers(1, 3))):
        part, key = draw(st.sampled_from(numbers))
        part[key] = draw(
            st.one_of(st.integers(-1, 9), st.sampled_from([16, 32, 64]), st.floats(0, 2), NUMBERS)
        )
    return value, draw(st.integers(0, 4))


def test_any_numbers_make_a_network_or_are_refused(fuzz: Any) -> None:
    """From the options to the networks there is a UserError, or networks."""

    def check(value: tuple[dict[str, Any], int]) -> None:
        given, classes = value
        try:
            recipe = read_recipe(given)
            layers = [v for p in given.values() if isinstance(p, dict) for k, v in p.items() if k in LAYERS]
            if all(not isinstance(number, int) or number < 20 for number in layers):
                build(recipe, classes)
        except UserError as error:
            refused_in_one_sentence(error)

    fuzz(check, with_other_numbers())
