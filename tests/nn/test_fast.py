"""The fast paths of a step against their slow, obvious twins."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import twins
from vitgan.nn import ImplicitOutput, L2Attention, Linear, SpectralNorm, l2_attention
from vitgan.nn.attention import (
    DIAGONAL_UP_TO,
    FUSED_FROM,
    dot_product_attention,
    fused_l2_attention,
    plain_l2_attention,
)
from vitgan.nn.implicit import ModulatedLinear
from vitgan.nn.linear import FEWEST_ROWS, SMALLEST_SIDE, affine

pytestmark = pytest.mark.parity

Attention = Callable[..., Tensor]


def relative(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact|, in float64."""
    return ((found.double() - exact).norm() / exact.norm()).item()


def with_gradients(function: Attention, inputs: list[Tensor], weighting: Tensor) -> list[Tensor]:
    """Output and gradients of `inputs`."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    gradients = torch.autograd.grad(out, leaves, weighting.to(out.dtype))
    return [out.detach(), *gradients]


def attention_inputs(tokens: int, dtype: torch.dtype, batch: int = 2) -> tuple[list[Tensor], Tensor]:
    """Keys and values of the size that a discriminator's start gives them, (B, h, N, d), and a weighting."""
    key, value, weighting = (twins.random(batch, 3, tokens, 32, seed=k).to(dtype) for k in range(3))
    return [key * 0.7, value], weighting


def tied(function: Attention) -> Attention:
    return lambda key, value: function(key, key, value)


def class_token_alone(function: Attention) -> Attention:
    return lambda key, value: function(key[:, :, :1], key, value)


@pytest.mark.parametrize("farthest", [False, True])
@pytest.mark.parametrize("arrangement", [tied, class_token_alone])
@pytest.mark.parametrize("tokens", [7, DIAGONAL_UP_TO + 9, FUSED_FROM + 1])
@pytest.mark.parametrize("route", [l2_attention, fused_l2_attention])
def test_l2_attention_in_fp32_is_its_slow_twin(
    route: Attention, tokens: int, arrangement: Callable[[Attention], Attention], farthest: bool
):
    """It is within 1e-5 of the plain products in float64, output and gradients, whatever the route."""
    inputs, weighting = attention_inputs(tokens, torch.float32)

    def of(function: Attention) -> Attention:
        return arrangement(lambda *x: function(*x, attend_to_farthest=farthest))

    weighting = weighting[:, :, :1] if arrangement is class_token_alone else weighting
    exact = with_gradients(of(plain_l2_attention), [x.double() for x in inputs], weighting.double())
    for found, expected in zip(with_gradients(of(route), inputs, weighting), exact, strict=True):
        assert relative(found, expected) < 1e-5


@pytest.mark.parametrize("tokens", [65, 257])
@pytest.mark.parametrize("route", [l2_attention, fused_l2_attention])
def test_l2_attention_in_bf16_is_as_exact_as_the_dot_product(route: Attention, tokens: int):
    """Of bf16's 8 bits neither norms nor a second rounding of the logits may cost more than products do."""
    inputs, weighting = attention_inputs(tokens, torch.bfloat16)

    def dot(key: Tensor, value: Tensor) -> Tensor:
        return (2 * key @ key.mT / math.sqrt(key.shape[-1])).softmax(-1) @ value

    def errors(fast: Attention, slow: Attention) -> list[float]:
        exact = with_gradients(slow, [x.double() for x in inputs], weighting.double())
        pairs = zip(with_gradients(fast, inputs, weighting), exact, strict=True)
        return [relative(found, expected) for found, expected in pairs]

    found, of_dot_product = errors(tied(route), tied(plain_l2_attention)), errors(dot, dot)
    for mine, other in zip(found, of_dot_product, strict=True):
        assert mine < max(1.5 * other, 2**-8)


def test_norms_far_from_zero_keep_their_bits():
    """Keys lie about a common vector: |k|^2 is large, and bf16 alone would lose differences that matter."""
    inputs, _ = attention_inputs(65, torch.float32)
    key, value = inputs[0] + 1.5, inputs[1]
    exact = plain_l2_attention(*(x.bfloat16().double() for x in (key, key, value)))
    found = fused_l2_attention(key.bfloat16(), key.bfloat16(), value.bfloat16())
    rounded = F.scaled_dot_product_attention(
        *(x.bfloat16() for x in (key, key, value)),
        attn_mask=(key.bfloat16().square().sum(-1) / -math.sqrt(32)).unsqueeze(-2).expand(-1, -1, 65, -1),
        scale=2 / math.sqrt(32),
    )
    assert relative(found, exact) < 0.01
    assert relative(found, exact) < relative(rounded, exact) / 3


@pytest.mark.parametrize("context", [nullcontext(), sdpa_kernel(SDPBackend.MATH)])
def test_l2_attention_is_differentiated_twice(context: object):
    """|d out / d key|^2 has a gradient, that of the plain products, in and out of the plain context."""
    inputs, _ = attention_inputs(6, torch.float64)

    def penalty(function: Attention) -> list[Tensor]:
        key, value = (x.clone().requires_grad_() for x in inputs)
        (gradient,) = torch.autograd.grad(function(key, key, value).square().sum(), key, create_graph=True)
        return list(torch.autograd.grad(gradient.square().sum(), (key, value)))

    expected = penalty(plain_l2_attention)
    with context:  # type: ignore[attr-defined]
        found = penalty(l2_attention)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


