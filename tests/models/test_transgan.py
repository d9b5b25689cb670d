"""TransGAN in training, its sizes and its mistakes."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import systems
from vitgan.adversarial import DiffAugment, Game, Logistic, Pass, Term, Wasserstein
from vitgan.adversarial.penalties import GradientPenalty
from vitgan.config import from_dict, to_dict
from vitgan.errors import UserError
from vitgan.models.transgan import (
    TransGANDiscriminator,
    TransGANDiscriminatorOptions,
    TransGANGenerator,
    TransGANGeneratorOptions,
)
from vitgan.nn.attention import GridAttention

GENERATOR = TransGANGeneratorOptions(
    depths=(1, 1), width=32, heads=2, perceptron_ratio=2, latent_dim=8, full_attention=4, window=4
)
DISCRIMINATOR = TransGANDiscriminatorOptions(
    depths=(1, 1), width=32, heads=2, perceptron_ratio=2, full_attention=4, window=4
)
AUGMENT = DiffAugment(translation=1, colour=1, cutout=1, scaling=0)


@dataclass(frozen=True)
class Drift(Term):
    """weight E D(x)^2 over real images (arXiv 1710.10196): Wasserstein losses leave the mean logit free."""

    weight: float = 1e-3

    def losses(self, seen: Pass) -> dict[str, Tensor]:
        return {"drift": self.weight * seen.judged_real.logits.square().mean()}


GAME = Game(
    loss=Wasserstein(), augment=AUGMENT, terms=(GradientPenalty(weight=10.0), Drift()), generator_every=2
)


def networks(resolution: int, channels: int) -> tuple[TransGANGenerator, TransGANDiscriminator]:
    torch.manual_seed(0)
    size = {"resolution": resolution, "channels": channels}
    return GENERATOR.build(**size), DISCRIMINATOR.build(**size)


@pytest.mark.parametrize(("resolution", "channels"), [(8, 1), (16, 3)])
def test_training_moves_every_parameter_and_samples_survive_a_save(resolution: int, channels: int):
    """The game is the published one: Wasserstein, gradient penalty, drift, more updates of D than of G."""
    generator, discriminator = networks(resolution, channels)
    pair = systems.players(generator, discriminator)
    seen = systems.train_and_check(pair, GAME, systems.toy_images(resolution, channels))
    assert {"term_gradient_penalty", "term_drift", "loss_generator"} < seen.keys()
    assert len(seen["loss_generator"]) == len(seen["loss_discriminator"]) / 2
    systems.check_samples(generator, lambda: networks(resolution, channels)[0])


def test_the_penalty_reaches_every_table_of_relative_positions():
    _, discriminator = networks(16, 3)
    image = torch.randn(2, 3, 16, 16).requires_grad_()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        (gradient,) = torch.autograd.grad(discriminator(image).sum(), image, create_graph=True)
        gradient.square().sum().backward()
    tables = [module.table.grad for module in discriminator.modules() if isinstance(module, GridAttention)]
    assert len(tables) == 2
    assert all(table is not None and table.any() for table in tables)


def test_the_same_seeds_train_the_same_networks():
    runs = []
    for _ in range(2):
        pair = systems.players(*networks(8, 1))
        game = replace(GAME, loss=Logistic(), generator_every=1)
        runs.append(systems.train_and_check(pair, game, systems.toy_images(8, 1), steps=3))
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("resolution", "channels", "options"),
    [
        (8, 1, GENERATOR),
        (32, 3, replace(GENERATOR, depths=(5, 4, 2), width=256)),
        (64, 3, replace(GENERATOR, depths=(2, 1, 1, 1), width=64, bicubic=2, norm="layer", equalised=True)),
    ],
)
def test_images_at_the_start_have_a_spread(resolution: int, channels: int, options: TransGANGeneratorOptions):
    """They are in range, with a spread that the discriminator sees, over latents too, at any depth."""
    torch.manual_seed(0)
    generator = options.build(resolution=resolution, channels=channels)
    with torch.no_grad():
        images = generator(torch.randn(16, options.latent_dim))
    assert images.shape == (16, channels, resolution, resolution)
    assert images.abs().max() <= 1
    assert 0.1 <= images.std() <= 1
    assert images.std(0).mean() > 0.1


def test_short_precision_passes_forward_and_backward():
    """The dtype of the input is that of the activations; logits are fp32, gradients and weights too."""
    generator, discriminator = networks(16, 3)
    images = generator(torch.randn(4, 8).bfloat16())
    assert images.dtype == torch.bfloat16
    logits = discriminator(images)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    for parameter in (*generator.parameters(), *discriminator.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()
    reference = discriminator(images.float())
    torch.testing.assert_close(logits, reference, rtol=0.05, atol=0.05)


def test_sizes_are_those_of_the_published_networks():
    """For CIFAR-10 they are 8 x 8 x 1024, 16 x 16 x 256, 32 x 32 x 64; patches are of 2 and 4 pixels."""
    with torch.device("meta"):
        generator = TransGANGeneratorOptions().build(resolution=32, channels=3)
        discriminator = TransGANDiscriminatorOptions().build(resolution=32, channels=3)
    shapes = [
        [tuple(p.shape) for n, p in m.named_parameters() if n.endswith("position")]
        for m in (generator, discriminator)
    ]
    assert shapes[0] == [(1, 64, 1024), (1, 256, 256), (1, 1024, 64)]
    assert shapes[1] == [(1, 256, 192), (1, 64, 384)]
    assert [len(stage.blocks) for stage in generator.stages] == [5, 4, 2]  # type: ignore[attr-defined]
    attentions = [module for module in generator.modules() if isinstance(module, GridAttention)]
    assert all(module.window == module.side for module in attentions)


def test_attention_is_within_windows_above_the_largest_full_grid():
    with torch.device("meta"):
        model = replace(TransGANGeneratorOptions(), depths=(5, 4, 4, 4)).build(resolution=64, channels=3)
    found = {module.side: module.window for module in model.modules() if isinstance(module, GridAttention)}
    assert found == {8: 8, 16: 16, 32: 32, 64: 16}


@pytest.mark.parametrize(
    ("options", "resolution", "said"),
    [
        (replace(GENERATOR, depths=()), 8, "--generator.depths must name one block"),
        (replace(GENERATOR, depths=(1, 0)), 8, "--generator.depths must name one block"),
        (replace(GENERATOR, depths=(1, 1, 1)), 6, "resolution 6 is not halved 2 times"),
        (replace(GENERATOR, width=12), 8, "--generator.width to a multiple of 8, not 12"),
        (replace(GENERATOR, window=3), 8, "do not fill 8 x 8 tokens"),
        (replace(GENERATOR, bicubic=-1), 8, "--generator.bicubic"),
        (replace(GENERATOR, latent_dim=0), 8, "--generator.latent-dim must be at least 1"),
        (replace(GENERATOR, norm="batch"), 8, "generator.norm is 'batch'"),
        (replace(DISCRIMINATOR, heads=0), 8, "--discriminator.heads must be at least 1"),
        (replace(DISCRIMINATOR, patch=4), 12, "not a multiple of 8, the largest patch"),
        (replace(DISCRIMINATOR, patch=0), 8, "--discriminator.patch must be at least 1"),
        (replace(DISCRIMINATOR, width=30), 8, "--discriminator.width to a multiple of 4, not 30"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    options: TransGANGeneratorOptions | TransGANDiscriminatorOptions, resolution: int, said: str
):
    with pytest.raises(UserError, match=said):
        options.build(resolution=resolution, channels=1)


@pytest.mark.parametrize("options", [GENERATOR, DISCRIMINATOR])
def test_labels_are_refused_and_options_come_back_from_json(
    options: TransGANGeneratorOptions | TransGANDiscriminatorOptions,
):
    with pytest.raises(UserError, match="takes no labels"):
        options.build(resolution=8, channels=1, classes=10)
    assert from_dict(to_dict(options), type(options)) == options
