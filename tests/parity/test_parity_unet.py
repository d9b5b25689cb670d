"""The U-Net discriminator and CutMix against slow float64 twins, a pixel at a time."""

import math
from dataclasses import replace

import pytest
import torch
import twins
from torch import Tensor, nn

from vitgan.adversarial import DiffAugment, Game, Logistic, Pass
from vitgan.adversarial.consistency import CutMix, rectangles
from vitgan.adversarial.step import discriminator_pass
from vitgan.models.unet import DownBlock, UNetDiscriminator, UNetDiscriminatorOptions, UpBlock
from vitgan.nn import Convolution, Linear

NO_AUGMENT = DiffAugment(translation=0, colour=0, cutout=0, scaling=0)


def discriminator(classes: int = 0) -> UNetDiscriminator:
    """Off its starting weights, with the power iteration at its end."""
    torch.manual_seed(0)
    options = UNetDiscriminatorOptions(width=2)
    model = twins.scramble(options.build(resolution=8, channels=3, classes=classes))
    for _ in range(200):
        model.advance()
    return model


def normalised(layer: nn.Module) -> Tensor:
    """W / sigma(W), by a decomposition."""
    assert isinstance(layer, Linear)
    weight = twins.weight_of(layer)
    return weight / torch.linalg.svdvals(weight)[0]


def bias(layer: nn.Module) -> Tensor:
    assert isinstance(layer, Linear)
    assert layer.bias is not None
    return layer.bias.detach().double()


