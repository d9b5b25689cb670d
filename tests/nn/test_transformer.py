"""Norms, attention and blocks against their float64 twins."""

from functools import partial

import pytest
import torch

import twins
from vitgan.nn import (
    Block,
    L2Attention,
    LayerNorm,
    Linear,
    MultilayerPerceptron,
    SelfAttention,
    SelfModulatedLayerNorm,
    dot_product_attention,
    l2_attention,
)

pytestmark = pytest.mark.parity

BATCH, TOKENS, WIDTH, HEADS = 2, 5, 12, 3
ATTENTIONS = {
    "dot-product": SelfAttention,
    "l2": L2Attention,
    "farthest": partial(L2Attention, attend_to_farthest=True),
}
LOGITS = {"dot-product": twins.dot_logit, "l2": twins.l2_logit, "farthest": twins.farthest_logit}


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.detach(), expected, rtol=1e-9, atol=1e-10)


def batch() -> torch.Tensor:
    return twins.random(BATCH, TOKENS, WIDTH)


def test_a_self_modulated_layer_norm_is_its_twin():
    """SLN(h, w) = gamma(w) (h - mu) / sigma + beta(w), with another w for every sample."""
    norm = twins.scramble(SelfModulatedLayerNorm(WIDTH, 7)).double()
    h, w = 3 * batch() + 1, twins.random(BATCH, 7, seed=2)
    close(norm(h, w), torch.stack([twins.norm(norm, *pair) for pair in zip(h, w, strict=True)]))


def test_self_modulated_layer_norm_at_zero_is_a_plain_layer_norm():
    h = batch().float()
    plain = LayerNorm(WIDTH)(h)
    torch.testing.assert_close(SelfModulatedLayerNorm(WIDTH, 7)(h, torch.zeros(BATCH, 7)), plain)


def test_a_plain_layer_norm_is_its_twin():
    norm = twins.scramble(LayerNorm(WIDTH)).double()
    h = 3 * batch() + 1
    close(norm(h), torch.stack([twins.norm(norm, sample, None) for sample in h]))


@pytest.mark.parametrize("kind", LOGITS)
def test_attention_takes_other_keys_than_queries(kind: str):
    """It is softmax_j(logit(q_i, k_j)) V, the logit over sqrt(d) of the head, the L2 one of both signs."""
    query = twins.random(BATCH, HEADS, 3, 4)
    key, value = twins.random(BATCH, HEADS, TOKENS, 4, seed=2), twins.random(BATCH, HEADS, TOKENS, 4, seed=3)
    function = {
        "dot-product": dot_product_attention,
        "l2": l2_attention,
        "farthest": partial(l2_attention, attend_to_farthest=True),
    }[kind]
    found = function(query, key, value)
    for b in range(BATCH):
        for k in range(HEADS):
            close(found[b, k], twins.attend(query[b, k], key[b, k], value[b, k], LOGITS[kind]))


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize("heads", [1, HEADS])
def test_multi_head_attention_is_its_twin(kind: str, heads: int):
    module = twins.scramble(ATTENTIONS[kind](WIDTH, heads)).double()
    x = batch()
    close(module(x), torch.stack([twins.attention(module, sample) for sample in x]))


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_of_the_first_tokens_is_that_of_all_tokens(kind: str):
    module = twins.scramble(ATTENTIONS[kind](WIDTH, HEADS)).double()
    close(module(batch(), 2), module(batch())[:, :2].detach())


def test_l2_attention_attends_most_to_itself_and_farthest_attends_least():
    """With the minus of the distance the diagonal of the attention matrix is its largest entry."""
    query = twins.random(1, 1, TOKENS, 4)
    one_hot = torch.eye(TOKENS, dtype=torch.float64)[None, None]
    near = l2_attention(query, query, one_hot)[0, 0]
    far = l2_attention(query, query, one_hot, attend_to_farthest=True)[0, 0]
    assert (near.argmax(1) == torch.arange(TOKENS)).all()
    assert (far.argmin(1) == torch.arange(TOKENS)).all()


def test_l2_attention_has_the_gradient_of_the_distance():
    """The expanded square has the gradient of the distance."""
    inputs = [twins.random(1, 2, 3, 4, seed=s).requires_grad_() for s in (1, 2, 3)]
    assert torch.autograd.gradcheck(l2_attention, inputs)


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize("modulated", [False, True], ids=["eq. 2-3", "eq. 6-7"])
def test_a_block_is_its_twin(kind: str, modulated: bool):
    """h' = MSA(norm(h)) + h, h = MLP(norm(h')) + h'."""
    norm = partial(SelfModulatedLayerNorm, WIDTH, 7) if modulated else partial(LayerNorm, WIDTH)
    module = Block(ATTENTIONS[kind](WIDTH, HEADS), MultilayerPerceptron(WIDTH, 20), norm)
    twins.scramble(module).double()
    h, w = 2 * batch() + 1, twins.random(BATCH, 7, seed=2)
    close(module(h, w), torch.stack([twins.block(module, *pair) for pair in zip(h, w, strict=True)]))
    close(module(h, w, first=1), module(h, w)[:, :1].detach())


@pytest.mark.parametrize("equalised", [True, False])
@pytest.mark.parametrize("multiplier", [1.0, 0.01])
def test_linear_starts_with_the_variance_asked_for(equalised: bool, multiplier: float):
    """W has standard deviation gain / sqrt(I) whether the equalising constant holds it or not."""
    torch.manual_seed(0)
    layer = Linear(300, 200, gain=1.7, equalised=equalised, learning_rate_multiplier=multiplier)
    torch.testing.assert_close(
        layer.effective_weight().std(), torch.tensor(1.7 / 300**0.5), rtol=0.01, atol=0
    )
    if equalised:
        torch.testing.assert_close(layer.weight.std(), torch.tensor(1 / multiplier), rtol=0.01, atol=0)


def test_equalised_learning_rate_makes_relative_steps_alike():
    """One step of Adam moves W by rate x multiplier x its own standard deviation in every layer."""
    rate = 0.01
    for width, gain, multiplier in ((30, 1.0, 1.0), (500, 1.0, 1.0), (500, 0.2, 1.0), (500, 1.0, 0.01)):
        layer = Linear(width, 20, gain=gain, learning_rate_multiplier=multiplier)
        before = layer.effective_weight().detach().clone()
        layer(torch.randn(4, width)).square().sum().backward()
        torch.optim.Adam(layer.parameters(), lr=rate, betas=(0.0, 0.99)).step()
        step = (layer.effective_weight() - before).abs().mean()
        expected = torch.tensor(rate * multiplier * gain / width**0.5)
        torch.testing.assert_close(step.detach(), expected, rtol=2e-3, atol=0)


def test_a_linear_layer_is_its_twin():
    layer = twins.scramble(Linear(5, 3, bias_start=0.5, learning_rate_multiplier=0.01)).double()
    x = twins.random(4, 5)
    close(layer(x), torch.stack([twins.affine(layer, row) for row in x]))
    assert torch.allclose(
        Linear(5, 3, bias_start=0.5, learning_rate_multiplier=0.01)(torch.zeros(5)), torch.tensor(0.5)
    )


def test_assigned_weights_are_those_in_use():
    layer = Linear(5, 3, learning_rate_multiplier=0.01).double()
    weight, bias, x = twins.random(3, 5), twins.random(3, seed=2), twins.random(4, 5, seed=3)
    layer.assign(weight, bias)
    close(layer(x), x @ weight.T + bias)
