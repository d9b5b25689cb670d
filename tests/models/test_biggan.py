"""BigGAN in training, its batch statistics, its spectral norm and its users' mistakes."""

import itertools

import pytest
import torch
from torch import Tensor

import systems
from vitgan.adversarial import DiffAugment, Game, Hinge, train_step
from vitgan.adversarial.step import discriminator_step
from vitgan.errors import UserError
from vitgan.models.biggan import (
    BigGANDiscriminator,
    BigGANDiscriminatorOptions,
    BigGANGenerator,
    BigGANGeneratorOptions,
)
from vitgan.nn import Linear, SpectralNorm
from vitgan.nn.norm import LabelTable, Standardisation

CLASSES = 3
PLAIN: dict[str, int] = {}
FULL = {"hierarchical": True, "shared_embedding": 6, "attention": 8}
GAME = Game(loss=Hinge(), augment=DiffAugment(colour=0, scaling=0), terms=())


def generator(options: dict[str, int], classes: int = 0, resolution: int = 8) -> BigGANGenerator:
    torch.manual_seed(0)
    made = BigGANGeneratorOptions(width=16, latent_dim=8, **options)  # type: ignore[arg-type]
    return made.build(resolution=resolution, channels=3, classes=classes)


def discriminator(classes: int = 0, resolution: int = 8, attention: int = 0) -> BigGANDiscriminator:
    torch.manual_seed(1)
    made = BigGANDiscriminatorOptions(width=16, grid=4, attention=attention)
    return made.build(resolution=resolution, channels=3, classes=classes)


def real(resolution: int = 8) -> Tensor:
    return systems.toy_images(resolution, 3)


@pytest.mark.parametrize(
    ("options", "classes", "resolution"),
    [(PLAIN, 0, 8), (PLAIN, CLASSES, 8), ({"hierarchical": True}, 0, 8), (FULL, CLASSES, 16)],
)
def test_training_moves_every_parameter_and_samples_outlive_a_save(
    options: dict[str, int], classes: int, resolution: int
):
    """D has two updates for one of G; losses are finite, parameters move, and samples outlive a save."""
    model = generator(options, classes, resolution)
    attention = options.get("attention", 0)
    pair = systems.players(model, discriminator(classes, resolution, attention=attention))
    game = Game(loss=GAME.loss, augment=GAME.augment, terms=(), generator_every=2)
    images = real(resolution)
    labels = torch.arange(len(images)) % classes if classes else None
    systems.train_and_check(pair, game, images, labels, steps=20)
    systems.check_samples(model, lambda: generator(options, classes, resolution))


@pytest.mark.parametrize(("options", "classes"), [(PLAIN, 0), (PLAIN, CLASSES), (FULL, CLASSES)])
def test_every_parameter_matters(options: dict[str, int], classes: int):
    """In float64 no gradient is rounding noise, as a bias's is that a batch norm takes out.

    With gamma = 0 the convolutions of an attention get none; gamma is moved first.
    """
    g = generator(options, classes).double()
    d = discriminator(classes, attention=4 if options else 0).double()
    labels = torch.arange(8) % classes if classes else None
    for name, parameter in itertools.chain(g.named_parameters(), d.named_parameters()):
        if name.endswith("attention.gamma"):
            torch.nn.init.constant_(parameter, 0.5)
    images = g(torch.randn(8, 8, dtype=torch.float64), labels)
    (d(images, labels) * torch.randn(8, 1, dtype=torch.float64)).sum().backward()
    for name, parameter in itertools.chain(g.named_parameters(), d.named_parameters()):
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-8, name


