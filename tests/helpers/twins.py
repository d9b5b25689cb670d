"""Slow float64 twins of the method's equations: one sample, one token, one head at a time.

Shapes are those of a single sample: N tokens, D width, E width of w, d features of a head, I in, O out.
The twins read a module's stored parameters and never call its forward.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from vitgan.nn import Block, L2Attention, LayerNorm, Linear, SelfAttention, SelfModulatedLayerNorm
from vitgan.nn.attention import MultilayerPerceptron
from vitgan.nn.norm import EPSILON

M = TypeVar("M", bound=nn.Module)
Logit = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def scramble(module: M, seed: int = 0) -> M:
    """Move every parameter off its starting value, so that no bias is 0 and no gain is 1."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_(0.3 * noise.to(parameter.dtype))
    return module


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weight_of(layer: Linear) -> Tensor:
    """The weight in use (O, I): the stored one times the equalising constant."""
    return layer.weight.detach().double() * layer.scale


def affine(layer: Linear, x: Tensor) -> Tensor:
    """W x + b of one vector, an output feature at a time: (I,) -> (O,)."""
    out = torch.stack([(row * x).sum() for row in weight_of(layer)])
    return out if layer.bias is None else out + layer.bias.detach().double() * layer.bias_scale


def standardised(token: Tensor) -> Tensor:
    """(h - mu) / sigma of one token."""
    mean = token.sum() / len(token)
    variance = ((token - mean) ** 2).sum() / len(token)
    return (token - mean) / torch.sqrt(variance + EPSILON)


def norm(module: nn.Module, h: Tensor, w: Tensor | None) -> Tensor:
    """LN(h) or SLN(h, w) of (N, D), a token at a time."""
    if isinstance(module, SelfModulatedLayerNorm):
        assert w is not None
        gamma, beta = affine(module.gamma, w), affine(module.beta, w)
    else:
        assert isinstance(module, LayerNorm)
        gamma, beta = module.weight.detach().double(), module.bias.detach().double()
    return torch.stack([gamma * standardised(token) + beta for token in h])


def dot_logit(query: Tensor, key: Tensor) -> Tensor:
    return (query * key).sum() / math.sqrt(len(query))


def l2_logit(query: Tensor, key: Tensor) -> Tensor:
    return -((query - key) ** 2).sum() / math.sqrt(len(query))


def farthest_logit(query: Tensor, key: Tensor) -> Tensor:
    return -l2_logit(query, key)


def attend(query: Tensor, key: Tensor, value: Tensor, logit: Logit) -> Tensor:
    """softmax_j(logit(q_i, k_j)) v_j of one head: (M, d), (N, d), (N, d) -> (M, d)."""
    rows = []
    for q in query:
        exponentials = [math.exp(float(logit(q, k))) for k in key]
        weights = [e / sum(exponentials) for e in exponentials]
        rows.append(torch.stack([a * v for a, v in zip(weights, value, strict=True)]).sum(0))
    return torch.stack(rows)


def attention(module: nn.Module, x: Tensor) -> Tensor:
    """Multi-head self-attention of one sample, (N, D) -> (N, D)."""
    if isinstance(module, L2Attention):
        query_layer = key_layer = module.query_key
        logit = farthest_logit if module.attend_to_farthest else l2_logit
    else:
        assert isinstance(module, SelfAttention)
        query_layer, key_layer, logit = module.query, module.key, dot_logit
    query, key, value = (
        torch.stack([affine(f, t) for t in x]) for f in (query_layer, key_layer, module.value)
    )
    size = x.shape[1] // module.heads
    heads = []
    for k in range(module.heads):
        part = slice(k * size, (k + 1) * size)
        heads.append(attend(query[:, part], key[:, part], value[:, part], logit))
    return torch.stack([affine(module.out, token) for token in torch.cat(heads, 1)])


def perceptron(module: MultilayerPerceptron, x: Tensor) -> Tensor:
    """W2 GELU(W1 x + b1) + b2 with GELU(a) = a Phi(a), a token at a time."""
    rows = []
    for token in x:
        hidden = affine(module.up, token)
        rows.append(affine(module.down, hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))))
    return torch.stack(rows)


def block(module: Block, h: Tensor, w: Tensor | None) -> Tensor:
    """Equations 2-3 and 6-7: the residuals are h and h', not their norms."""
    assert isinstance(module.perceptron, MultilayerPerceptron)
    middle = attention(module.attention, norm(module.norm_attention, h, w)) + h
    return perceptron(module.perceptron, norm(module.norm_perceptron, middle, w)) + middle


def patches(image: Tensor, patch: int, overlap: int) -> Tensor:
    """(C, H, W) -> (L, C (P + 2o)^2), pixel by pixel, zeros beyond the border."""
    channels, height, width = image.shape
    side = range(-overlap, patch + overlap)
    rows = []
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            pixels = []
            for c in range(channels):
                for i in side:
                    for j in side:
                        y, x = top + i, left + j
                        inside = 0 <= y < height and 0 <= x < width
                        pixels.append(float(image[c, y, x]) if inside else 0.0)
            rows.append(pixels)
    return torch.tensor(rows, dtype=torch.float64)


def image_of(patches_of: Tensor, patch: int, channels: int) -> Tensor:
    """(L, P^2, C), raster order of patches and of the pixels in each, -> (C, H, W) of a square image."""
    side = math.isqrt(len(patches_of))
    image = torch.zeros(channels, side * patch, side * patch, dtype=torch.float64)
    for k, pixels in enumerate(patches_of):
        for m, colour in enumerate(pixels):
            image[:, k // side * patch + m // patch, k % side * patch + m % patch] = colour
    return image
