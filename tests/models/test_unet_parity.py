"""The U-Net discriminator against a slow float64 twin, a pixel at a time."""

import pytest
import torch
from torch import Tensor, nn

import twins
from vitgan.models.unet import DownBlock, UNetDiscriminator, UNetDiscriminatorOptions, UpBlock
from vitgan.nn import Convolution, Linear

pytestmark = pytest.mark.parity


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
def test_the_network_is_its_twin(label: int | None):
    """It has two blocks down, two up beside the map of their level, both verdicts and their labels' parts."""
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
def test_channels_are_the_papers_and_mirrored_in_the_decoder(resolution: int, channels: list[int]):
    """Those of 128 and 256 pixels are the paper's; the decoder's mirror them, the last twice."""
    model = UNetDiscriminatorOptions(width=1).build(resolution=resolution, channels=3)
    encoder = [block.first.weight.shape[0] for block in model.encoder if isinstance(block, DownBlock)]
    decoder = [block.first.weight.shape[0] for block in model.decoder if isinstance(block, UpBlock)]
    assert encoder == channels
    assert decoder == [*channels[-2::-1], channels[0]]
