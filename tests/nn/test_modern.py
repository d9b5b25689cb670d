"""The blocks of the modern networks against their slow twins, and what each promises."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import modern_twins as twins
from vitgan.nn import Linear
from vitgan.nn.modern import (
    Activation,
    FeedForward,
    ModulatedBlock,
    RMSNorm,
    RotaryAttention,
    ScaledBlock,
    axial_angles,
    rms_norm,
    rotate,
)
from vitgan.nn.stems import (
    ConvolutionalHead,
    ConvolutionalStem,
    Doubling,
    MergeTokens,
    PatchStem,
    SplitTokens,
)

SIDE, WIDTH, HEADS = 3, 16, 2
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


def scrambled(module: nn.Module) -> nn.Module:
    """In float64, every parameter off its starting value."""
    generator = torch.Generator().manual_seed(0)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def branches(side: int = SIDE) -> tuple[RotaryAttention, FeedForward]:
    return RotaryAttention(WIDTH, HEADS, side), FeedForward(WIDTH, 24, side)


def test_rms_norm_is_torchs_and_so_are_its_first_and_second_gradients() -> None:
    x, direction = random(2, 5, 8).requires_grad_(), random(2, 5, 8, seed=2).requires_grad_()

    def derivatives(own: bool) -> tuple[Tensor, ...]:
        y = rms_norm(x) if own else F.rms_norm(x, (8,), eps=1e-6)
        (once,) = torch.autograd.grad(y, x, direction, retain_graph=True)
        (graph,) = torch.autograd.grad(y, x, direction, create_graph=True)
        return y, once, graph, *torch.autograd.grad(graph.square().sum(), (x, direction))

    for ours, theirs in zip(derivatives(True), derivatives(False), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    assert torch.autograd.gradcheck(rms_norm, (x,))


def test_rms_norm_module_is_its_twin() -> None:
    module, x = scrambled(RMSNorm(WIDTH)), random(4, WIDTH)
    assert isinstance(module, RMSNorm)
    torch.testing.assert_close(module(x), twins.norm(module, x), **CLOSE)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("side", [3, 6])  # plain products, and torch's fused kernel
def test_attention_is_its_twin(normalised: bool, rotary: bool, side: int) -> None:
    module = scrambled(RotaryAttention(WIDTH, HEADS, side, normalised=normalised, rotary=rotary))
    assert isinstance(module, RotaryAttention)
    x = random(2, side**2, WIDTH)
    torch.testing.assert_close(module(x), torch.stack([twins.attention(module, one) for one in x]), **CLOSE)


def test_a_rotary_logit_depends_on_the_offset_of_two_tokens_alone() -> None:
    side, size = 5, 8
    angles = axial_angles(side, size)
    query, key = random(1, size), random(1, size, seed=2)

    def logit(at: tuple[int, int], to: tuple[int, int]) -> float:
        turns = [angles[row * side + column] for row, column in (at, to)]
        a, b = (rotate(x, t.cos(), t.sin()) for x, t in zip((query, key), turns, strict=True))
        return float((a * b).sum())

    moved = [logit((row, column), (row + 1, column + 2)) for row in range(4) for column in range(3)]
    assert max(moved) - min(moved) < 1e-12
    assert abs(logit((0, 0), (1, 2)) - logit((0, 0), (2, 1))) > 1e-3
    assert float(rotate(query, angles[7].cos(), angles[7].sin()).norm() - query.norm()) < 1e-12


def test_rotary_heads_need_a_multiple_of_four_features() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        axial_angles(4, 6)


@pytest.mark.parametrize("activation", ["leaky-relu", "silu", "swiglu"])
@pytest.mark.parametrize("depthwise", [False, True])
def test_feed_forward_is_its_twin(activation: Activation, depthwise: bool) -> None:
    module = scrambled(FeedForward(WIDTH, 24, SIDE, activation=activation, depthwise=depthwise))
    assert isinstance(module, FeedForward)
    x = random(2, SIDE**2, WIDTH)
    expected = torch.stack([twins.feed_forward(module, one) for one in x])
    torch.testing.assert_close(module(x), expected, **CLOSE)


def test_depthwise_convolution_starts_at_nothing() -> None:
    torch.manual_seed(0)
    mixed = FeedForward(WIDTH, 24, SIDE, depthwise=True)
    plain = FeedForward(WIDTH, 24, SIDE)
    plain.load_state_dict({k: v for k, v in mixed.state_dict().items() if not k.startswith("neighbours")})
    x = torch.randn(2, SIDE**2, WIDTH)
    torch.testing.assert_close(mixed(x), plain(x), rtol=0, atol=0)


@pytest.mark.parametrize("gated", [False, True])
def test_modulated_block_is_its_twin(gated: bool) -> None:
    module = scrambled(ModulatedBlock(*branches(), WIDTH, 5, gated=gated))
    assert isinstance(module, ModulatedBlock)
    h, w = random(2, SIDE**2, WIDTH), random(2, 5, seed=2)
    expected = torch.stack([twins.modulated_block(module, a, b) for a, b in zip(h, w, strict=True)])
    torch.testing.assert_close(module(h, w), expected, **CLOSE)


@pytest.mark.parametrize("scale", [None, 0.1])
def test_scaled_block_is_its_twin(scale: float | None) -> None:
    module = scrambled(ScaledBlock(*branches(), WIDTH, scale=scale))
    assert isinstance(module, ScaledBlock)
    h = random(2, SIDE**2, WIDTH)
    torch.testing.assert_close(module(h), torch.stack([twins.scaled_block(module, x) for x in h]), **CLOSE)


@pytest.mark.parametrize("side", [4, 6])
@pytest.mark.parametrize("overlapping", [False, True])
def test_merge_is_its_twin(overlapping: bool, side: int) -> None:
    module = scrambled(MergeTokens(5, 7, overlapping=overlapping))
    assert isinstance(module, MergeTokens)
    h = random(2, side**2, 5)
    torch.testing.assert_close(module(h), torch.stack([twins.merge(module, x) for x in h]), **CLOSE)


@pytest.mark.parametrize("overlapping", [False, True])
def test_merge_keeps_raster_order(overlapping: bool) -> None:
    module = MergeTokens(1, 1, overlapping=overlapping, equalised=False)
    for parameter in module.parameters():
        nn.init.zeros_(parameter) if parameter.ndim == 1 else nn.init.ones_(parameter)
    for token in range(16):
        h = torch.zeros(1, 16, 1)
        h[0, token] = 1
        merged = module(h)[0, :, 0]
        assert merged[token // 8 * 2 + token % 4 // 2] == 1  # the 2 x 2 neighbourhood that holds it
        assert overlapping or merged.sum() == 1


def test_an_odd_grid_merges_to_the_half_rounded_down() -> None:
    assert MergeTokens(4, 4)(torch.randn(1, 49, 4)).shape == (1, 9, 4)


def test_split_is_its_twin_and_keeps_raster_order() -> None:
    module, h = scrambled(SplitTokens(5, 3)), random(2, 9, 5)
    assert isinstance(module, SplitTokens)
    torch.testing.assert_close(module(h), torch.stack([twins.split(module, x) for x in h]), **CLOSE)


@pytest.mark.parametrize("module", [PatchStem(3, 6, 4, 2), ConvolutionalStem(3, (4, 5), 6)])
def test_a_stem_is_its_twin(module: nn.Module) -> None:
    scrambled(module)
    images = random(2, 3, 8, 8)
    torch.testing.assert_close(module(images), torch.stack([twins.stem(module, x) for x in images]), **CLOSE)


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_convolutional_head_is_its_twin(patch: int) -> None:
    module, h = scrambled(ConvolutionalHead(5, patch, 3, 6)), random(2, 9, 5)
    assert isinstance(module, ConvolutionalHead)
    assert module(h).shape == (2, 3, 3 * patch, 3 * patch)
    expected = torch.stack([twins.convolutional_head(module, x) for x in h])
    torch.testing.assert_close(module(h), expected, **CLOSE)


def test_a_doubling_starts_with_the_variance_it_is_given() -> None:
    torch.manual_seed(0)
    out = Doubling(64, 64, gain=0.5)(torch.randn(8, 64, 8, 8))[:, :, 2:-2, 2:-2]
    assert 0.45 < out.std() < 0.55


def test_convolutional_head_sees_across_the_borders_of_patches() -> None:
    head = ConvolutionalHead(8, 4, 3, 6).double()
    h = random(1, 9, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(head(h)[0, :, 4:8, 4:8].sum(), h)  # the patch in the middle
    assert (gradient.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("equalised", [False, True])
def test_branches_of_a_block_start_with_the_variance_they_are_given(equalised: bool) -> None:
    torch.manual_seed(0)
    linear = partial(Linear, equalised=equalised)
    x = rms_norm(torch.randn(64, 16, 64))
    out = FeedForward(64, 128, 4, linear, gain=0.5)(x)
    assert 0.3 < out.std() < 0.7
