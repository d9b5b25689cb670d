"""Which steps share a CUDA graph, and that blocks are compiled whole; the graphs themselves: test_cuda.py."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from vitgan.adversarial import BCR, R1, CutMix, Game, Logistic
from vitgan.adversarial.augment import DiffAugment
from vitgan.adversarial.penalties import PathLength
from vitgan.nn import Block, L2Attention, LayerNorm, MultilayerPerceptron, SelfAttention
from vitgan.nn.attention import fused_l2_attention, l2_attention

GAME = Game(loss=Logistic(), augment=DiffAugment(), terms=(BCR(),))


def kinds(game: Game, steps: int) -> list[tuple[bool, ...] | None]:
    return [game.kind(step) for step in range(steps)]


def test_steps_that_do_the_same_work_are_of_one_kind() -> None:
    assert len(set(kinds(GAME, 20))) == 1
    lazy = kinds(replace(GAME, terms=(BCR(), R1(gamma=1.0, every=4))), 9)
    assert lazy == [(True, True, step % 4 == 0) for step in range(9)]


def test_the_generators_steps_and_terms_are_told_apart() -> None:
    game = replace(GAME, generator_every=2, generator_terms=(PathLength(every=3),))
    assert kinds(game, 8) == [
        *[(False, True), (True, True, False)] * 2,
        *[(False, True), (True, True, True)],
        *[(False, True), (True, True, False)],
    ]


def test_a_step_that_decides_for_itself_is_of_no_kind() -> None:
    assert kinds(replace(GAME, terms=(BCR(), CutMix())), 2) == [None, None]


@pytest.mark.parametrize("attention", [L2Attention, SelfAttention])
@pytest.mark.parametrize("first", [None, 1])
def test_a_block_is_compiled_in_one_piece(
    attention: type[L2Attention | SelfAttention], first: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the way of a GPU: pieces hand views to each other, which torch 2.11 got wrong there."""

    def as_on_a_gpu(query, key, value, *, attend_to_farthest=False):
        return fused_l2_attention(query, key, value, attend_to_farthest=attend_to_farthest)

    monkeypatch.setattr("vitgan.nn.attention.l2_attention", as_on_a_gpu)
    block = Block(attention(16, 2), MultilayerPerceptron(16, 32), lambda: LayerNorm(16))
    tokens = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    torch._dynamo.reset()
    compiled = torch.compile(block.forward, backend="aot_eager", fullgraph=True, dynamic=False)
    expected = block(tokens, None, first)
    assert torch.equal(compiled(tokens, None, first), expected)
    assert counters["graph_break"] == {}
    assert l2_attention is not as_on_a_gpu
