"""Slow float64 twins of the modern networks: one sample, one token, one pair of features at a time.

Shapes are those of a single sample: L tokens, D width, E width of w, d features of a head, S side of a grid.
The twins read a module's stored parameters and never call its forward.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from vitgan.models.modern import Mapping, ModernDiscriminator, ModernGenerator, ModulatedHead
from vitgan.nn import Convolution, Linear, LinearOutput
from vitgan.nn.modern import (
    DepthwiseConvolution,
    FeedForward,
    ModulatedBlock,
    RMSNorm,
    RotaryAttention,
    ScaledBlock,
)
from vitgan.nn.stems import (
    ConvolutionalHead,
    ConvolutionalStem,
    Doubling,
    MergeTokens,
    PatchStem,
    SplitTokens,
)


def vector(parameter: Tensor | None) -> Tensor:
    assert parameter is not None
    return parameter.detach().double()


def affine(layer: Linear, x: Tensor) -> Tensor:
    """W x + b of one vector, an output feature at a time."""
    out = torch.stack([(row * layer.scale * x).sum() for row in vector(layer.weight)])
    return out if layer.bias is None else out + vector(layer.bias) * layer.bias_scale


def rows(layer: Linear, x: Tensor) -> Tensor:
    return torch.stack([affine(layer, token) for token in x])


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def unit(x: Tensor) -> Tensor:
    """Each row over its root mean square."""
    return torch.stack([row / math.sqrt(float((row**2).sum()) / len(row) + 1e-6) for row in x])


def norm(module: RMSNorm, x: Tensor) -> Tensor:
    return unit(x) * vector(module.weight)


def turned(x: Tensor, side: int) -> Tensor:
    """Axial rotary positions of one head (L, d), a complex number a pair."""
    pairs = x.shape[1] // 2
    out = x.clone()
    for token in range(len(x)):
        place = (token // side, token % side)
        for i in range(pairs):
            axis, step = divmod(i, pairs // 2)
            angle = place[axis] * 100.0 ** -(step / (pairs // 2))
            cosine = float(torch.tensor(math.cos(angle)))  # stored in fp32
            sine = float(torch.tensor(math.sin(angle)))
            number = complex(x[token, i], x[token, i + pairs]) * complex(cosine, sine)
            out[token, i], out[token, i + pairs] = number.real, number.imag
    return out


def attention(module: RotaryAttention, x: Tensor) -> Tensor:
    width, side = x.shape[1], math.isqrt(len(x))
    size = width // module.heads
    mapped = rows(module.query_key_value, x)  # (L, 3 D)
    heads = []
    for head in range(module.heads):
        at = [slice(k * width + head * size, k * width + (head + 1) * size) for k in range(3)]
        query, key, value = (mapped[:, part] for part in at)
        if module.normalised:
            query, key = norm(module.norm_query, query), norm(module.norm_key, key)
        if module.rotary:
            query, key = turned(query, side), turned(key, side)
        heads.append(torch.stack([_attended(q, key, value) for q in query]))
    return rows(module.out, torch.cat(heads, 1))


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights = [math.exp(float((query * k).sum()) / math.sqrt(len(query))) for k in key]
    return torch.stack([w / sum(weights) * v for w, v in zip(weights, value, strict=True)]).sum(0)


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """x (C, H, W), weight (O, C, k, k) -> (O, H', W'), a pixel at a time."""
    kernel = weight.shape[-1]
    height, width = ((s + 2 * padding - kernel) // stride + 1 for s in x.shape[1:])
    padded = torch.zeros(len(x), x.shape[1] + 2 * padding, x.shape[2] + 2 * padding, dtype=torch.float64)
    padded[:, padding : padding + x.shape[1], padding : padding + x.shape[2]] = x
    out = torch.zeros(len(weight), height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            window = padded[:, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            out[:, i, j] = (weight * window).sum((1, 2, 3))
    return out if bias is None else out + bias[:, None, None]


def convolution(layer: Convolution, x: Tensor) -> Tensor:
    weight = (vector(layer.weight) * layer.scale).reshape(-1, layer.channels_in, layer.kernel, layer.kernel)
    bias = vector(layer.bias) * layer.bias_scale
    return convolved(x, weight, bias, layer.stride, layer.padding)


def grid(tokens: Tensor) -> Tensor:
    """(L, D) -> (D, S, S)."""
    side = math.isqrt(len(tokens))
    out = torch.zeros(tokens.shape[1], side, side, dtype=torch.float64)
    for i, token in enumerate(tokens):
        out[:, i // side, i % side] = token
    return out


def tokens(grid_of: Tensor) -> Tensor:
    """(D, S, S) -> (L, D)."""
    side = grid_of.shape[1]
    return torch.stack([grid_of[:, i, j] for i in range(side) for j in range(side)])


def feed_forward(module: FeedForward, x: Tensor) -> Tensor:
    h = rows(module.up, x)
    if module.activation == "swiglu":
        half = h.shape[1] // 2
        h = h[:, :half] / (1 + torch.exp(-h[:, :half])) * h[:, half:]
    elif module.activation == "silu":
        h = h / (1 + torch.exp(-h))
    else:
        h = leaky(h)
    if isinstance(module.neighbours, DepthwiseConvolution):
        weight, around = vector(module.neighbours.weight), []
        for channel, plane in enumerate(grid(h)):
            around.append(convolved(plane[None], weight[channel][None], None, 1, 1))
        h = h + tokens(torch.cat(around))
    return rows(module.down, h)


def modulated_block(module: ModulatedBlock, h: Tensor, w: Tensor) -> Tensor:
    parts = affine(module.modulation, w).reshape(module.parts, -1)
    gates = parts[4:] if module.parts == 6 else torch.zeros(2, h.shape[1], dtype=torch.float64)
    x = unit(h) * (1 + parts[0]) + parts[1]
    h = h + (1 + gates[0]) * attention(cast("RotaryAttention", module.attention), x)
    x = unit(h) * (1 + parts[2]) + parts[3]
    return h + (1 + gates[1]) * feed_forward(cast("FeedForward", module.feed_forward), x)


def scaled_block(module: ScaledBlock, h: Tensor) -> Tensor:
    one = torch.ones((), dtype=torch.float64)
    first = one if module.scale_attention is None else vector(module.scale_attention)
    second = one if module.scale_feed_forward is None else vector(module.scale_feed_forward)
    attended = attention(cast("RotaryAttention", module.attention), norm(module.norm_attention, h))
    h = h + first * attended
    return h + second * feed_forward(
        cast("FeedForward", module.feed_forward), norm(module.norm_feed_forward, h)
    )


def patch_windows(image: Tensor, patch: int, overlap: int) -> Tensor:
    """(C, R, R) -> (L, C (P + 2o)^2), zeros beyond the border."""
    channels, side, _ = image.shape
    around = torch.zeros(channels, side + 2 * overlap, side + 2 * overlap, dtype=torch.float64)
    around[:, overlap : overlap + side, overlap : overlap + side] = image
    span, found = patch + 2 * overlap, []
    for top in range(0, side, patch):
        for left in range(0, side, patch):
            found.append(around[:, top : top + span, left : left + span].flatten())
    return torch.stack(found)


def stem(module: nn.Module, image: Tensor) -> Tensor:
    if isinstance(module, PatchStem):
        return rows(module.embed, patch_windows(image, module.patch, module.overlap))
    assert isinstance(module, ConvolutionalStem)
    for layer in module.convolutions:
        image = leaky(convolution(cast("Convolution", layer), image))
    return rows(module.embed, tokens(image))


def merge(module: MergeTokens, h: Tensor) -> Tensor:
    if isinstance(module.merge, Convolution):
        return tokens(convolution(module.merge, grid(h)))
    return rows(module.merge, patch_windows(grid(h), 2, 0))


def split(module: SplitTokens, h: Tensor) -> Tensor:
    side, fine = math.isqrt(len(h)), rows(module.split, h)
    width = fine.shape[1] // 4
    out = torch.zeros(4 * len(h), width, dtype=torch.float64)
    for i, token in enumerate(fine):
        for k in range(4):
            row, column = i // side * 2 + k // 2, i % side * 2 + k % 2
            out[row * 2 * side + column] = token[k::4]
    return out


def shuffled(x: Tensor, factor: int) -> Tensor:
    """(C f^2, H, W) -> (C, f H, f W)."""
    out = torch.zeros(len(x) // factor**2, x.shape[1] * factor, x.shape[2] * factor, dtype=torch.float64)
    for k, plane in enumerate(x):
        c, place = divmod(k, factor**2)
        out[c, place // factor :: factor, place % factor :: factor] = plane
    return out


def head(module: ModulatedHead, h: Tensor, w: Tensor) -> Tensor:
    scale, shift = affine(module.modulation, w).reshape(2, -1)
    h = unit(h) * (1 + scale) + shift
    if isinstance(module.output, LinearOutput):
        return shuffled(grid(rows(module.output.project, h)), module.output.patch)
    assert isinstance(module.output, ConvolutionalHead)
    return convolutional_head(module.output, h)


def convolutional_head(module: ConvolutionalHead, h: Tensor) -> Tensor:
    x = leaky(doubled(module.first, grid(h)))
    x = x + leaky(convolution(module.inner, x))
    for doubling in module.doublings:
        x = leaky(doubled(cast("Doubling", doubling), x))
    if isinstance(module.colour, Doubling):
        return doubled(module.colour, x)
    return convolution(module.colour, x)


def doubled(layer: Doubling, x: Tensor) -> Tensor:
    """Each pixel of (C, H, W) adds its value times a 4 x 4 stamp around its place: (O, 2H, 2W)."""
    height, width = x.shape[1:]
    stamps = (vector(layer.weight) * layer.scale).reshape(-1, layer.channels_in, 4, 4)
    out = torch.zeros(len(stamps), 2 * height + 2, 2 * width + 2, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            stamp = (stamps * x[:, i, j].reshape(1, -1, 1, 1)).sum(1)
            out[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += stamp
    return out[:, 1:-1, 1:-1] + (vector(layer.bias) * layer.bias_scale)[:, None, None]


def mapping(module: Mapping, z: Tensor, label: int | None) -> Tensor:
    w = unit(z[None])[0]
    if module.label is not None:
        assert label is not None
        w = torch.cat((w, unit(vector(module.label.weight)[label][None])[0]))
    for layer in module.layers:
        w = leaky(affine(cast("Linear", layer), w))
    return w


def generator(module: ModernGenerator, z: Tensor, label: int | None = None) -> Tensor:
    """One image (C, R, R) of one z (Z,)."""
    w = mapping(cast("Mapping", module.mapping), z, label)
    h = affine(module.spread, w).reshape(-1, module.options.widths[0])
    image = torch.zeros((), dtype=torch.float64)
    for stage, blocks in enumerate(module.stages):
        if stage:
            h = split(cast("SplitTokens", module.splits[stage - 1]), h)
        h = h + vector(module.positions[stage])[0]
        own = list(cast("nn.ModuleList", blocks))
        for i, block in enumerate(own):
            h = modulated_block(cast("ModulatedBlock", block), h, w)
            late = len(own) - i  # 1 for the last block
            if stage == len(module.stages) - 1 and late <= len(module.heads):
                image = image + head(cast("ModulatedHead", module.heads[len(module.heads) - late]), h, w)
    return torch.tanh(image)


def discriminator(module: ModernDiscriminator, image: Tensor, label: int | None = None) -> Tensor:
    """The logit of one image (C, R, R)."""
    h = stem(module.stem, image)
    for stage, blocks in enumerate(module.stages):
        if stage:
            h = merge(cast("MergeTokens", module.merges[stage - 1]), h)
        h = h + vector(module.positions[stage])[0]
        for block in cast("nn.ModuleList", blocks):
            h = scaled_block(cast("ScaledBlock", block), h)
    y = norm(module.norm, h).sum(0) / len(h)
    for layer in module.head:
        y = leaky(affine(cast("Linear", layer), y))
    logit = affine(module.logit, y)[0]
    if module.label is None:
        return logit
    assert label is not None
    column = vector(module.label.weight)[:, label] * module.label.scale
    return logit + (column * y).sum() / math.sqrt(len(y))
