"""FLOPs from the shapes, against the paper's size and against torch's counter."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from vitgan import recipes
from vitgan.adversarial import BCR, R1
from vitgan.bench.flops import (
    cost,
    countable,
    discriminator_forward,
    generator_forward,
    method_flops,
    performed_flops,
    step_flops,
)
from vitgan.bench.settings import open_images, with_training
from vitgan.engine.gan import Recipe

DIGITS = with_training(recipes.get("digits"), batch=4)


def generator(**fields: Any) -> Recipe:
    return replace(DIGITS, generator=replace(DIGITS.generator, **fields))


def discriminator(**fields: Any) -> Recipe:
    return replace(DIGITS, discriminator=replace(DIGITS.discriminator, **fields))


RECIPES = {
    "ViTGAN": DIGITS,
    "entry A, linear output": generator(entry="A", output="linear"),
    "entry B": generator(entry="B"),
    "demodulated": generator(implicit_demodulate=True, implicit_width=32),
    "concatenation": generator(implicit_combine="concatenation"),
    "dot product": discriminator(attention="dot-product"),
    "no spectral norm, no overlap": discriminator(spectral_norm="none", overlap=0, head="linear"),
    "no bCR": replace(DIGITS, terms=()),
    "bCR against clean": replace(DIGITS, terms=(BCR(against="clean"),)),
    "labels": replace(DIGITS, data=replace(DIGITS.data, labels=True)),
    "fakes of their own": with_training(DIGITS, shared_fakes=False),
    "accumulated": with_training(DIGITS, accumulate=2),
    "two updates of D": with_training(DIGITS, generator_every=2),
}


def test_the_papers_cifar10_asks_for_17_5_gflop_an_image() -> None:
    assert method_flops(recipes.get("cifar10")) == pytest.approx(17.5e9, rel=0.02)


def test_cifar10_counts_as_by_hand() -> None:
    """At 32 x 32, patch 4, D 384, MLP 1536 there are 64 patches, and 65 tokens in the discriminator."""
    recipe, square, wide = recipes.get("cifar10"), 2 * 384**2, 2 * 384 * 1536
    judged = discriminator_forward(recipe)
    assert judged.entry == 64 * 2 * 3 * 8**2 * 384
    assert judged.linear == judged.entry + 4 * 65 * (3 * square + 2 * wide) + square + 2 * 384
    assert judged.attention == 4 * 2 * 2 * 65**2 * 384
    made = generator_forward(recipe)
    pixels = 1024 * (square + 2 * 384 * 3) + 64 * 2 * square
    assert made.linear == 8 * square + 9 * 2 * square + 4 * 64 * (4 * square + 2 * wide) + pixels
    assert made.attention == 4 * 2 * 2 * 64**2 * 384
    views = 4 * 3 * judged.whole
    through = 2 * judged.linear + 3 * judged.attention
    assert method_flops(recipe) == 4 * made.whole + views + through


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_performed_is_what_torch_counts(name: str) -> None:
    """Both leave out elementwise work; the counter sees the augmentation's affine grid beside."""
    recipe = RECIPES[name]
    images = open_images(recipe.data, None, recipe.training.batch)
    counted = cost(recipe, images, torch.device("cpu")).flops_per_image
    assert performed_flops(recipe, len(images.classes)) == pytest.approx(counted, rel=0.01)


def test_bcr_doubles_the_views() -> None:
    without = replace(DIGITS, terms=())
    added = method_flops(DIGITS) - method_flops(without)
    assert added == pytest.approx(2 * 3 * discriminator_forward(DIGITS).whole)


@pytest.mark.parametrize(
    "recipe",
    [
        recipes.get("digits-stylegan2"),
        recipes.get("digits-vanilla-vit"),
        replace(DIGITS, terms=(R1(gamma=0.1, every=4),)),
        generator(output="conv"),
    ],
    ids=lambda recipe: recipe.name,
)
def test_others_are_left_to_the_counter(recipe: Recipe) -> None:
    assert not countable(recipe)
    found = step_flops(recipe, count=lambda: 5.0)
    assert (found.method, found.performed, found.by) == (None, 5.0, "counter")


def test_what_the_paper_asks_is_more_than_what_is_performed() -> None:
    recipe = recipes.get("cifar10")
    found = step_flops(recipe)
    assert found.by == "shapes"
    assert found.method is not None
    assert 0.5 * found.method < found.performed < found.method
