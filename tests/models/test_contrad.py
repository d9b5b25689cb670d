"""ContraD in training: who teaches the encoder, precision, saving, and what it refuses."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import systems
from vitgan.adversarial import R1, Game, Logistic, train_step
from vitgan.adversarial.augment import StrongAugment
from vitgan.adversarial.contrastive import Contrastive
from vitgan.errors import UserError
from vitgan.models import (
    VisionTransformer,
    VisionTransformerOptions,
    ViTGANGenerator,
    ViTGANGeneratorOptions,
)
from vitgan.models.contrad import ContraDDiscriminator, ContraDDiscriminatorOptions, ResidualOptions

SIZES: dict[str, Any] = {"depth": 2, "width": 16, "heads": 2, "perceptron_width": 16}
BACKBONES = {
    "transformer": VisionTransformerOptions(patch=4, **SIZES),
    "residual": ResidualOptions(width=8, blocks=1),
}
GAME = Game(loss=Logistic(), augment=StrongAugment(), terms=(Contrastive(),))


def generator(classes: int = 0) -> ViTGANGenerator:
    options = ViTGANGeneratorOptions(
        patch=4, latent_dim=8, mapping_depth=2, mapping_learning_rate=1.0, **SIZES
    )
    return options.build(resolution=8, channels=3, classes=classes)


def discriminator(backbone: str = "transformer", classes: int = 0) -> ContraDDiscriminator:
    torch.manual_seed(0)
    options = ContraDDiscriminatorOptions(backbone=BACKBONES[backbone], hidden=16, projection=8)
    return options.build(resolution=8, channels=3, classes=classes)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_training_moves_every_parameter_and_samples_outlive_a_save(backbone: str):
    """Every parameter of both networks moves, and a generator that was saved samples the same."""
    pair = systems.players(generator(), discriminator(backbone))
    seen = systems.train_and_check(pair, GAME, systems.toy_images(8, 3))
    assert {"term_contrastive_real", "term_contrastive_fake", "term_adversarial"} <= seen.keys()
    assert isinstance(pair.generator, ViTGANGenerator)
    systems.check_samples(pair.generator, generator)


def test_the_contrastive_losses_fall_in_training():
    pair = systems.players(generator(), discriminator("residual"), rate=2e-3)
    seen = systems.train_and_check(pair, GAME, systems.toy_images(8, 3), steps=60)
    for name in ("term_contrastive_real", "term_contrastive_fake"):
        assert sum(seen[name][-10:]) < 0.95 * sum(seen[name][:10])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_adversarial_loss_teaches_the_head_and_not_the_encoder(backbone: str):
    model = discriminator(backbone)
    model.judge(images()).logits.sum().backward()
    taught = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert taught == {"head"}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_projection_teaches_the_encoder_and_its_own_head(backbone: str):
    for half, head in ((slice(0, 8), "project_real"), (slice(8, 16), "project_fake")):
        model = discriminator(backbone)
        projections = model.judge(images()).projections
        assert projections is not None
        assert projections.shape == (4, 16)
        projections[:, half].square().sum().backward()
        taught = {
            name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()
        }
        assert taught == {"encoder", head}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_generators_gradient_passes_the_frozen_encoder(backbone: str):
    """It is the whole derivative: that of `forward`, which stops nothing."""
    model, x = discriminator(backbone).requires_grad_(False), images().requires_grad_()
    (gradient,) = torch.autograd.grad(model.judge(x).logits.sum(), x)
    assert gradient.abs().amax((1, 2, 3)).min() > 0
    (whole,) = torch.autograd.grad(model.requires_grad_(True)(x).sum(), x)
    torch.testing.assert_close(gradient, whole)


def test_a_gradient_penalty_reaches_the_encoder():
    pair = systems.players(generator(), discriminator())
    game = Game(loss=Logistic(), augment=StrongAugment(), terms=(Contrastive(), R1(gamma=0.1, every=1)))
    seen = train_step(pair, game, images(), None, torch.Generator().manual_seed(0), 0)
    assert seen["term_r1"] > 0
    model = discriminator()
    x = images().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert isinstance(model.encoder, VisionTransformer)
    assert model.encoder.embed.weight.grad is not None


def test_labels_reach_the_logit():
    pair = systems.players(generator(classes=3), discriminator(classes=3))
    systems.train_and_check(pair, GAME, systems.toy_images(8, 3), torch.arange(64) % 3)
    x = images(1).expand(3, -1, -1, -1)
    assert torch.pdist(discriminator(classes=3)(x, torch.arange(3))).min() > 1e-4


@pytest.mark.parametrize("backbone", BACKBONES)
def test_bfloat16_comes_near_fp32_and_trains(backbone: str):
    """Logits and projections are fp32 and near fp32's; every parameter and the images get a gradient."""
    model, x = discriminator(backbone), images()
    exact, found = model.judge(x), model.judge(x.bfloat16())
    assert found.projections is not None
    assert exact.projections is not None
    assert found.logits.dtype == found.projections.dtype == torch.float32
    torch.testing.assert_close(found.projections, exact.projections, rtol=0.05, atol=0.05)
    (found.logits.sum() + found.projections.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    game = Game(loss=Logistic(), augment=StrongAugment(), terms=(Contrastive(),), dtype=torch.bfloat16)
    systems.train_and_check(systems.players(generator(), model), game, systems.toy_images(8, 3), steps=8)


def test_training_is_a_function_of_the_generator_of_random_numbers():
    ends = []
    for noise in (1, 2):
        torch.manual_seed(0)
        pair = systems.players(generator(), discriminator())
        torch.manual_seed(noise)
        systems.train_and_check(pair, GAME, systems.toy_images(8, 3), steps=3)
        ends.append(torch.nn.utils.parameters_to_vector(pair.discriminator.parameters()))
    assert torch.equal(*ends)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_saved_and_loaded_it_judges_the_same(backbone: str):
    """The norm's vectors and the sigma of the start are saved as well."""
    model = discriminator(backbone)
    for _ in range(3):
        model.advance()
    torch.manual_seed(5)
    fresh = type(model)(model.options, resolution=8, channels=3)
    fresh.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(fresh(images()), model(images()))
    assert not any("encoder.head" in name or "encoder.spectral" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("resolution", "grid"), [(8, [8, 4]), (16, [16, 8, 4]), (32, [32, 16, 8, 4]), (64, [64, 32, 16, 8])]
)
def test_the_residual_encoder_halves_down_to_four_pixels(resolution: int, grid: list[int]):
    sides = []
    model = ContraDDiscriminatorOptions(backbone=ResidualOptions(width=1)).build(
        resolution=resolution, channels=1
    )
    assert not isinstance(model.encoder, VisionTransformer)
    for block in model.encoder.blocks:
        block.register_forward_hook(lambda _block, _inputs, out: sides.append(out.shape[-1]))
    model(torch.zeros(2, 1, resolution, resolution))
    assert sides == [side for side in grid for _ in range(2)]


def test_mistakes_are_named():
    wrong = ResidualOptions(spectral_norm="plane")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="power of two"):
        ContraDDiscriminatorOptions(backbone=ResidualOptions()).build(resolution=24, channels=3)
    with pytest.raises(UserError, match="patch size"):
        ContraDDiscriminatorOptions(backbone=VisionTransformerOptions(patch=3)).build(
            resolution=8, channels=3
        )
    with pytest.raises(UserError, match="spectral_norm"):
        ContraDDiscriminatorOptions(backbone=wrong).build(resolution=8, channels=3)
    plain = BACKBONES["transformer"]
    assert isinstance(plain, VisionTransformerOptions)
    pair = systems.players(generator(), plain.build(resolution=8, channels=3))
    with pytest.raises(UserError, match="projections"):
        train_step(pair, GAME, images(), None, torch.Generator().manual_seed(0), 0)
    pair = systems.players(generator(), discriminator())
    with pytest.raises(UserError, match="at least 2"):
        train_step(pair, GAME, images(1), None, torch.Generator().manual_seed(0), 0)
    with pytest.raises(UserError, match="temperature"):
        Contrastive(temperature=0.0)
