"""Attention and the stream of tokens as read from a running network, against the network itself; and rank
collapse of known matrices, one entry at a time in float64.
"""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from vitgan.diagnostics.attention import attention_probabilities, entropies, reading, residual_shares
from vitgan.diagnostics.lipschitz import normalised
from vitgan.models import VisionTransformer, VisionTransformerOptions, ViTGANGeneratorOptions
from vitgan.nn import Block, L2Attention, SelfAttention
from vitgan.nn.attention import GridAttention, from_windows, merge_heads, split_heads, to_windows

KINDS: dict[str, Callable[..., nn.Module]] = {
    "dot-product": SelfAttention,
    "l2": L2Attention,
    "farthest": partial(L2Attention, attend_to_farthest=True),
}


def scrambled(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def discriminator(depth: int = 2) -> VisionTransformer:
    torch.manual_seed(0)
    options = VisionTransformerOptions(patch=4, depth=depth, width=12, heads=3, perceptron_width=20)
    network = scrambled(options.build(resolution=8, channels=1)).eval()
    assert isinstance(network, VisionTransformer)
    return network


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_give_the_modules_output(kind: str):
    """Times the values, through the output layer, they are what the module computes in a form of its own."""
    torch.manual_seed(0)
    module = scrambled(KINDS[kind](12, 3))
    assert isinstance(module, SelfAttention | L2Attention)
    x = torch.randn(2, 7, 12)
    probabilities = attention_probabilities(module, x)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 3, 7))
    found = module.out(merge_heads(probabilities @ split_heads(module.value(x), 3)))
    torch.testing.assert_close(found, module(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [4, 2])
def test_probabilities_on_a_grid_give_the_modules_output(window: int):
    """Positions are relative, over the whole grid and by windows."""
    torch.manual_seed(0)
    module = scrambled(GridAttention(12, 3, 4, window))
    assert isinstance(module, GridAttention)
    x = torch.randn(2, 16, 12)
    probabilities = attention_probabilities(module, x)
    assert probabilities.shape == (2 * (4 // window) ** 2, 3, window**2, window**2)
    value = split_heads(module.value(to_windows(x, window)), 3)
    found = from_windows(module.out(merge_heads(probabilities @ value)), 4)
    torch.testing.assert_close(found, module(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_attention_by_windows_is_read_without_maps():
    module = nn.Sequential(GridAttention(12, 3, 4, 2))
    with reading(module) as found:
        module(torch.randn(5, 16, 12))
    (entry,) = found.attention.values()
    assert (entry.tokens, entry.maps, entry.entropy[0].shape) == (4, [], (20, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_fp32_in_bf16(kind: str):
    module = KINDS[kind](12, 3)
    assert attention_probabilities(module, torch.randn(2, 5, 12, dtype=torch.bfloat16)).dtype == torch.float32


def test_entropy_is_log_n_of_even_rows_and_zero_of_certain_ones():
    rows = torch.stack((torch.full((8,), 1 / 8), torch.eye(8)[3]))
    torch.testing.assert_close(entropies(rows), torch.tensor([8.0, 1.0]).log())


@torch.no_grad()
def test_reading_changes_nothing_and_leaves_nothing():
    network = discriminator()
    before = network(images())
    with reading(network):
        assert torch.equal(network(images()), before)
    assert torch.equal(network(images()), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@torch.no_grad()
def test_a_discriminator_is_read_with_its_normalised_weights_and_all_its_tokens():
    """A pass by hand, block by block, computes every token of the last block."""
    network = discriminator()
    with reading(network) as found:
        network(images(4))
        network(images(6)[4:])
    h = found.tokens[0]
    assert h.shape == (4, 5, 12)
    shares = [residual_shares(h)]
    with normalised(network):
        for name, block in network.blocks.named_children():
            assert isinstance(block, Block)
            entry = found.attention[f"blocks.{name}.attention"]
            x = block.norm_attention(h)
            torch.testing.assert_close(entry.inputs[0], x)
            expected = attention_probabilities(block.attention, x)
            torch.testing.assert_close(entry.maps[0], expected)
            torch.testing.assert_close(entry.entropy[0], entropies(expected).mean(2))
            torch.testing.assert_close(entry.entropy_first[0], entropies(expected[:, :, 0]))
            torch.testing.assert_close(entry.to_self[0], expected.diagonal(dim1=2, dim2=3).mean(2))
            h = block(h)
            shares.append(residual_shares(h))
    assert list(found.stream) == ["input", "blocks.0", "blocks.1"]
    for (first, second), expected in zip(found.stream.values(), shares, strict=True):
        torch.testing.assert_close(first, expected)
        assert len(second[0]) == 2
    queries = [entry.queries for entry in found.attention.values()]
    assert queries == [None, 1]
    assert [len(entry.entropy) for entry in found.attention.values()] == [2, 2]
    assert [len(entry.maps) for entry in found.attention.values()] == [1, 1]


@torch.no_grad()
def test_a_generator_is_read():
    torch.manual_seed(0)
    options = ViTGANGeneratorOptions(
        patch=4, depth=2, width=12, heads=3, perceptron_width=20, latent_dim=5, mapping_depth=1
    )
    network = options.build(resolution=8, channels=1).eval()
    z = torch.randn(3, 5)
    before = network(z)
    with reading(network) as found:
        assert torch.equal(network(z), before)
    assert [entry.maps[0].shape for entry in found.attention.values()] == [(3, 3, 4, 4)] * 2
    assert list(found.stream) == ["input", "blocks.0", "blocks.1"]


def test_a_network_without_attention_reads_as_empty():
    network = nn.Conv2d(1, 1, 3)
    with reading(network) as found:
        network(images())
    assert found.attention == {}
    assert found.stream == {}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Rank collapse


def composite(rows: list[list[float]]) -> float:
    """sqrt(|X|_1 |X|_inf), entry by entry."""
    largest_row = max(sum(abs(x) for x in row) for row in rows)
    largest_column = max(sum(abs(row[k]) for row in rows) for k in range(len(rows[0])))
    return math.sqrt(largest_row * largest_column)


def test_residual_shares_are_those_of_each_entry():
    tokens = noise(3, 4, 5) + 1
    for sample, first, second in zip(tokens, *residual_shares(tokens), strict=True):
        rows = sample.double().tolist()
        mean = [sum(row[k] for row in rows) / 4 for k in range(5)]
        residual = [[x - m for x, m in zip(row, mean, strict=True)] for row in rows]
        assert first.item() == pytest.approx(composite(residual) / composite(rows), rel=1e-5)
        sizes = [math.sqrt(sum(x * x for row in matrix for x in row)) for matrix in (residual, rows)]
        assert second.item() == pytest.approx(sizes[0] / sizes[1], rel=1e-5)


def test_equal_tokens_have_no_residual_and_unlike_ones_nothing_else():
    """Tokens all alike have 0, those with no common part about sqrt(1 - 1/N)."""
    alike = noise(2, 1, 64).expand(2, 9, 64)
    assert all((share < 1e-6).all() for share in residual_shares(alike))
    torch.testing.assert_close(
        residual_shares(noise(2, 9, 4000))[1], torch.full((2,), math.sqrt(8 / 9)), rtol=0.01, atol=0
    )


def test_residual_shares_know_no_scale_and_rise_in_bf16_to_fp32():
    tokens = noise(2, 4, 5) + 1
    for scaled, plain in zip(residual_shares(1000 * tokens), residual_shares(tokens), strict=True):
        torch.testing.assert_close(scaled, plain)
    assert residual_shares(tokens.bfloat16())[0].dtype == torch.float32