def test_attention_starts_with_its_gamma():
    """In the first update gamma alone gets a gradient, in the second the convolutions do."""
    g, d = generator(FULL, CLASSES), discriminator(CLASSES, attention=4)
    pair, labels = systems.players(g, d), torch.arange(8) % CLASSES
    inner = [p for n, p in (*g.named_parameters(), *d.named_parameters()) if ".attention." in n and p.ndim]
    gammas = [p for n, p in (*g.named_parameters(), *d.named_parameters()) if n.endswith("attention.gamma")]
    assert (len(inner), len(gammas)) == (8, 2)
    train_step(pair, GAME, real()[:8], labels, torch.Generator().manual_seed(0), 0)
    assert all(p.grad is not None and p.grad.abs() > 0 for p in gammas)
    assert all(p.grad is not None and not p.grad.any() for p in inner)
    train_step(pair, GAME, real()[:8], labels, torch.Generator().manual_seed(1), 1)
    assert all(p.grad is not None and p.grad.any() for p in inner)


@pytest.mark.parametrize("start", ["normal", "orthogonal"])
@pytest.mark.parametrize("resolution", [8, 32, 64])
def test_images_have_a_spread_from_the_start(start: str, resolution: int):
    """They have it over all pixels, and between the latents at each pixel; in eval mode a pass later."""
    g = generator({"start": start}, resolution=resolution)  # type: ignore[dict-item]
    z = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    for norm in (m for m in g.modules() if isinstance(m, Standardisation)):
        norm.momentum = 1.0
    for images in (g(z), g.eval()(z)):
        assert images.abs().max() <= 1
        assert 0.1 < images.std() < 1
        assert images.std(0).mean() > 0.1


def test_an_orthogonal_start_has_singular_values_of_one():
    for layer in (m for m in generator({"start": "orthogonal"}).modules() if isinstance(m, Linear)):  # type: ignore[dict-item]
        values = torch.linalg.svdvals(layer.weight.detach())
        torch.testing.assert_close(values, torch.ones_like(values))


def test_an_image_depends_on_its_own_latent_alone_in_eval_mode():
    g = generator(PLAIN)
    z = torch.randn(8, 8)
    others = torch.cat((z[:1], torch.randn(7, 8)))
    assert (g(z)[0] - g(others)[0]).abs().max() > 1e-3
    g.eval()
    before = {name: buffer.clone() for name, buffer in g.named_buffers()}
    torch.testing.assert_close(g(z)[0], g(others)[0], rtol=0, atol=1e-6)
    assert all(torch.equal(buffer, before[name]) for name, buffer in g.named_buffers())


def test_running_statistics_come_to_the_batch_statistics():
    """So samples in eval mode look like those that the discriminator saw."""
    g = generator(PLAIN)
    with torch.no_grad():
        for _ in range(80):
            g(torch.randn(128, 8))
    z = torch.randn(1024, 8)
    batch = g(z)
    difference = (g.eval()(z) - batch).square().mean().sqrt()
    assert difference < 0.05 * batch.std()


@pytest.mark.parametrize(("options", "classes"), [(PLAIN, 0), (FULL, CLASSES)])
def test_bfloat16_comes_near_fp32_with_statistics_in_fp32(options: dict[str, int], classes: int):
    """Images have the dtype of z, logits and every statistic are fp32, and all is near the fp32 result."""
    g, d = generator(options, classes), discriminator(classes, attention=4 if options else 0)
    labels = torch.arange(8) % classes if classes else None
    z = torch.randn(8, 8)
    exact = g(z, labels)
    images = g(z.bfloat16(), labels)
    assert images.dtype == torch.bfloat16
    assert (images - exact).abs().mean() < 0.02
    logits = d(images, labels)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    for network in (g, d):
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
        assert {b.dtype for b in network.buffers()} == {torch.float32}