def convolved(layer: nn.Module, x: Tensor) -> Tensor:
    """The convolution of one image (C, H, W), zeros beyond the border."""
    assert isinstance(layer, Convolution)
    weight, reach = normalised(layer), layer.kernel // 2
    _, height, width = x.shape
    out = torch.zeros(len(weight), height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            near = torch.zeros(len(x), layer.kernel, layer.kernel, dtype=torch.float64)
            for i in range(layer.kernel):
                for j in range(layer.kernel):
                    y, z = row + i - reach, column + j - reach
                    if 0 <= y < height and 0 <= z < width:
                        near[:, i, j] = x[:, y, z]
            out[:, row, column] = weight @ near.flatten() + bias(layer)
    return out


def pooled(x: Tensor) -> Tensor:
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def repeated(x: Tensor) -> Tensor:
    out = x.new_zeros(len(x), 2 * x.shape[1], 2 * x.shape[2])
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            out[:, row, column] = x[:, row // 2, column // 2]
    return out


def down(block: nn.Module, x: Tensor, first: bool) -> Tensor:
    assert isinstance(block, DownBlock)
    inner = convolved(block.second, convolved(block.first, x if first else x.clamp(min=0)).clamp(min=0))
    return pooled(inner + convolved(block.shortcut, x))


def up(block: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(block, UpBlock)
    inner = convolved(block.second, convolved(block.first, repeated(x.clamp(min=0))).clamp(min=0))
    return inner + convolved(block.shortcut, repeated(x))


@pytest.mark.parametrize("label", [None, 2])
def test_network(label: int | None):
    """Two blocks down, two up beside the map of their level, both verdicts and their labels' parts."""
    model, image = discriminator(classes=0 if label is None else 4), twins.random(3, 8, 8)
    fine = down(model.encoder[0], image, first=True)
    bottleneck = down(model.encoder[1], fine, first=False)
    summed = bottleneck.clamp(min=0).sum((1, 2))
    logit = normalised(model.verdict) @ summed + bias(model.verdict)
    top = up(model.decoder[1], torch.cat((up(model.decoder[0], bottleneck), fine))).clamp(min=0)
    pixels = convolved(model.pixel_verdict, top)
    if model.label is not None and model.pixel_label is not None:
        logit += normalised(model.label)[:, label] @ summed
        pixels += (normalised(model.pixel_label)[:, label].view(-1, 1, 1) * top).sum(0)
    labels = None if label is None else torch.tensor([label])
    judged = model.judge(image[None].float(), labels)
    assert judged.pixels is not None
    torch.testing.assert_close(judged.logits[0].detach().double(), logit, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(judged.pixels[0].detach().double(), pixels, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(image[None].float(), labels), judged.logits)


@pytest.mark.parametrize(
    ("resolution", "channels"),
    [(8, [1, 2]), (32, [1, 2, 4]), (128, [1, 2, 4, 8, 16]), (256, [1, 2, 4, 8, 8, 16])],
)
def test_channels(resolution: int, channels: list[int]):
    """Those of 128 and 256 pixels are the paper's; the decoder's mirror them, the last twice."""
    model = UNetDiscriminatorOptions(width=1).build(resolution=resolution, channels=3)
    encoder = [block.first.weight.shape[0] for block in model.encoder if isinstance(block, DownBlock)]
    decoder = [block.first.weight.shape[0] for block in model.decoder if isinstance(block, UpBlock)]
    assert encoder == channels
    assert decoder == [*channels[-2::-1], channels[0]]


def test_masks_are_rectangles():
    """With the same draws, a pixel at a time; no mask is of one value."""
    images = torch.zeros(300, 3, 8, 8)
    masks = rectangles(images, torch.Generator().manual_seed(0))
    draws = torch.rand(300, 4, generator=torch.Generator().manual_seed(0)).tolist()
    for mask, (area, y, x, coin) in zip(masks, draws, strict=True):
        half, centre = max(1, int(8 * math.sqrt(area) / 2)), (int(8 * y), int(8 * x))
        expected = torch.full((8, 8), float(coin < 0.5))
        for row in range(8):
            for column in range(8):
                if abs(row + 0.5 - centre[0]) < half and abs(column + 0.5 - centre[1]) < half:
                    expected[row, column] = float(coin >= 0.5)
        assert torch.equal(mask[0], expected)
        assert 0 < mask.mean() < 1
    assert 0.4 < masks.mean() < 0.6


def passed(model: UNetDiscriminator, term: CutMix, count: int = 3) -> Pass:
    game = Game(loss=Logistic(), augment=NO_AUGMENT, terms=(term,))
    both = twins.random(2 * count, 3, 8, 8).float()
    return discriminator_pass(model, game, both, None, torch.Generator().manual_seed(3), 0)[1]


def test_cutmix():
    """The encoder calls the mixture fake, the decoder tells its pixels, and the verdicts mix alike."""
    model, term = discriminator(), CutMix(image=2.0, pixels=3.0, consistency=5.0, probability=1.0)
    seen = passed(model, term)
    rng = torch.Generator().manual_seed(3)
    torch.rand((), generator=rng)
    masks = rectangles(seen.real, rng)
    image, pixels, consistency = 0.0, 0.0, 0.0
    for real, fake, mask in zip(seen.real, seen.fake, masks, strict=True):
        verdicts = [model.judge(x[None]) for x in (real, fake, mask * real + (1 - mask) * fake)]
        image += math.log(1 + math.exp(verdicts[2].logits.item())) / 3
        of_real, of_fake, of_mixed = (v.pixels.flatten().tolist() for v in verdicts if v.pixels is not None)
        for a, b, c, m in zip(of_real, of_fake, of_mixed, mask.flatten().tolist(), strict=True):
            pixels += math.log(1 + math.exp(-c if m else c)) / (3 * 64)
            consistency += (c - (a if m else b)) ** 2 / (3 * 64)
    losses = term.losses(seen)
    assert losses["cutmix_image"].item() == pytest.approx(2 * image, rel=1e-4)
    assert losses["cutmix_pixels"].item() == pytest.approx(3 * pixels, rel=1e-4)
    assert losses["cutmix_consistency"].item() == pytest.approx(5 * consistency, rel=1e-4)


def test_cutmix_comes_in_a_share_of_the_steps_that_rises_to_its_probability():
    term = CutMix(probability=0.5, warm_up=10)
    seen = passed(discriminator(), term, count=1)

    def share(step: int) -> float:
        seeds = (torch.Generator().manual_seed(seed) for seed in range(200))
        return sum(bool(term.losses(replace(seen, rng=rng, step=step))) for rng in seeds) / 200

    assert share(0) == 0
    assert 0.15 < share(5) < 0.35
    assert 0.4 < share(10) < 0.6
    assert 0.4 < share(1000) < 0.6