def test_l2_attention_of_a_module_takes_the_products_and_not_the_fused_kernel_on_a_cpu():
    """On a CPU the path below FUSED_FROM is the one with its own backward."""
    attention = L2Attention(12, 3)
    out = attention(torch.randn(2, 5, 12))
    names, nodes = set(), [out.grad_fn]
    while nodes:
        if (node := nodes.pop()) is not None:
            names.add(node.name())
            nodes += [parent for parent, _ in node.next_functions]
    assert any("L2Products" in name for name in names)
    assert not any("ScaledDotProduct" in name for name in names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dot_product_attention_is_its_slow_twin(dtype: torch.dtype):
    query, key, value, weighting = (twins.random(2, 3, 17, 8, seed=k).to(dtype) for k in range(4))

    def slow(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT / math.sqrt(8)).softmax(-1) @ v

    inputs = [query, key, value]
    exact = with_gradients(slow, [x.double() for x in inputs], weighting.double())
    found = with_gradients(dot_product_attention, inputs, weighting)
    for mine, expected in zip(found, exact, strict=True):
        assert relative(mine, expected) < (1e-5 if dtype == torch.float32 else 2**-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(FEWEST_ROWS // 64, 65), (3, FEWEST_ROWS // 64, 33)])
def test_products_by_convolution_are_the_plain_products(shape: tuple[int, ...], bias: bool):
    """They are large enough for the convolution, of three and of four axes, and are differentiated twice."""
    width = SMALLEST_SIDE
    x, weight = twins.random(*shape, width), twins.random(width + 8, width, seed=2) / math.sqrt(width)
    inputs = [x, weight, *([twins.random(width + 8, seed=3)] if bias else [])]
    weighting = twins.random(*shape, width + 8, seed=4)
    singles = [i.float() for i in inputs]
    with mock.patch("torch.nn.functional.conv2d", wraps=F.conv2d) as convolved:
        affine(*singles)
    assert convolved.call_count == 1
    exact = with_gradients(F.linear, inputs, weighting)
    for found, expected in zip(with_gradients(affine, singles, weighting), exact, strict=True):
        assert relative(found, expected) < 1e-5
    penalties = []
    for function, leaves in ((affine, singles), (F.linear, inputs)):
        leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
        (gradient,) = torch.autograd.grad(function(*leaves).square().sum(), leaves[0], create_graph=True)
        penalties.append(torch.autograd.grad(gradient.square().sum(), leaves[1])[0])
    assert relative(penalties[0], penalties[1]) < 1e-5


def test_products_by_convolution_are_the_same_bit_for_bit():
    """The same inputs give the same output and gradients: resuming a run of this size stands on it."""
    inputs = [torch.randn(FEWEST_ROWS // 64, 65, 192), torch.randn(192, 192), torch.randn(192)]
    weighting = torch.randn(FEWEST_ROWS // 64, 65, 192)
    runs = [with_gradients(affine, inputs, weighting) for _ in range(3)]
    assert all(torch.equal(a, b) for other in runs[1:] for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize(
    ("rows", "width", "dtype"),
    [
        ((64, 65), SMALLEST_SIDE - 32, torch.float32),
        ((FEWEST_ROWS // 2,), 384, torch.float32),
        ((1, FEWEST_ROWS), 384, torch.float32),
        ((4, 33), 384, torch.float32),
        ((64, 65), 384, torch.float64),
        ((64, 65), 384, torch.bfloat16),
    ],
)
def test_other_products_stay_matrix_products(rows: tuple[int, ...], width: int, dtype: torch.dtype):
    """Small weights, few rows, a batch of one, and dtypes but fp32 are left alone."""
    x, weight = torch.randn(*rows, width).to(dtype), torch.randn(width, width).to(dtype)
    with mock.patch("torch.nn.functional.conv2d", wraps=F.conv2d) as convolved:
        found = affine(x, weight)
    assert convolved.call_count == 0
    assert torch.equal(found, F.linear(x, weight))


@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_weights_are_modulated_inputs(demodulate: bool):
    """The product of all pixels at once is that of each pixel's modulated features, as the layer is read."""
    torch.manual_seed(0)
    output = twins.scramble(ImplicitOutput(12, 2, 3, hidden=10, demodulate=demodulate)).double()
    tokens, fourier = twins.random(2, 4, 12), twins.random(4, 12, seed=5)
    sine = output.sine
    assert isinstance(sine, ModulatedLinear)
    assert sine.layer.bias is not None
    weight, bias = twins.weight_of(sine.layer), sine.layer.bias.detach() * sine.layer.bias_scale
    found = sine(fourier, tokens, 30.0)
    for b in range(2):
        for t in range(4):
            style = twins.affine(sine.style, tokens[b, t])
            modulated = weight * style
            if demodulate:
                modulated *= sine.layer.gain / (modulated.square().sum(1, keepdim=True) + 1e-8).sqrt()
            expected = 30.0 * (fourier @ modulated.T + bias)
            torch.testing.assert_close(found[b, t].detach(), expected, rtol=1e-9, atol=1e-9)


def test_sigma_is_found_once_an_update_and_used_by_every_pass():
    """Passes between two advances use one sigma, u^T W v of the weights that the advance saw."""
    torch.manual_seed(0)
    layers = [Linear(6, 5), Linear(6, 5, gain=0.3)]
    norm = SpectralNorm(layers)
    for k, layer in enumerate(layers):
        twins.scramble(layer, k)
    norm.advance()
    sigma = norm.get_buffer("sigma_0").clone()
    left, right = norm.get_buffer("left_0"), norm.get_buffer("right_0")
    stacked = torch.stack([layer.weight * layer.scale for layer in layers])
    torch.testing.assert_close(sigma, left.mT @ stacked @ right)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), norm.applied() as weights:
            found = weights[0].detach()
        torch.testing.assert_close(found, stacked.detach() * norm.get_buffer("initial_0") / sigma)
    assert torch.equal(norm.get_buffer("sigma_0"), sigma)
