"""The U-Net discriminator in training: gradients, precision, saving, and what it refuses."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import systems
from vitgan.adversarial import R1, DiffAugment, Game, Hinge, Logistic, train_step
from vitgan.adversarial.consistency import CutMix
from vitgan.errors import UserError
from vitgan.models import VisionTransformerOptions, ViTGANGenerator, ViTGANGeneratorOptions
from vitgan.models.unet import UNetDiscriminator, UNetDiscriminatorOptions

SIZES: dict[str, Any] = {"patch": 4, "depth": 2, "width": 16, "heads": 2, "perceptron_width": 16}
GAME = Game(loss=Logistic(), augment=DiffAugment(), terms=(CutMix(warm_up=8),))


def generator(classes: int = 0) -> ViTGANGenerator:
    options = ViTGANGeneratorOptions(latent_dim=8, mapping_depth=2, mapping_learning_rate=1.0, **SIZES)
    return options.build(resolution=8, channels=3, classes=classes)


def discriminator(classes: int = 0) -> UNetDiscriminator:
    torch.manual_seed(0)
    return UNetDiscriminatorOptions(width=8).build(resolution=8, channels=3, classes=classes)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


@pytest.mark.parametrize("classes", [0, 3])
def test_training_moves_every_parameter_and_samples_outlive_a_save(classes: int):
    """Every parameter of both networks moves, and a generator that was saved samples the same."""
    pair = systems.players(generator(classes), discriminator(classes))
    labels = torch.arange(64) % classes if classes else None
    seen = systems.train_and_check(pair, GAME, systems.toy_images(8, 3), labels)
    assert {"term_adversarial", "term_adversarial_pixels"} <= seen.keys()
    mixed = {len(seen[f"term_cutmix_{part}"]) for part in ("image", "pixels", "consistency")}
    assert len(mixed) == 1
    assert 0 < mixed.pop() < 32
    assert isinstance(pair.generator, ViTGANGenerator)
    systems.check_samples(pair.generator, lambda: generator(classes))


def test_it_trains_with_another_loss_and_a_penalty():
    game = Game(loss=Hinge(), augment=DiffAugment(), terms=(CutMix(), R1(gamma=0.1, every=4)))
    systems.train_and_check(systems.players(generator(), discriminator()), game, systems.toy_images(8, 3))


def test_the_decoder_learns_to_tell_the_pixels_of_a_mixture():
    """The generator stands still."""
    pair = systems.players(generator(), discriminator(), rate=3e-3)
    game = Game(
        loss=Logistic(),
        augment=DiffAugment(translation=0, colour=0, cutout=0, scaling=0),
        terms=(CutMix(probability=1.0),),
        generator_every=1000,
    )
    pixels = []
    for step in range(80):
        real = systems.toy_images(8, 3)[8 * (step % 8) : 8 * (step % 8) + 8]
        seen = train_step(pair, game, real, None, torch.Generator().manual_seed(step), step)
        pixels.append(seen["term_cutmix_pixels"].item())
    assert sum(pixels[-10:]) < 0.8 * sum(pixels[:10])


def test_each_verdict_has_its_own_gradient():
    """The image's does not reach the decoder; a pixel's reaches the encoder too."""
    for part, taught in (
        ("logits", {"encoder", "verdict"}),
        ("pixels", {"encoder", "decoder", "pixel_verdict"}),
    ):
        model = discriminator()
        getattr(model.judge(images()), part).square().sum().backward()
        assert {
            name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()
        } == taught


def test_a_pixels_verdict_depends_on_its_place():
    """A change of one corner moves that corner's logit the most."""
    model, x = discriminator(), images(1).requires_grad_()
    pixels = model.judge(x).pixels
    assert pixels is not None
    assert pixels.shape == (1, 1, 8, 8)
    (gradient,) = torch.autograd.grad(pixels[0, 0, 0, 0], x)
    assert gradient[0, :, :4, :4].norm() > 2 * gradient[0, :, 4:, 4:].norm()


def test_bfloat16_comes_near_fp32_and_trains():
    """Logits are fp32 and near fp32's, parameters get gradients, and a game runs in bf16, mixed pass too."""
    model, x = discriminator(), images()
    exact, found = model.judge(x), model.judge(x.bfloat16())
    assert found.pixels is not None
    assert exact.pixels is not None
    assert found.logits.dtype == found.pixels.dtype == torch.float32
    torch.testing.assert_close(found.pixels, exact.pixels, rtol=0.05, atol=0.02)
    (found.logits.sum() + found.pixels.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    game = Game(
        loss=Logistic(), augment=DiffAugment(), terms=(CutMix(probability=1.0),), dtype=torch.bfloat16
    )
    seen_in: set[torch.dtype] = set()
    model.encoder[0].register_forward_pre_hook(lambda _block, inputs: seen_in.add(inputs[0].dtype))
    systems.train_and_check(systems.players(generator(), model), game, systems.toy_images(8, 3), steps=8)
    assert seen_in == {torch.bfloat16}


def test_training_is_a_function_of_the_generator_of_random_numbers():
    ends = []
    for noise in (1, 2):
        torch.manual_seed(0)
        pair = systems.players(generator(), discriminator())
        torch.manual_seed(noise)
        systems.train_and_check(pair, GAME, systems.toy_images(8, 3), steps=6)
        ends.append(torch.nn.utils.parameters_to_vector(pair.discriminator.parameters()))
    assert torch.equal(*ends)


def test_saved_and_loaded_it_judges_the_same():
    model = discriminator()
    for _ in range(3):
        model.advance()
    torch.manual_seed(5)
    fresh = UNetDiscriminatorOptions(width=8).build(resolution=8, channels=3)
    fresh.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(fresh(images()), model(images()))


def test_plain_spectral_norm_holds_after_training():
    """sigma of every effective weight is 1 once the power iteration has caught up."""
    pair = systems.players(generator(), discriminator())
    systems.train_and_check(pair, GAME, systems.toy_images(8, 3))
    model = pair.discriminator
    assert isinstance(model, UNetDiscriminator)
    assert model.spectral is not None
    for _ in range(300):
        model.advance()
    with model.spectral.applied(), torch.no_grad():
        layers = [layer for group in model.spectral.groups for layer in group]
        sigmas = [torch.linalg.svdvals(layer.effective_weight())[0].item() for layer in layers]
    assert len(layers) == 14
    assert sigmas == pytest.approx([1.0] * len(sigmas), rel=0.01)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="power of two"):
        UNetDiscriminatorOptions().build(resolution=24, channels=3)
    with pytest.raises(UserError, match="levels 1 to 3"):
        UNetDiscriminatorOptions(levels=4).build(resolution=8, channels=3)
    with pytest.raises(UserError, match="spectral_norm"):
        UNetDiscriminatorOptions(spectral_norm="off").build(resolution=8, channels=3)  # type: ignore[arg-type]
    pair = systems.players(generator(), VisionTransformerOptions(**SIZES).build(resolution=8, channels=3))
    with pytest.raises(UserError, match="pixels"):
        train_step(pair, GAME, images(), None, torch.Generator().manual_seed(0), 0)
