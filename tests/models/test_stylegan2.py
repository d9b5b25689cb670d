"""StyleGAN2 in training: what moves, what is random, what is saved, and which mistakes are named."""

import copy
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import Tensor

import systems
from vitgan.adversarial import R1, DiffAugment, Game, GeneratorPass, Logistic, train_step
from vitgan.adversarial.penalties import PathLength
from vitgan.errors import UserError
from vitgan.models import ViTGANGeneratorOptions
from vitgan.models.stylegan2 import (
    StyleGAN2Discriminator,
    StyleGAN2DiscriminatorOptions,
    StyleGAN2Generator,
    StyleGAN2GeneratorOptions,
)

GENERATOR = StyleGAN2GeneratorOptions(
    channel_base=128, channel_max=12, latent_dim=8, width=8, mapping_depth=2
)
DISCRIMINATOR = StyleGAN2DiscriminatorOptions(channel_base=128, channel_max=12)


def generator(resolution: int = 8, channels: int = 1, classes: int = 0) -> StyleGAN2Generator:
    torch.manual_seed(0)
    return GENERATOR.build(resolution=resolution, channels=channels, classes=classes)


def discriminator(resolution: int = 8, channels: int = 1, classes: int = 0) -> StyleGAN2Discriminator:
    torch.manual_seed(1)
    return DISCRIMINATOR.build(resolution=resolution, channels=channels, classes=classes)


def game(dtype: torch.dtype = torch.float32) -> Game:
    return Game(
        loss=Logistic(),
        augment=DiffAugment(),
        terms=(R1(gamma=0.1, every=2),),
        generator_terms=(PathLength(every=2),),
        dtype=dtype,
    )


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("resolution", "channels", "classes", "steps"), [(8, 1, 0, 32), (8, 1, 3, 12), (32, 3, 0, 8)]
)
def test_training_moves_every_parameter(resolution: int, channels: int, classes: int, steps: int):
    pair = systems.players(
        generator(resolution, channels, classes), discriminator(resolution, channels, classes)
    )
    images = systems.toy_images(resolution, channels)
    labels = torch.arange(len(images)) % classes if classes else None
    seen = systems.train_and_check(pair, game(), images, labels, steps=steps)
    assert len(seen["term_path_length"]) == len(seen["term_r1"]) == steps // 2
    assert pair.generator.get_buffer("path_length_mean") > 0
    fresh = GENERATOR.build
    systems.check_samples(
        pair.generator, lambda: fresh(resolution=resolution, channels=channels, classes=classes)
    )


def test_training_in_bf16_keeps_logits_in_fp32():
    """In a step in bf16 logits are fp32 and every gradient is finite."""
    pair = systems.players(generator(), discriminator())
    seen = systems.train_and_check(pair, game(torch.bfloat16), systems.toy_images(8, 1), steps=4)
    assert len(seen["term_path_length"]) == 2
    images = systems.toy_images(8, 1, 4).bfloat16()
    assert pair.discriminator(images).dtype == torch.float32
    close_to_fp32 = pair.discriminator(images) - pair.discriminator(images.float())
    assert close_to_fp32.abs().max() < 0.05


def test_training_is_a_function_of_its_generator():
    metrics = []
    for _ in range(2):
        pair = systems.players(generator(), discriminator())
        images = systems.toy_images(8, 1, 8)
        metrics.append([train_step(pair, game(), images, None, rng(step), step) for step in range(2)])
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("resolution", [8, 32, 64])
def test_samples_at_the_start_are_neither_flat_nor_saturated(resolution: int):
    torch.manual_seed(0)
    options = StyleGAN2GeneratorOptions(channel_base=512, channel_max=16, latent_dim=32, width=32)
    samples = options.build(resolution=resolution, channels=3).sample(16).float() / 127.5 - 1
    assert 0.1 < samples.std() < 1
    assert samples.std(0).mean() > 0.1


