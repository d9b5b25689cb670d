"""A run tells of compiling, and a block is compiled whole; the graphs of a GPU: test_cuda.py."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch._dynamo.utils import counters

from vitgan.cli import main
from vitgan.nn import Block, L2Attention, LayerNorm, MultilayerPerceptron, SelfAttention
from vitgan.nn.attention import fused_l2_attention, l2_attention

Command = Callable[..., int]


@pytest.mark.usefixtures("no_curves")
def test_a_run_without_a_compiler_says_so_once_and_trains(
    tiny_train: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with mock.patch("torch.compile", side_effect=RuntimeError("No working C++ compiler found.")):
        assert tiny_train(tmp_path / "run", "--images", "8", "--training.compile", "on") == 0
    said = capsys.readouterr().err
    assert said.count("torch.compile does not work here (No working C++ compiler found)") == 1
    assert "The first step took" in said


@pytest.mark.usefixtures("no_curves")
def test_a_run_says_nothing_of_compiling_where_it_does_not(
    tiny_train: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with mock.patch("torch.compile", side_effect=AssertionError("not on a CPU")):
        assert tiny_train(tmp_path / "run", "--images", "8") == 0
    said = capsys.readouterr().err
    assert "ompil" not in said
    assert "The first step took" not in said


@pytest.mark.parametrize("recipe", ["vit-classifier-small", "siren-small"])
def test_settings_of_a_game_are_refused_where_there_is_none(recipe: str, refused: Callable) -> None:
    said = refused(main(["train", recipe, "--training.compile", "on"]))
    assert "--training.compile belongs to two networks in a game" in said


@pytest.mark.parametrize("attention", [L2Attention, SelfAttention])
@pytest.mark.parametrize("first", [None, 1])
def test_a_block_is_compiled_in_one_piece(
    attention: type[L2Attention | SelfAttention], first: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is compiled as for a GPU: pieces hand views to each other, which torch 2.11 got wrong there."""

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
