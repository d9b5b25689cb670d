"""TransGAN's parts and both its networks against their float64 twins: one token, one window at a time."""

import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import twins
from vitgan.models.transgan import (
    PixelNorm,
    Stage,
    TransGANDiscriminatorOptions,
    TransGANGeneratorOptions,
    pool_down,
    shuffle_up,
)
from vitgan.nn import Block, Linear, MultilayerPerceptron
from vitgan.nn.attention import GridAttention, from_windows, relative_bias, to_windows

pytestmark = pytest.mark.parity


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found.detach().double(), expected, rtol=tolerance, atol=tolerance)


def places(side: int) -> list[tuple[int, int]]:
    return [(r, c) for r in range(side) for c in range(side)]


def attention(module: GridAttention, x: Tensor) -> Tensor:
    """One sample (S^2, D), a pair of tokens of one window at a time."""
    size, table = x.shape[1] // module.heads, module.table.detach().double()
    query, key, value = ([twins.affine(f, t) for t in x] for f in (module.query, module.key, module.value))
    window, where, out = module.window, places(module.side), []
    for i, (r, c) in enumerate(where):
        heads = []
        for h in range(module.heads):
            part = slice(h * size, (h + 1) * size)
            weights, total = {}, 0.0
            for j, (r2, c2) in enumerate(where):
                if (r // window, c // window) == (r2 // window, c2 // window):
                    bias = table[h, r2 - r + window - 1, c2 - c + window - 1]
                    logit = (query[i][part] * key[j][part]).sum() / math.sqrt(size) + bias
                    weights[j] = math.exp(logit)
                    total += weights[j]
            heads.append(torch.stack([a / total * value[j][part] for j, a in weights.items()]).sum(0))
        out.append(twins.affine(module.out, torch.cat(heads)))
    return torch.stack(out)


def norm(module: nn.Module, h: Tensor) -> Tensor:
    if isinstance(module, PixelNorm):
        return torch.stack([token / math.sqrt(float((token**2).mean()) + 1e-8) for token in h])
    return twins.norm(module, h, None)


def block(module: Block, h: Tensor) -> Tensor:
    normed, inner = norm(module.norm_attention, h), module.attention
    h = h + (attention(inner, normed) if isinstance(inner, GridAttention) else twins.attention(inner, normed))
    assert isinstance(module.perceptron, MultilayerPerceptron)
    return h + twins.perceptron(module.perceptron, norm(module.norm_perceptron, h))


def staged(stage: nn.Module, h: Tensor) -> Tensor:
    assert isinstance(stage, Stage)
    h = h + stage.position[0].detach()
    for each in stage.blocks:
        assert isinstance(each, Block)
        h = block(each, h)
    return h


def shuffled(h: Tensor) -> Tensor:
    """Feature 4 d + 2 i + j of the token at (r, c) becomes feature d at (2 r + i, 2 c + j)."""
    side = math.isqrt(len(h))
    out = torch.zeros(4 * len(h), h.shape[1] // 4, dtype=h.dtype)
    for k, (r, c) in enumerate(places(side)):
        for f, number in enumerate(h[k]):
            i, j = f % 4 // 2, f % 2
            out[(2 * r + i) * 2 * side + 2 * c + j, f // 4] = number
    return out


def pooled(h: Tensor) -> Tensor:
    side = math.isqrt(len(h))
    corners = [2 * r * side + 2 * c for r, c in places(side // 2)]
    return torch.stack([(h[k] + h[k + 1] + h[k + side] + h[k + side + 1]) / 4 for k in corners])


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_the_bias_is_the_tables_entry_for_the_relative_place(side: int):
    """The bias of a query and a key is the table's entry for the key's row and column less the query's."""
    table = twins.random(2, 2 * side - 1, 2 * side - 1)
    found, where = relative_bias(table), places(side)
    assert found.shape == (2, side**2, side**2)
    for i, (r, c) in enumerate(where):
        for j, (r2, c2) in enumerate(where):
            assert torch.equal(found[:, i, j], table[:, r2 - r + side - 1, c2 - c + side - 1])


@pytest.mark.parametrize(("side", "window"), [(4, 4), (4, 2), (4, 1), (6, 3)])
def test_grid_attention_is_its_twin(side: int, window: int):
    module = twins.scramble(GridAttention(6, 2, side, window)).double()
    x = twins.random(2, side**2, 6)
    close(module(x), torch.stack([attention(module, sample) for sample in x]))


def test_windows_hold_the_tokens_of_a_square_and_go_back():
    """In raster order the second window of 2 x 2 in a 6 x 6 grid has the tokens 2, 3, 8 and 9."""
    tokens = torch.arange(2 * 36.0).view(2, 36, 1)
    windows = to_windows(tokens, 2)
    assert windows.shape == (18, 4, 1)
    assert windows[1].flatten().tolist() == [2, 3, 8, 9]
    assert windows[9 + 3].flatten().tolist() == [36 + n for n in (12, 13, 18, 19)]
    assert torch.equal(from_windows(windows, 6), tokens)


def test_grid_attention_is_full_attention_of_each_window_and_of_no_other():
    """The window may be the grid; a token moves its own window alone."""
    windowed = twins.scramble(GridAttention(6, 2, 6, 3)).double()
    alone = GridAttention(6, 2, 3, 3).double()
    alone.load_state_dict(windowed.state_dict())
    x = twins.random(2, 36, 6)
    close(windowed(x), from_windows(alone(to_windows(x, 3)), 6).detach())
    moved = x.clone()
    moved[:, 0] += 1
    changed = (windowed(moved) != windowed(x)).any(-1)[0].view(6, 6)
    assert changed[:3, :3].all()
    assert changed.sum() == 9


def test_attention_has_the_second_derivatives_of_a_gradient_penalty():
    """The plain kernel gives them, with respect to the tokens and to the table."""
    module = twins.scramble(GridAttention(4, 2, 4, 2)).double()

    def out(x: Tensor, table: Tensor) -> Tensor:
        return torch.func.functional_call(module, {"table": table}, (x,))

    inputs = (twins.random(1, 16, 4).requires_grad_(), module.table.detach().clone().requires_grad_())
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradcheck(out, inputs)
        assert torch.autograd.gradgradcheck(out, inputs)


def test_pixel_shuffle_keeps_neighbours():
    """Each feature of each token goes to its own place in the token's own 2 x 2 square, and nowhere else."""
    one_hot = torch.eye(9 * 8, dtype=torch.float64).view(72, 9, 8)
    close(shuffle_up(one_hot), torch.stack([shuffled(h) for h in one_hot]), 0)


def test_pooling_is_the_mean_of_a_square():
    h = twins.random(2, 36, 3)
    close(pool_down(h), torch.stack([pooled(sample) for sample in h]))


@pytest.mark.parametrize("normalised", ["pixel", "layer"])
@pytest.mark.parametrize("bicubic", [0, 1])
def test_the_generator_is_its_twin(normalised: Literal["pixel", "layer"], bicubic: int):
    """It has full attention at 2 x 2 and 4 x 4, and windows of 2 x 2 at 8 x 8."""
    options = TransGANGeneratorOptions(
        depths=(1, 2, 1), width=32, heads=2, perceptron_ratio=2, norm=normalised, bicubic=bicubic,
        full_attention=4, window=2, latent_dim=5,
    )  # fmt: skip
    model = twins.scramble(options.build(resolution=8, channels=3)).double()
    z = twins.random(2, 5)
    expected = []
    for sample in z:
        h = twins.affine(model.embed, sample).view(4, 32)
        h = staged(model.stages[0], h)
        if bicubic:
            grid = F.interpolate(h.T.view(1, 32, 2, 2), scale_factor=2, mode="bicubic")
            h = torch.stack([grid[0, :, r, c] for r, c in places(4)])
        else:
            h = shuffled(h)
        h = norm(model.norm, staged(model.stages[2], shuffled(staged(model.stages[1], h))))
        expected.append(torch.tanh(torch.stack([twins.affine(model.colour, t) for t in h]).T.view(3, 8, 8)))
    close(model(z), torch.stack(expected))


@pytest.mark.parametrize("normalised", ["pixel", "layer"])
def test_the_discriminator_is_its_twin(normalised: Literal["pixel", "layer"]):
    """Three scales take all of the image's patches in raster order; the logit is fp32."""
    options = TransGANDiscriminatorOptions(
        patch=1, depths=(1, 1, 2), width=24, heads=2, perceptron_ratio=2, norm=normalised,
        full_attention=4, window=4,
    )  # fmt: skip
    model = twins.scramble(options.build(resolution=8, channels=3)).double()
    images, expected = twins.random(2, 3, 8, 8), []
    for image in images:
        h = torch.zeros(0)
        for k, (embed, stage) in enumerate(zip(model.embeds, model.stages, strict=True)):
            assert isinstance(embed, Linear)
            own = torch.stack([twins.affine(embed, p) for p in twins.patches(image, 2**k, 0)])
            h = staged(stage, own if k == 0 else torch.cat((pooled(h), own), 1))
        tokens = block(model.last, torch.cat((model.class_token[0].detach(), h)))
        expected.append(twins.affine(model.head, norm(model.norm, tokens[:1])[0]))
    found = model(images)
    assert found.dtype == torch.float32
    close(found, torch.stack(expected), 1e-5)
