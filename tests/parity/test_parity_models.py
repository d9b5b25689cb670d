"""The mapping network, the generator's three entries and the discriminator against their float64 twins."""

import math
from typing import Literal

import pytest
import torch
import twins
from torch import Tensor, nn

from vitgan.models import VisionTransformer, VisionTransformerOptions, ViTGANGenerator, ViTGANGeneratorOptions
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


@pytest.mark.parametrize("classes", [0, 3])
def test_mapping_network(classes: int):
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


@pytest.mark.parametrize("entry", ["A", "B", "C"])
def test_generator(entry: Literal["A", "B", "C"]):
    model = generator(entry)
    z = twins.random(3, 5)
    close(model(z), torch.stack([synthesised(model, mapped(model.mapping, sample)) for sample in z]))


@pytest.mark.parametrize("entry", ["A", "B", "C"])
def test_where_the_latent_enters(entry: Literal["A", "B", "C"]):
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


@pytest.mark.parametrize("attention", ["l2", "dot-product", "l2-attending-to-farthest"])
@pytest.mark.parametrize("overlap", [None, 0, 2])
def test_discriminator(
    attention: Literal["l2", "dot-product", "l2-attending-to-farthest"], overlap: int | None
):
    """Overlap None is P / 2. Logits come in fp32."""
    options = {**vars(DISCRIMINATOR), "attention": attention, "overlap": overlap, "spectral_norm": "none"}
    model = VisionTransformerOptions(**options).build(resolution=4, channels=3)
    assert model.overlap == (1 if overlap is None else overlap)
    twins.scramble(model).double()
    images = twins.random(2, 3, 4, 4)
    close(model(images), torch.stack([logit(model, image) for image in images]), 1e-5)


@torch.no_grad()
def test_discriminator_with_improved_spectral_norm():
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


def test_projection_discriminator():
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
