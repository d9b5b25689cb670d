"""StyleGAN2's parts and whole networks against slow float64 twins.

The twins take one sample: C channels, H x W image, E width of w, L styles.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import twins
from vitgan.models.stylegan2 import (
    DownsamplingBlock,
    StyleGAN2Discriminator,
    StyleGAN2DiscriminatorOptions,
    StyleGAN2Generator,
    StyleGAN2GeneratorOptions,
    StyleMapping,
    SynthesisLayer,
    minibatch_deviation,
)
from vitgan.nn import Convolution, Linear, ModulatedConvolution
from vitgan.nn.convolution import Blur, Upsample

pytestmark = pytest.mark.parity

GENERATOR = StyleGAN2GeneratorOptions(channel_base=32, channel_max=6, latent_dim=5, width=4, mapping_depth=2)
DISCRIMINATOR = StyleGAN2DiscriminatorOptions(channel_base=32, channel_max=6, group=2)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found.detach().double(), expected, rtol=tolerance, atol=tolerance)


def generator(resolution: int = 16) -> StyleGAN2Generator:
    torch.manual_seed(0)
    return twins.scramble(GENERATOR.build(resolution=resolution, channels=3))


def discriminator(residual: bool = True) -> StyleGAN2Discriminator:
    torch.manual_seed(0)
    options = replace(DISCRIMINATOR, residual=residual)
    return twins.scramble(options.build(resolution=16, channels=3))


def low_passed(x: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """gain times the sum of 4 x 4 pixels with weights 1 3 3 1 times 1 3 3 1 over 64."""
    padded = F.pad(x, [padding] * 4)
    height, width = padded.shape[1] - 3, padded.shape[2] - 3
    out = torch.zeros(len(x), height, width, dtype=torch.float64)
    for i, a in enumerate((1, 3, 3, 1)):
        for j, b in enumerate((1, 3, 3, 1)):
            out += gain * a * b / 64 * padded[:, i : i + height, j : j + width]
    return out


def doubled(x: Tensor) -> Tensor:
    """A zero after each pixel, then 4 times the low pass: (C, H, W) -> (C, 2H, 2W)."""
    spread = torch.zeros(len(x), 2 * x.shape[1], 2 * x.shape[2], dtype=torch.float64)
    spread[:, ::2, ::2] = x
    return low_passed(F.pad(spread, [1, 0, 1, 0]), 1, 4.0)


def activated(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def convolved(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """weight (O, C, k, k) at every pixel."""
    padded, size = F.pad(x, [padding] * 4), weight.shape[-1]
    height, width = padded.shape[1] - size + 1, padded.shape[2] - size + 1
    columns = [padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
    return torch.einsum("kchw,ock->ohw", torch.stack(columns), weight.flatten(2))


def transposed(x: Tensor, weight: Tensor) -> Tensor:
    """Each pixel adds itself times the kernel to a grid of twice the step, (2H + 1, 2W + 1)."""
    out = torch.zeros(len(weight), 2 * x.shape[1] + 1, 2 * x.shape[2] + 1, dtype=torch.float64)
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            stamp = torch.einsum("c,ockl->okl", x[:, row, column], weight)
            out[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3] += stamp
    return out


def modulated(module: ModulatedConvolution, x: Tensor, w: Tensor) -> Tensor:
    """w'_oikl = s_i w_oikl over its norm, made explicitly; then the convolution, or the transposed one."""
    stored = module.weight.detach().double()
    weight = stored / math.sqrt(stored[0].numel()) * twins.affine(module.style, w)[None, :, None, None]
    if module.demodulate:
        weight = torch.stack([kernel / torch.sqrt((kernel**2).sum() + 1e-8) for kernel in weight])
    out = convolved(x, weight, weight.shape[-1] // 2)
    if module.blur is not None:
        out = low_passed(transposed(x, weight), 1, 4.0)
    return out + module.bias.detach().double()[:, None, None]


def layer(module: nn.Module, x: Tensor, w: Tensor) -> Tensor:
    assert isinstance(module, SynthesisLayer)
    noise = module.strength.detach().double() * module.noise[0].double()
    return activated(modulated(module.convolution, x, w) + noise)


def plain(module: nn.Module, x: Tensor, padding: int = 0) -> Tensor:
    """A convolution without modulation, at every pixel."""
    assert isinstance(module, Convolution)
    shape = (module.channels_in, module.kernel, module.kernel)
    out = convolved(x, twins.weight_of(module).unflatten(1, shape), padding)
    return out if module.bias is None else out + module.bias.detach().double()[:, None, None]


def test_blur_is_its_twin():
    x = twins.random(2, 3, 6, 7)
    for padding, stride, gain in [(1, 1, 4.0), (2, 1, 1.0), (1, 2, 1.0)]:
        found = Blur(padding=padding, stride=stride, gain=gain).double()(x)
        expected = torch.stack([low_passed(image, padding, gain) for image in x])
        close(found, expected[:, :, ::stride, ::stride])


def test_upsampling_is_its_twin():
    x = twins.random(2, 3, 4, 5)
    close(Upsample().double()(x), torch.stack([doubled(image) for image in x]))


def test_resampling_keeps_a_flat_image_inside():
    flat = torch.full((1, 1, 8, 8), 0.7)
    torch.testing.assert_close(Upsample()(flat)[:, :, 1:-1, 1:-1], torch.full((1, 1, 14, 14), 0.7))
    torch.testing.assert_close(Blur(padding=1, stride=2)(flat)[:, :, 1:-1, 1:-1], flat[:, :, :2, :2])


@pytest.mark.parametrize("kernel", [1, 3])
def test_up_convolution_doubles_the_size(kernel: int):
    module = ModulatedConvolution(3, 5, kernel, 4, up=True)
    assert module(torch.ones(2, 3, 4, 4), torch.ones(2, 4)).shape == (2, 5, 8, 8)


def test_the_up_convolution_is_its_twin():
    module = twins.scramble(ModulatedConvolution(3, 5, 3, 4, up=True)).double()
    x, w = twins.random(2, 3, 4, 4), twins.random(2, 4, seed=2)
    close(module(x, w), torch.stack([modulated(module, *pair) for pair in zip(x, w, strict=True)]))


def test_minibatch_deviation_is_that_of_each_value():
    """The twin takes one image, one channel, one pixel after the other, in two groups of three."""
    x = twins.random(6, 2, 3, 3)
    found = minibatch_deviation(x, 3)
    close(found[:, :2], x)
    for start in (0, 3):
        group, total = x[start : start + 3].flatten(1), 0.0
        for values in group.T.tolist():
            mean = sum(values) / 3
            total += math.sqrt(sum((v - mean) ** 2 for v in values) / 3 + 1e-8)
        close(found[start : start + 3, 2], torch.full((3, 3, 3), total / 18, dtype=torch.float64))


def test_the_generator_is_its_twin():
    """The twin goes from z to w, layers and the colours of every resolution, with the styles in order."""
    model = generator()
    z = twins.random(2, 5)
    assert isinstance(model.mapping, StyleMapping)
    assert len(model.layers) == 5
    assert len(model.colours) == 3
    for found, own in zip(model(z.float()), z, strict=True):
        w = own / torch.sqrt((own**2).mean() + 1e-8)
        for part in model.mapping.layers:
            assert isinstance(part, Linear)
            w = twins.affine(part, w)
            w = torch.where(w > 0, w, 0.2 * w)
        x = layer(model.layers[0], model.constant[0].detach().double(), w)
        image = modulated(first_colour(model, 0), x, w)
        for k in (1, 2):
            x = layer(model.layers[2 * k], layer(model.layers[2 * k - 1], x, w), w)
            image = doubled(image) + modulated(first_colour(model, k), x, w)
        close(found, image, 1e-4)


def first_colour(model: StyleGAN2Generator, k: int) -> ModulatedConvolution:
    colour = model.colours[k]
    assert isinstance(colour, ModulatedConvolution)
    return colour


def test_colours_share_their_style_with_the_next_convolution():
    """Of the 2 log2(R) - 2 styles, a resolution's colours share theirs with the next up-convolution."""
    model, w = generator(), twins.random(1, 6, 4).float()
    users = []
    for k in range(6):
        seen: list[str] = []
        hooks = [
            module.register_forward_pre_hook(noted(name, w[0, k], seen))
            for name, module in model.named_modules()
            if isinstance(module, ModulatedConvolution)
        ]
        model.synthesise(w)
        for hook in hooks:
            hook.remove()
        users.append([name.removesuffix(".convolution") for name in seen])
    assert users == [
        ["layers.0"],
        ["colours.0", "layers.1"],
        ["layers.2"],
        ["colours.1", "layers.3"],
        ["layers.4"],
        ["colours.2"],
    ]


def noted(name: str, style: Tensor, seen: list[str]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:  # noqa: ARG001
        if torch.equal(arguments[1][0], style):
            seen.append(name)

    return hook


@pytest.mark.parametrize("residual", [True, False])
def test_the_discriminator_is_its_twin(residual: bool):
    """The twin takes each image on its own up to 4 x 4, then the deviation of its group of two."""
    model, images = discriminator(residual), twins.random(4, 3, 16, 16)
    tops = []
    for image in images:
        x = activated(plain(model.colour, image))
        for block in model.blocks:
            assert isinstance(block, DownsamplingBlock)
            y = low_passed(activated(plain(block.first, x, 1)), 2)
            y = activated(plain(block.second, y)[:, ::2, ::2])
            if block.skip is not None:
                y = (y + plain(block.skip[1], low_passed(x, 1)[:, ::2, ::2])) / math.sqrt(2)
            x = y
        tops.append(x)
    assert residual == any("skip" in name for name, _ in model.named_modules())
    logits = []
    for k, x in enumerate(tops):
        pair = torch.stack(tops[k // 2 * 2 : k // 2 * 2 + 2])
        deviation = torch.sqrt(((pair - pair.mean(0)) ** 2).mean(0) + 1e-8).mean()
        x = torch.cat((x, deviation.expand(1, 4, 4)))
        x = activated(twins.affine(model.dense, activated(plain(model.convolution, x, 1)).flatten()))
        logits.append(twins.affine(model.head, x))
    close(model(images.float()), torch.stack(logits), 1e-4)


def test_the_mapping_is_shared_by_every_layer():
    w = generator().mapping(torch.ones(2, 5))
    assert w.shape == (2, 6, 4)
    assert all(torch.equal(a, b) for a, b in pairwise(w.unbind(1)))
