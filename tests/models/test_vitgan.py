"""ViTGAN's networks against their float64 twins, and class conditioning: a label joined to the latent, and a
projection of it in the discriminator.
"""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

import twins
from vitgan.adversarial import BCR, R1, DiffAugment, Game, Logistic, Players, train_step
from vitgan.engine.optim import AdamOptions
from vitgan.models import (
    Discriminator,
    VisionTransformer,
    VisionTransformerOptions,
    ViTGANGenerator,
    ViTGANGeneratorOptions,
)
from vitgan.models.vitgan import MappingNetwork
from vitgan.nn import Block, Linear, LinearOutput

GENERATOR = ViTGANGeneratorOptions(
    patch=2, depth=2, width=8, heads=2, perceptron_width=12, latent_dim=5, mapping_depth=3, output="linear"
)
DISCRIMINATOR = VisionTransformerOptions(patch=2, depth=2, width=8, heads=2, perceptron_width=12)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    torch.testing.assert_close(found.detach().double(), expected, rtol=tolerance, atol=tolerance)


def generator(entry: Literal["A", "B", "C"], classes: int = 0) -> ViTGANGenerator:
    options = ViTGANGeneratorOptions(**{**vars(GENERATOR), "entry": entry})
    return twins.scramble(options.build(resolution=4, channels=3, classes=classes)).double()


def pixel_norm(z: Tensor) -> Tensor:
    return z / torch.sqrt((z**2).sum() / len(z) + 1e-8)


def mapped(mapping: nn.Module, z: Tensor, label: int | None = None) -> Tensor:
    """w of one latent: its pixel norm, then an affine map and a leaky ReLU of slope 0.2 in each layer."""
    assert isinstance(mapping, MappingNetwork)
    w = pixel_norm(z)
    if label is not None:
        assert mapping.label is not None
        w = torch.cat((w, pixel_norm(mapping.label.weight[label].detach().double())))
    for layer in mapping.layers:
        assert isinstance(layer, Linear)
        w = twins.affine(layer, w)
        w = torch.where(w > 0, w, 0.2 * w)
    return w


@pytest.mark.parity
@pytest.mark.parametrize("classes", [0, 3])
def test_the_mapping_network_is_its_twin(classes: int):
    mapping = generator("C", classes).mapping
    z = 2 * twins.random(4, 5)
    labels = torch.tensor([2, 0, 1, 1]) if classes else None
    chosen = [None] * 4 if labels is None else labels.tolist()
    close(mapping(z, labels), torch.stack([mapped(mapping, *pair) for pair in zip(z, chosen, strict=True)]))


def synthesised(model: ViTGANGenerator, w: Tensor) -> Tensor:
    """One image: equations 5-9, w by A (added), B (one more token, dropped at the end) or C (SLN alone)."""
    h = model.position[0].detach()
    if model.options.entry == "A":
        h = torch.stack([position + w for position in h])
    if model.options.entry == "B":
        h = torch.stack([w, *h])
    for block in model.blocks:
        assert isinstance(block, Block)
        h = twins.block(block, h, w)
    tokens = list(twins.norm(model.norm, h, w))
    if model.options.entry == "B":
        del tokens[0]
    assert isinstance(model.output, LinearOutput)
    patches = torch.stack([twins.affine(model.output.project, y) for y in tokens])  # (L, C P^2)
    pixels = patches.view(len(patches), model.channels, -1).mT
    return torch.tanh(twins.image_of(pixels, model.options.patch, model.channels))


@pytest.mark.parity
@pytest.mark.parametrize("entry", ["A", "B", "C"])
def test_the_generator_is_its_twin(entry: Literal["A", "B", "C"]):
    model = generator(entry)
    z = twins.random(3, 5)
    close(model(z), torch.stack([synthesised(model, mapped(model.mapping, sample)) for sample in z]))


@pytest.mark.parity
@pytest.mark.parametrize("entry", ["A", "B", "C"])
def test_the_latent_enters_where_the_entry_says(entry: Literal["A", "B", "C"]):
    """In C the sequence before the first block is E_pos alone; only in B it is one token longer."""
    model = generator(entry)
    seen: list[Tensor] = []
    model.blocks[0].register_forward_hook(lambda _, arguments, __: seen.append(arguments[0].detach()))
    w = twins.random(2, 8)
    model.synthesise(w)
    position = model.position.detach().expand(2, -1, -1)
    expected = {
        "A": position + w[:, None],
        "B": torch.cat((w[:, None], position), 1),
        "C": position,
    }[entry]
    assert torch.equal(seen[0], expected)


