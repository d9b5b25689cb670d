"""FLOPs of a training step against a count by hand, and parameters.

Shapes: B batch, N images, L patches, D width.
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from table_rows import TINY, VANILLA
from vitgan.adversarial import DiffAugment
from vitgan.bench.flops import _kinds, cost, count_step, counting, flops_per_image
from vitgan.data import Batch, DataOptions
from vitgan.engine.gan import GANTask, Recipe

CPU = torch.device("cpu")
DATA = DataOptions(source="digits", resolution=8, channels=1)
# A plain ViT against generator A with the linear output: both have 4 patches of 4 x 4, D 8, MLP 16, latent 8.
PLAIN = replace(
    VANILLA,
    data=DATA,
    generator=replace(TINY.generator, patch=4, entry="A", output="linear"),
    terms=(),
    augment=DiffAugment(translation=0.0, colour=0.0, cutout=0.0, scaling=0.0),
)
B, L, D, HIDDEN, PIXELS, Z = PLAIN.training.batch, 4, 8, 16, 16, 8


def task(recipe: Recipe) -> tuple[GANTask, Batch]:
    images = recipe.data.build()
    real = images.get(range(recipe.training.batch)) / 127.5 - 1
    return GANTask(recipe, images, CPU), Batch(real, None)


def product(rows: int, inner: int, columns: int) -> int:
    return 2 * rows * inner * columns


def generator() -> tuple[int, int, int]:
    """FLOPs of B images in the generator: the first layer of the mapping, all linear maps with it, the
    products of attention."""
    first = product(B, Z, D)
    block = 4 * product(B * L, D, D) + 2 * product(B * L, D, HIDDEN)
    linear = first + product(B, D, D) + block + product(B * L, D, PIXELS)
    return first, linear, 2 * B * product(L, D, L)


def discriminator(images: int) -> tuple[int, int, int]:
    """FLOPs of so many images in D: the embedding, all linear maps with it, the products of attention.

    The only block computes the class token alone.
    """
    embedding = product(images * L, PIXELS, D)
    keys_and_values = 2 * product(images * (L + 1), D, D)
    token = 2 * product(images, D, D) + 2 * product(images, D, HIDDEN) + product(images, D, 1)
    return embedding, embedding + keys_and_values + token, 2 * images * product(1, D, L + 1)


def step_by_hand(*, shared_fakes: bool = True) -> int:
    first, linear, attention = generator()
    embedding, judged, looked = discriminator(2 * B)
    # Backward: every product once for each of its two factors, but the images need no gradient here.
    update_d = linear + attention + 3 * (judged + looked) - embedding
    _, judged, looked = discriminator(B)
    # D's weights are frozen: one backward product for a linear map, still two for attention.
    update_g = 3 * (linear + attention) - first + 2 * judged + 3 * looked
    # The forward pass of D's update serves G's too.
    return update_d + update_g - (linear + attention if shared_fakes else 0)


@pytest.mark.parametrize("shared_fakes", [True, False])
def test_a_step_of_a_tiny_vit_counts_to_the_flop(shared_fakes: bool) -> None:
    recipe = replace(PLAIN, training=replace(PLAIN.training, shared_fakes=shared_fakes))
    assert count_step(*task(recipe), 0) == step_by_hand(shared_fakes=shared_fakes)


def test_an_image_costs_a_step_over_its_batch() -> None:
    assert flops_per_image(*task(PLAIN)) == step_by_hand() / B


def test_attention_counts_as_its_plain_products() -> None:
    """Attention has two products forward and four backward, fused or not."""
    q, k, v = (torch.randn(1, 2, 5, 4, requires_grad=True) for _ in range(3))
    with counting() as counter:
        F.scaled_dot_product_attention(q, k, v).sum().backward()
    assert counter.get_total_flops() == 6 * 2 * product(5, 4, 5)


def test_convolutions_count_through_a_double_backward() -> None:
    """The gradient's penalty has forward, backward to x, and of those two each to both of their factors."""
    x, weight = torch.randn(2, 3, 6, 6, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    with counting() as counter:
        y = F.conv2d(x, weight)
        (slope,) = torch.autograd.grad(y.square().sum() / 2, x, create_graph=True)
        slope.square().sum().backward()
    assert counter.get_total_flops() == 6 * product(2 * 4 * 4, 3 * 3 * 3, 4)


def test_a_lazy_term_counts_by_its_share() -> None:
    recipe = replace(PLAIN, terms=VANILLA.terms)
    with_it, without = count_step(*task(recipe), 4), count_step(*task(recipe), 5)
    assert without == step_by_hand()
    assert with_it > without
    assert flops_per_image(*task(recipe)) == pytest.approx((with_it + 3 * without) / 4 / B, rel=1e-12)


def test_every_kind_of_step_is_counted_once_with_its_share() -> None:
    """Every second D update has a G update; kinds are found by brute force over the whole period."""
    recipe = replace(PLAIN, terms=VANILLA.terms, training=replace(PLAIN.training, generator_every=2, batch=4))
    made, batch = task(recipe)
    kinds = _kinds(made)
    assert math.isclose(sum(share for _, share in kinds), 1)
    brute = [count_step(made, batch, step) for step in range(4)]
    assert flops_per_image(made, batch) == pytest.approx(sum(brute) / 4 / 4, rel=1e-12)


def test_parameters_are_those_of_the_two_networks() -> None:
    counted = cost(PLAIN, DATA.build(), CPU)
    block = 4 * D * D + 3 * D + 2 * D * HIDDEN + HIDDEN + D + 4 * D
    ends_d = PIXELS * D + D + D + (L + 1) * D + 2 * D + D + 1
    ends_g = (Z * D + D) + (D * D + D) + L * D + 2 * D + D * PIXELS + PIXELS
    assert counted.parameters_discriminator == block + ends_d
    assert counted.parameters_generator == block + ends_g