def test_images_of_one_latent_differ_only_in_training():
    """They differ by their noise alone, where styles are not mixed."""
    model = replace(GENERATOR, mixing=0.0).build(resolution=8, channels=1)
    torch.nn.init.ones_(model.layers[1].get_parameter("strength"))
    z = model.latents(2, seed=0)
    model.eval()
    assert torch.equal(model(z), model(z))
    first, same, other = (model.training_images(z, None, rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_the_fixed_noise_is_of_the_weights():
    """It is another in another network, and saved."""
    one, two = generator(), GENERATOR.build(resolution=8, channels=1)
    names = [name for name in one.state_dict() if name.endswith("noise")]
    assert names == [f"layers.{k}.noise" for k in range(3)]
    assert not torch.equal(one.state_dict()[names[0]], two.state_dict()[names[0]])


def styles_drawn(mixing: float, count: int = 2000) -> tuple[Tensor, Tensor]:
    """Whether each style of each image (B, L) is the latent's own, and w itself."""
    options = replace(GENERATOR, mapping_learning_rate=1.0, mixing=mixing)
    model = options.build(resolution=16, channels=1)
    z = model.latents(count, seed=0)
    with mock.patch.object(model, "synthesise", side_effect=lambda w, _: w):
        w = model.training_images(z, None, rng(1))
    return (w == model.mapping(z)).all(-1), w


def test_mixing_swaps_the_last_styles_of_some_images():
    own, w = styles_drawn(0.5)
    assert own[:, 0].all()
    assert (own[:, :-1] >= own[:, 1:]).all()
    mixed = ~own[:, -1]
    assert 0.45 < mixed.float().mean() < 0.55
    starts = own[mixed].sum(1).bincount(minlength=6)[1:]
    assert starts.min() > 0.7 * starts.max()
    others = w[~own]
    assert len(others.unique(dim=0)) == mixed.sum()


def test_without_mixing_all_styles_are_one():
    assert styles_drawn(0.0)[0].all()


def test_truncation_to_nothing_leaves_one_image():
    samples = generator().sample(4, truncation=0.0)
    assert (samples == samples[0]).all()


def test_a_judgement_does_not_depend_on_what_else_is_judged():
    """Minibatch statistics never cross from one batch to another that is judged in the same pass."""
    model, images = discriminator(), systems.toy_images(8, 1, 24)
    alone = torch.cat([model(part) for part in images.split(8)])
    torch.testing.assert_close(model(images), alone, rtol=1e-5, atol=1e-6)
    swapped = model(torch.cat((images[:8], -images[8:])))
    torch.testing.assert_close(swapped[:8], alone[:8], rtol=1e-5, atol=1e-6)
    changed = images.clone()
    changed[0] += 1
    apart = (model(changed) - alone).abs().flatten()
    assert (apart[:4] > 1e-5).all()


def test_a_batch_that_groups_do_not_divide_is_named():
    """It is named in the generator's pass at the latest, which is over one batch alone."""
    pair = systems.players(generator(), discriminator())
    with pytest.raises(UserError, match=r"6 images is not a multiple of --discriminator.group 4"):
        train_step(pair, game(), systems.toy_images(8, 1, 6), None, rng(), 0)


@pytest.mark.parametrize("resolution", [4, 12, 28])
def test_resolutions_are_powers_of_two(resolution: int):
    for options in (GENERATOR, DISCRIMINATOR):
        with pytest.raises(UserError, match="power of two"):
            options.build(resolution=resolution, channels=1)


def test_wrong_options_are_named():
    with pytest.raises(UserError, match="channel-base 16 must be at least the resolution 32"):
        StyleGAN2GeneratorOptions(channel_base=16).build(resolution=32, channels=3)
    with pytest.raises(UserError, match=r"--discriminator.group must be at least 1"):
        StyleGAN2DiscriminatorOptions(group=0).build(resolution=32, channels=3)
    with pytest.raises(UserError, match="width"):
        StyleGAN2GeneratorOptions(width="wide").build(resolution=32, channels=3)  # type: ignore[arg-type]


def passed(model: StyleGAN2Generator, step: int) -> GeneratorPass:
    return GeneratorPass(model, step, rng(step), 8, None, torch.bfloat16)


def test_path_length_comes_every_so_many_steps_and_alone_moves_its_mean():
    model, term = generator(), PathLength(every=3)
    means = []
    for step in range(6):
        model.training_images(model.latents(8, seed=step), None, rng())
        assert bool(term.losses(passed(model, step))) == (step in (2, 5))
        means.append(model.path_length_mean.item())
    assert means[0] == means[1] == 0 < means[2] == means[4] < means[5]
    copied = copy.deepcopy(model)
    assert torch.equal(copied.state_dict()["path_length_mean"], model.path_length_mean)


def test_path_length_needs_a_mean():
    small = ViTGANGeneratorOptions(patch=4, depth=1, width=8, heads=2, perceptron_width=8, latent_dim=8)
    model = small.build(resolution=8, channels=1)
    with pytest.raises(UserError, match="needs a generator that keeps its mean"):
        PathLength().losses(GeneratorPass(model, 0, rng(), 8, None, torch.float32))
    assert not PathLength(weight=0).active