def logit(model: VisionTransformer, image: Tensor) -> Tensor:
    """One image: equations 1-4 over all tokens, then the head; weights without spectral norm."""
    patches = twins.patches(image, model.options.patch, model.overlap)
    tokens = [model.class_token[0, 0].detach(), *(twins.affine(model.embed, p) for p in patches)]
    h = torch.stack([t + e for t, e in zip(tokens, model.position[0].detach(), strict=True)])
    for block in model.blocks:
        assert isinstance(block, Block)
        h = twins.block(block, h, None)
    y = twins.norm(model.norm, h, None)[0]
    for layer in model.head:
        y = twins.affine(layer, y) if isinstance(layer, Linear) else torch.tanh(y)
    return y


@pytest.mark.parity
@pytest.mark.parametrize("attention", ["l2", "dot-product", "l2-attending-to-farthest"])
@pytest.mark.parametrize("overlap", [None, 0, 2])
def test_the_discriminator_is_its_twin(
    attention: Literal["l2", "dot-product", "l2-attending-to-farthest"], overlap: int | None
):
    """Overlap None is P / 2. Logits come in fp32."""
    options = {**vars(DISCRIMINATOR), "attention": attention, "overlap": overlap, "spectral_norm": "none"}
    model = VisionTransformerOptions(**options).build(resolution=4, channels=3)
    assert model.overlap == (1 if overlap is None else overlap)
    twins.scramble(model).double()
    images = twins.random(2, 3, 4, 4)
    close(model(images), torch.stack([logit(model, image) for image in images]), 1e-5)


@pytest.mark.parity
@torch.no_grad()
def test_improved_spectral_norm_judges_by_exactly_normalised_weights():
    """Its logits are those of plain weights sigma(W_init) W / sigma(W), with sigma by exact decomposition."""
    model = DISCRIMINATOR.build(resolution=4, channels=3)
    layers = [module for module in model.modules() if isinstance(module, Linear)]
    initial = [torch.linalg.svdvals(twins.weight_of(layer))[0] for layer in layers]
    twins.scramble(model)
    for _ in range(500):
        model.advance()
    images = twins.random(2, 3, 4, 4).float()
    found = model(images)
    for layer, sigma in zip(layers, initial, strict=True):
        layer.weight.mul_(sigma / torch.linalg.svdvals(twins.weight_of(layer))[0])
    close(found, torch.stack([logit(model, image) for image in images.double()]), 1e-4)


@pytest.mark.parity
def test_the_label_adds_a_projection_to_the_logit():
    """The label adds e_label . y / sqrt(D) to the logit (arXiv 1802.05637)."""
    options = VisionTransformerOptions(**{**vars(DISCRIMINATOR), "spectral_norm": "none"})
    model = twins.scramble(options.build(resolution=4, channels=3, classes=3))
    images, labels = twins.random(3, 3, 4, 4).float(), torch.tensor([2, 0, 2])
    y = model.features(images)
    assert model.label is not None
    for k, own in enumerate(labels.tolist()):
        embedding = twins.weight_of(model.label)[:, own]
        expected = model.head(y[k]).double() + (embedding * y[k]).sum() / math.sqrt(8)
        close(model(images, labels)[k], expected.detach(), 1e-5)


CLASSES = 5
SIZES = {"patch": 4, "depth": 2, "width": 16, "heads": 2, "perceptron_width": 16}
LABELS = torch.tensor([0, 1, 2, 4])


def networks() -> tuple[ViTGANGenerator, VisionTransformer]:
    torch.manual_seed(0)
    generator = ViTGANGeneratorOptions(latent_dim=8, mapping_depth=2, **SIZES)  # type: ignore[arg-type]
    discriminator = VisionTransformerOptions(**SIZES)  # type: ignore[arg-type]
    return (
        generator.build(resolution=8, channels=3, classes=CLASSES),
        discriminator.build(resolution=8, channels=3, classes=CLASSES),
    )


