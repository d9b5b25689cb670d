"""BigGAN's batch norms, pixel attention, generator and discriminator against slow float64 twins.

Shapes: B batch, C channels, H x W grid, D width.
"""

import math

import pytest
import torch
from torch import Tensor, nn

import twins
from vitgan.models.biggan import (
    BigGANDiscriminatorOptions,
    BigGANGenerator,
    BigGANGeneratorOptions,
    DiscriminatorBlock,
    GeneratorBlock,
)
from vitgan.nn import Convolution, Linear, SpectralNorm
from vitgan.nn.attention import PixelAttention
from vitgan.nn.norm import BATCH_EPSILON, BatchNorm, ConditionalBatchNorm, LabelTable, Standardisation

pytestmark = pytest.mark.parity

CLASSES = 3


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=tolerance, atol=tolerance)


def unsettled(module: nn.Module) -> None:
    """Running statistics that are not those of the start."""
    for k, norm in enumerate(m for m in module.modules() if isinstance(m, Standardisation)):
        norm.mean.copy_(0.2 * twins.random(len(norm.mean), seed=k))
        norm.variance.copy_(0.5 + twins.random(len(norm.variance), seed=k).square())


@torch.no_grad()
def with_exact_norms(network: nn.Module, spectral: SpectralNorm) -> None:
    """Exact singular vectors now; the weights themselves become W / sigma(W), by decomposition."""
    for group in spectral.groups:
        for layer in group:
            layer.weight.div_(torch.linalg.svdvals(layer.weight)[0])
    spectral.recalibrate()
    assert {id(layer) for group in spectral.groups for layer in group} == {
        id(m) for m in network.modules() if isinstance(m, Linear) and not isinstance(m, LabelTable)
    }


def convolved(layer: nn.Module, x: Tensor) -> Tensor:
    """(C, H, W) -> (O, H, W), one neighbourhood at a time, zeros beyond the border."""
    assert isinstance(layer, Convolution)
    k, border = layer.kernel, layer.kernel // 2
    height, width = x.shape[1:]
    padded = torch.zeros(len(x), height + 2 * border, width + 2 * border, dtype=x.dtype)
    padded[:, border : border + height, border : border + width] = x
    rows = [
        torch.stack([twins.affine(layer, padded[:, i : i + k, j : j + k].flatten()) for j in range(width)], 1)
        for i in range(height)
    ]
    return torch.stack(rows, 1)


def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros_like(x))


def doubled(x: Tensor) -> Tensor:
    """Pixel (i, j) of the result is pixel (i // 2, j // 2)."""
    index = torch.arange(2 * x.shape[1]) // 2
    return x[:, index][:, :, index]


def halved(x: Tensor) -> Tensor:
    """Mean of each 2 x 2 pixels."""
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def norm(module: nn.Module, x: Tensor, condition: Tensor) -> Tensor:
    """Batch norm of one sample (C, H, W) in eval mode."""
    assert isinstance(module, (BatchNorm, ConditionalBatchNorm))
    if isinstance(module, ConditionalBatchNorm):
        gamma, beta = twins.affine(module.gamma, condition), twins.affine(module.beta, condition)
    else:
        gamma, beta = module.weight, module.bias
    running = module.standardise
    channels = [
        g * (x[c] - running.mean[c]) / math.sqrt(running.variance[c] + BATCH_EPSILON) + b
        for c, (g, b) in enumerate(zip(gamma, beta, strict=True))
    ]
    return torch.stack(channels)