def test_training_is_a_function_of_the_generators_of_random_numbers():
    states = []
    for seed in (5, 6):
        pair = systems.players(generator(PLAIN), discriminator())
        torch.manual_seed(seed)
        for step in range(3):
            train_step(pair, GAME, real()[:8], None, torch.Generator().manual_seed(step), step)
        states.append({**pair.generator.state_dict(), **pair.discriminator.state_dict(prefix="d.")})
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_spectral_norm_covers_every_matrix_and_moves_in_its_own_update():
    """It is of every matrix but the generator's label tables, and moves in its own network's update alone.

    u^T W v is never above sigma, so in training the norms in use lag above 1; at rest they come to 1.
    """
    g, d = generator(PLAIN, CLASSES), discriminator(CLASSES)
    assert d.spectral is not None
    spectrals = (g.spectral, d.spectral)
    normed = {id(layer) for s in spectrals for group in s.groups for layer in group}
    tables = {id(m) for m in g.modules() if isinstance(m, LabelTable)}
    assert len(tables) == 4
    everything = {id(m) for m in (*g.modules(), *d.modules()) if isinstance(m, Linear)}
    assert everything - normed == tables
    pair, labels = systems.players(g, d, rate=2e-4), torch.arange(8) % CLASSES
    before = [spectral.get_buffer("left_0").clone() for spectral in spectrals]
    discriminator_step(pair, GAME, real()[:8], real()[8:16], labels, torch.Generator().manual_seed(0), 0)
    assert torch.equal(g.spectral.get_buffer("left_0"), before[0])
    for step in range(10):
        train_step(pair, GAME, real()[:8], labels, torch.Generator().manual_seed(step), step)
    for spectral, start in zip(spectrals, before, strict=True):
        assert not torch.equal(spectral.get_buffer("left_0"), start)
    for spectral in spectrals:
        assert all(1 - 1e-5 < sigma < 1.2 for sigma in norms_in_use(spectral))
        for _ in range(300):
            spectral.advance()
        assert norms_in_use(spectral) == pytest.approx([1] * len(norms_in_use(spectral)), abs=0.01)


def norms_in_use(spectral: SpectralNorm) -> list[float]:
    """Exact, layer by layer."""
    with spectral.applied():
        weights = [layer.effective_weight().detach() for layer in itertools.chain(*spectral.groups)]
    return [torch.linalg.svdvals(weight)[0].item() for weight in weights]


def test_labels_and_truncation_change_the_images():
    g, d = generator(FULL, CLASSES), discriminator(CLASSES)
    z = torch.randn(1, 8).expand(CLASSES, -1)
    assert torch.pdist(g.eval()(z, torch.arange(CLASSES)).flatten(1)).min() > 1e-3
    assert torch.pdist(d(real()[:1].expand(CLASSES, -1, -1, -1), torch.arange(CLASSES))).min() > 1e-3
    centres = g.sample(9, truncation=0.0, labels=[k % CLASSES for k in range(9)]).float()
    assert all(centres[k::CLASSES].std(0).max() == 0 for k in range(CLASSES))
    assert torch.pdist(centres[:CLASSES].flatten(1)).min() > 0


@pytest.mark.parametrize(
    ("part", "options", "sizes", "word"),
    [
        ("generator", {}, {"resolution": 24}, "8, 16, 32"),
        ("generator", {}, {"resolution": 4}, "8, 16, 32"),
        ("discriminator", {}, {"resolution": 24}, "8, 16, 32"),
        ("discriminator", {"grid": 3}, {}, "grid"),
        ("discriminator", {"grid": 16}, {}, "grid"),
        ("discriminator", {"attention": 16}, {}, "attention"),
        ("generator", {"attention": 4}, {}, "attention"),
        ("generator", {"hierarchical": True}, {"classes": 3}, "shared-embedding"),
        ("generator", {"hierarchical": True, "latent_dim": 1}, {}, "latent-dim"),
        ("generator", {"start": "uniform"}, {}, "start"),
        ("generator", {"latent_dim": 0}, {}, "latent-dim"),
        ("generator", {"shared_embedding": -1}, {}, "shared-embedding"),
        ("generator", {"width": 0}, {}, "width"),
        ("discriminator", {"width": 0}, {}, "width"),
    ],
)
def test_mistakes_are_named(part: str, options: dict[str, int], sizes: dict[str, int], word: str):
    made = {"generator": BigGANGeneratorOptions, "discriminator": BigGANDiscriminatorOptions}[part]
    with pytest.raises(UserError, match=word):
        made(**{"width": 4, **options}).build(**{"resolution": 8, "channels": 1, **sizes})