def test_other_labels_give_other_images_of_the_same_latent():
    generator, _ = networks()
    z = torch.randn(1, 8).expand(CLASSES, -1)
    images = generator(z, torch.arange(CLASSES))
    distances = torch.pdist(images.flatten(1))
    assert distances.min() > 0.1
    assert torch.equal(generator(z[:2], torch.tensor([3, 3])).diff(dim=0).unique(), torch.zeros(1))


def test_other_labels_give_other_logits_of_the_same_image():
    _, discriminator = networks()
    logits = discriminator(torch.randn(1, 3, 8, 8).expand(CLASSES, -1, -1, -1), torch.arange(CLASSES))
    assert torch.pdist(logits).min() > 1e-3


def test_training_reaches_the_embeddings_of_the_labels_shown_and_of_no_other():
    """Both players' embeddings move for labels of the batch; labels reach every view of bCR and R1."""
    generator, discriminator = networks()
    assert isinstance(generator.mapping, MappingNetwork)
    assert generator.mapping.label is not None
    assert discriminator.label is not None
    options = AdamOptions(learning_rate=0.01)
    players = Players(
        generator=generator,
        discriminator=discriminator,
        optimiser_generator=options.build(generator.parameters()),
        optimiser_discriminator=options.build(discriminator.parameters()),
    )
    game = Game(loss=Logistic(), augment=DiffAugment(), terms=(BCR(), R1(gamma=1.0, every=1)))
    before = generator.mapping.label.weight.clone(), discriminator.label.weight.clone()
    metrics = train_step(players, game, torch.randn(4, 3, 8, 8), LABELS, torch.Generator().manual_seed(0), 0)
    moved = (generator.mapping.label.weight != before[0]).any(1)
    assert moved[LABELS].all()
    assert not moved[3]
    gradient = discriminator.label.weight.grad
    assert gradient is not None
    assert (gradient[:, LABELS] != 0).any(0).all()
    assert (discriminator.label.weight != before[1]).any(0)[LABELS].all()
    assert {"term_bcr_real", "term_r1"} < metrics.keys()
    assert all(torch.isfinite(value) for value in metrics.values())


def test_each_fake_keeps_the_label_it_was_made_with():
    """In the discriminator's pass the labels repeat in the order of the views, real before fake."""
    generator, discriminator = networks()
    seen: list[list[int]] = []
    shown: list[torch.Tensor] = []

    class Spy(Discriminator):
        def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
            assert labels is not None
            seen.append(labels.tolist())
            shown.append(images)
            return discriminator(images, labels)

        def advance(self) -> None:
            discriminator.advance()

    options = AdamOptions()
    players = Players(
        generator=generator,
        discriminator=Spy(),
        optimiser_generator=options.build(generator.parameters()),
        optimiser_discriminator=options.build(discriminator.parameters()),
    )
    off = DiffAugment(translation=0, colour=0, cutout=0, scaling=0)
    game = Game(loss=Logistic(), augment=off, terms=(BCR(augment=off),))
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        made = generator(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), LABELS)
    train_step(players, game, torch.zeros(4, 3, 8, 8), LABELS, rng, 0)
    assert seen == [LABELS.tolist() * 4, LABELS.tolist()]
    torch.testing.assert_close(shown[0][4:8], made)
    torch.testing.assert_close(shown[0][12:], made)


def test_sample_takes_labels_or_draws_them_from_the_seed():
    generator, _ = networks()
    generator.eval()
    fixed = generator.sample(3, seed=1, labels=torch.tensor([2, 2, 2]))
    assert fixed.shape == (3, 3, 8, 8)
    drawn = generator.sample(30, seed=1)
    assert torch.equal(drawn, generator.sample(30, seed=1, batch=7))
    labels = [generator.sample(30, seed=1, labels=torch.full((30,), k)) for k in range(CLASSES)]
    chosen = [
        [bool((a == b).all()) for b in own] for a, own in zip(drawn, zip(*labels, strict=True), strict=True)
    ]
    assert {row.index(True) for row in chosen} == set(range(CLASSES))


@pytest.mark.parametrize("truncation", [0.0, 0.5])
def test_truncation_pulls_images_together(truncation: float):
    generator, _ = networks()
    spread = [
        generator.sample(40, seed=1, truncation=t, labels=1).float().std(0).mean() for t in (truncation, 1.0)
    ]
    assert spread[0] < 0.8 * spread[1]
    if truncation == 0:
        assert spread[0] == 0