def attended(module: nn.Module, x: Tensor) -> Tensor:
    """Pixel attention of one sample, a pair of pixels at a time; x where there is none."""
    if isinstance(module, nn.Identity):
        return x
    assert isinstance(module, PixelAttention)
    query = convolved(module.query, x).flatten(1).T  # (HW, C / 8)
    key, value = (
        torch.stack([convolved(f, x)[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0).flatten(1).T
        for f in (module.key, module.value)
    )  # (HW / 4, .)
    found = twins.attend(query, key, value, lambda q, k: (q * k).sum())
    return x + module.gamma * convolved(module.out, found.T.unflatten(1, x.shape[1:]))


def test_batch_norm_in_training_is_its_twin():
    """Statistics of a channel are over batch and pixels; the running variance is unbiased."""
    module = Standardisation(3, momentum=0.3).double()
    unsettled(module)
    before = module.mean.clone(), module.variance.clone()
    x = 2 * twins.random(5, 3, 4, 4) + 1
    found = module(x)
    for c in range(3):
        values = x[:, c].flatten().tolist()
        mean = sum(values) / 80
        variance = sum((v - mean) ** 2 for v in values) / 80
        close(found[:, c], (x[:, c] - mean) / math.sqrt(variance + BATCH_EPSILON))
        close(module.mean[c], 0.7 * before[0][c] + 0.3 * mean)
        close(module.variance[c], 0.7 * before[1][c] + 0.3 * variance * 80 / 79)


@pytest.mark.parametrize("conditional", [False, True])
def test_batch_norm_in_eval_mode_is_its_twin(conditional: bool):
    module = ConditionalBatchNorm(3, 4) if conditional else BatchNorm(3)
    twins.scramble(module).double().eval()
    unsettled(module)
    x, condition = twins.random(2, 3, 4, 4), twins.random(2, 4, seed=2)
    close(module(x, condition), torch.stack([norm(module, *pair) for pair in zip(x, condition, strict=True)]))


def test_pixel_attention_is_its_twin():
    module = twins.scramble(PixelAttention(16)).double()
    x = twins.random(2, 16, 4, 6)
    found = module(x)
    close(found, torch.stack([attended(module, sample) for sample in x]))
    assert (found - x).abs().max() > 0.01


def test_pixel_attention_starts_as_the_identity():
    x = twins.random(2, 8, 4, 4)
    assert torch.equal(PixelAttention(8).double()(x), x)


def generated(model: BigGANGenerator, z: Tensor, label: int | None) -> Tensor:
    """One image of weights that are already normalised."""
    sizes = [len(z)] + [0] * len(model.blocks)
    if model.options.hierarchical:
        sizes = {2: [4, 3], 3: [3, 2, 2]}[len(sizes)]
    first, *parts = z.split(sizes)
    own = torch.zeros(0)
    if label is not None:
        own = torch.eye(CLASSES)[label]
        if model.options.shared_embedding:
            own = twins.affine(model.mapping.table, own)  # type: ignore[arg-type]
    x = twins.affine(model.start, first).view(-1, 4, 4)
    for block, part in zip(model.blocks, parts, strict=True):
        assert isinstance(block, GeneratorBlock)
        condition = torch.cat((own.double(), part))
        h = convolved(block.first, doubled(relu(norm(block.norm_first, x, condition))))
        h = convolved(block.second, relu(norm(block.norm_second, h, condition)))
        x = attended(block.attention, h + convolved(block.skip, doubled(x)))
    return torch.tanh(convolved(model.colour, relu(norm(model.norm, x, own))))


@torch.no_grad()
@pytest.mark.parametrize("resolution", [8, 16])
@pytest.mark.parametrize(
    ("options", "classes"),
    [
        ({}, 0),
        ({"hierarchical": True}, 0),
        ({}, CLASSES),
        ({"shared_embedding": 5}, CLASSES),
        ({"shared_embedding": 5, "hierarchical": True, "attention": 8}, CLASSES),
    ],
)
def test_the_generator_is_its_twin(options: dict[str, int], classes: int, resolution: int):
    """Label and latent reach the norms in every way that there is, in eval mode."""
    model = BigGANGeneratorOptions(width=4, latent_dim=7, **options).build(  # type: ignore[arg-type]
        resolution=resolution, channels=3, classes=classes
    )
    twins.scramble(model).double().eval()
    unsettled(model)
    with_exact_norms(model, model.spectral)
    z, labels = twins.random(2, 7), torch.tensor([2, 0])
    chosen = labels.tolist() if classes else [None, None]
    expected = [generated(model, *pair) for pair in zip(z, chosen, strict=True)]
    close(model(z, labels if classes else None), torch.stack(expected), 1e-8)


@torch.no_grad()
@pytest.mark.parametrize(
    ("resolution", "grid", "attention", "classes"),
    [(8, 8, 0, 0), (8, 4, 4, CLASSES), (16, 8, 8, 0), (16, 4, 0, 0)],
)
def test_the_discriminator_is_its_twin(resolution: int, grid: int, attention: int, classes: int):
    """It has residual blocks, ReLU, a sum over pixels, a linear head, and a product with the label."""
    options = BigGANDiscriminatorOptions(width=4, grid=grid, attention=attention)
    model = options.build(resolution=resolution, channels=3, classes=classes)
    twins.scramble(model).double()
    with_exact_norms(model, model.spectral)
    images, labels = twins.random(2, 3, resolution, resolution), torch.tensor([2, 0])
    found = model(images, labels if classes else None)
    for k, x in enumerate(images):
        for number, block in enumerate(model.blocks):
            assert isinstance(block, DiscriminatorBlock)
            h = convolved(block.second, relu(convolved(block.first, relu(x) if number else x)))
            skipped = x if isinstance(block.skip, nn.Identity) else convolved(block.skip, x)
            shrink = resolution >> number > grid
            x = attended(block.attention, halved(h + skipped) if shrink else h + skipped)
        assert x.shape[1] == grid
        y = relu(x).sum((1, 2))
        expected = twins.affine(model.head, y)
        if model.label is not None:
            expected = expected + (model.label.weight[:, labels[k]] * y).sum()
        close(found[k], expected, 1e-8)
