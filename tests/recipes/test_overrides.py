"""Recipes by name, to JSON and back, and their settings from the command line."""

import contextlib
import dataclasses
import io
import json

import pytest

from vitgan import recipes, registry
from vitgan.adversarial import BCR, R1, Hinge, Wasserstein
from vitgan.engine.gan import Recipe
from vitgan.engine.recipe import read_recipe
from vitgan.errors import UserError
from vitgan.recipes.settings import override

DIGITS = recipes.get("digits")


@pytest.mark.parametrize("name", recipes.names())
def test_each_recipe_goes_to_json_and_back(name: str) -> None:
    recipe = recipes.get(name)
    assert recipe.name == name
    assert read_recipe(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.conflicts(recipe) == []
    assert recipes.summary(name)


@pytest.mark.parametrize("name", recipes.names())
def test_no_settings_change_nothing(name: str) -> None:
    assert override(recipes.get(name), []) == recipes.get(name)


def test_an_unknown_name_lists_the_names() -> None:
    with pytest.raises(UserError, match=r"no recipe 'digit'.* digits, .*cifar10"):
        recipes.get("digit")


def test_a_damaged_recipe_names_its_place() -> None:
    whole = DIGITS.to_dict()
    whole["generator"]["depht"] = whole["generator"].pop("depth")
    with pytest.raises(UserError, match=r"recipe\.generator has no field 'depht'"):
        Recipe.from_dict(whole)
    whole = DIGITS.to_dict()
    whole["terms"][0]["type"] = "BRC"
    with pytest.raises(UserError, match=r"recipe\.terms\[0\]\.type is 'BRC', but must be one of .*BCR.*, R1"):
        Recipe.from_dict(whole)


@pytest.mark.parametrize(
    ("words", "place", "value"),
    [
        ("--generator.width 96", "generator.width", 96),
        ("--generator.width=96", "generator.width", 96),
        ("--generator.equalised False", "generator.equalised", False),
        ("--data.flip True", "data.flip", True),
        ("--generator.implicit-width 5", "generator.implicit_width", 5),
        ("--generator.implicit-width None", "generator.implicit_width", None),
        ("--training.minutes None", "training.minutes", None),
        ("--discriminator.overlap 0", "discriminator.overlap", 0),
        ("--ema.ramp-up None", "ema.ramp_up", None),
        ("--optimiser-generator.learning-rate 1e-4", "optimiser_generator.learning_rate", 1e-4),
        ("--augment.cutout 0.25", "augment.cutout", 0.25),
        ("--data.channels 3", "data.channels", 3),
        ("--data.source a/b.zip", "data.source", "a/b.zip"),
        ("--generator.entry B --generator.output conv", "generator.output", "conv"),
    ],
)
def test_a_setting_reaches_its_field(words: str, place: str, value: object) -> None:
    changed = override(DIGITS, words.split())
    part, field = place.split(".")
    assert getattr(getattr(changed, part), field) == value
    assert type(getattr(getattr(changed, part), field)) is type(value)
    untouched = [f.name for f in dataclasses.fields(Recipe) if f.name != part]
    assert all(getattr(changed, name) == getattr(DIGITS, name) for name in untouched)


def test_a_term_comes_in_by_name() -> None:
    changed = override(DIGITS, ["--terms.r1.gamma", "0.1", "--terms.r1.every", "4"])
    assert changed.terms == (*DIGITS.terms, R1(gamma=0.1, every=4))


def test_a_term_of_weight_zero_goes() -> None:
    assert override(DIGITS, ["--terms.bcr.real", "0", "--terms.bcr.fake", "0"]).terms == ()
    half = override(DIGITS, ["--terms.bcr.real", "0"]).terms
    assert isinstance(half[0], BCR)
    assert (half[0].real, half[0].fake) == (0.0, DIGITS.terms[0].fake)  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "loss"), [("hinge", Hinge()), ("wasserstein", Wasserstein())])
def test_a_loss_comes_by_name(name: str, loss: object) -> None:
    changed = override(DIGITS, ["--loss.name", name])
    assert changed.loss == loss
    assert DIGITS.conflicts(changed) == [f"loss.type: Logistic -> {type(loss).__name__}"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--generator.wdith 8", "no setting --generator.wdith: did you mean --generator.width"),
        ("--terms.contrast.weight 1", "no setting --terms.contrast.weight"),
        ("nonsense", "no setting nonsense"),
        ("--generator.width x", "--generator.width must be a whole number, not 'x'"),
        ("--generator.width 8.5", "--generator.width must be a whole number, not '8.5'"),
        ("--augment.cutout x", "--augment.cutout must be a number, not 'x'"),
        ("--generator.implicit-width x", "must be None or a whole number, not 'x'"),
        ("--generator.equalised maybe", "--generator.equalised must be True or False, not 'maybe'"),
        ("--loss.name foo", f"no loss 'foo': choose one of {', '.join(registry.names('loss'))}, or"),
        ("--data.channels 2", "--data.channels must be one of 1, 3, not '2'"),
        ("--generator.width", "--generator.width needs a value"),
        ("--training.images 0", "^--images must be greater than 0"),
        ("--training.batch 0", "^--training.batch must be at least 1"),
        ("--training.seed -1", "^--seed must be at least 0"),
        ("--training.minutes nan", "^--minutes must be"),
        ("--generator.depth 0", "--generator.depth must be at least 1"),
        ("--generator.mapping-depth 0", "--generator.mapping-depth must be at least 1"),
        ("--optimiser-generator.learning-rate -1", "--optimiser-generator.learning-rate must be at least 0"),
        ("--optimiser-generator.beta1 1", "--optimiser-generator.beta1 must be below 1"),
        ("--terms.r1.gamma 1 --terms.r1.every 0", "--terms.r1.every must be at least 1"),
        ("--augment.cutout 2", "--augment.cutout must be at most 1"),
        ("--ema.half-life -1", "--ema.half-life must be at least 0"),
    ],
)
def test_a_mistake_is_one_sentence(words: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        override(DIGITS, words.split())
    assert "\n" not in str(caught.value)
    assert "Error parsing" not in str(caught.value)


def test_a_mistake_is_one_sentence_without_box_characters_too() -> None:
    """Tyro frames what it says by what standard output can show."""
    with (
        contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "ascii")),
        pytest.raises(UserError, match=r"no setting --generator.wdith: did you mean --generator.width\?"),
    ):
        override(DIGITS, ["--generator.wdith", "8"])


def test_some_settings_may_change_between_two_commands() -> None:
    words = [
        "--data.source=elsewhere",
        "--training.images=5",
        "--training.precision=bf16",
        "--training.keep=9",
    ]
    assert DIGITS.conflicts(override(DIGITS, words)) == []


@pytest.mark.parametrize(
    "words", ["--training.seed 1", "--training.batch 5", "--generator.width 8", "--data.flip True"]
)
def test_settings_that_may_not_change_are_named_as_conflicts(words: str) -> None:
    (conflict,) = DIGITS.conflicts(override(DIGITS, words.split()))
    assert conflict.startswith(words.split()[0].removeprefix("--"))


def test_a_new_term_is_named_as_the_conflict() -> None:
    (conflict,) = DIGITS.conflicts(override(DIGITS, ["--terms.r1.gamma", "1"]))
    assert conflict == "terms[1]: None -> R1"
