"""Attention as it is computed, its entropies, and how fast tokens become equal (rank).

Shapes: B batch, N tokens, D width, h heads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vitgan.nn import Block, L2Attention, SelfAttention
from vitgan.nn.attention import GridAttention, relative_bias, split_heads, to_windows
from vitgan.nn.linear import at_least_fp32


def residual_shares(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """|res(X)| / |X| of each sample, X (B, N, D) -> ((B,), (B,)), in the norm of arXiv 2103.03404 and
    Frobenius'.

    res(X) = X - 1 x^T. The paper's x minimises |X - 1 x^T| in |X|_{1,inf} = sqrt(|X|_1 |X|_inf), for which
    there is no closed form; here x is the mean token, the minimiser in Frobenius' norm. So the first
    share is never below the paper's. 0 is rank one; tokens with no common part have a
    Frobenius share near sqrt(1 - 1/N).
    """
    tokens = at_least_fp32(tokens)
    residual = tokens - tokens.mean(1, keepdim=True)
    return _composite(residual) / _composite(tokens), _frobenius(residual) / _frobenius(tokens)


def _composite(x: Tensor) -> Tensor:
    """sqrt(|X|_1 |X|_inf): the largest column sum and the largest row sum of absolute values."""
    sizes = x.abs()
    return (sizes.sum(1).amax(1) * sizes.sum(2).amax(1)).sqrt()


def _frobenius(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


READABLE = (SelfAttention, L2Attention, GridAttention)
KEPT = 4  # images of a batch whose maps and inputs are kept


@dataclass
class AttentionReading:
    """What was read of one attention layer; each list has an entry for each batch that passed."""

    module: nn.Module
    norm: nn.Module | None = None
    """The norm before it, where it stands in a Block."""
    tokens: int = 0
    """Number n of tokens that a token may attend to."""
    queries: int | None = None
    """How many tokens, from the first on, have queries; None is all."""
    entropy: list[Tensor] = field(default_factory=list)
    """Entropy of attention in nats, the mean over the rows, (B W, h)."""
    entropy_first: list[Tensor] = field(default_factory=list)
    """Entropy of token 0's row in nats, (B W, h)."""
    to_self: list[Tensor] = field(default_factory=list)
    """Attention of a token to itself: the mean of the diagonal, (B W, h)."""
    maps: list[Tensor] = field(default_factory=list)
    """Attention probabilities of the first KEPT images, (KEPT, h, N, N); none where attention is by
    windows."""
    inputs: list[Tensor] = field(default_factory=list)
    """The layer's input for the first KEPT images, (KEPT, N, D)."""


@dataclass
class Reading:
    """A network's attention layers, by name, and the residual shares of its stream of tokens."""

    attention: dict[str, AttentionReading] = field(default_factory=dict)
    stream: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    """For "input" and each Block's name, what `residual_shares` gives for the tokens after it."""
    tokens: list[Tensor] = field(default_factory=list)
    """The tokens before the first Block, of the first KEPT images, (KEPT, N, D)."""


def attention_probabilities(attention: nn.Module, x: Tensor) -> Tensor:
    """softmax of the layer's logits for all tokens of x (B, N, D), in fp32, not fused: (B W, h, n, n)."""
    assert isinstance(attention, READABLE)
    if isinstance(attention, L2Attention):
        key = at_least_fp32(split_heads(attention.query_key(x), attention.heads))
        distances = torch.cdist(key, key, compute_mode="donot_use_mm_for_euclid_dist").square()
        logits = distances if attention.attend_to_farthest else -distances
        return (logits / key.shape[-1] ** 0.5).softmax(-1)
    x = to_windows(x, attention.window) if isinstance(attention, GridAttention) else x
    query, key = (at_least_fp32(split_heads(f(x), attention.heads)) for f in (attention.query, attention.key))
    logits = query @ key.mT / key.shape[-1] ** 0.5
    return (
        logits + relative_bias(attention.table) if isinstance(attention, GridAttention) else logits
    ).softmax(-1)


def entropies(probabilities: Tensor) -> Tensor:
    """-sum_j p_j ln p_j of every row, in nats, (..., N) -> (...): from 0 to ln N."""
    return torch.special.entr(probabilities).sum(-1)


@contextmanager
def reading(network: nn.Module) -> Iterator[Reading]:
    """A context within which every pass of `network` is read; what the network returns does not change.

    The last block of a ViT computes the class token alone; here the rest is computed beside it.
    """
    found = Reading()
    blocks = [(name, module) for name, module in network.named_modules() if isinstance(module, Block)]
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, READABLE):
            found.attention[name] = AttentionReading(module, _norm_before(module, blocks))
            handles.append(module.register_forward_pre_hook(_attention_hook(found, name), with_kwargs=True))
    for index, (name, block) in enumerate(blocks):
        hook = _block_hook(found, name, is_first=index == 0)
        handles.append(block.register_forward_hook(hook, with_kwargs=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _norm_before(attention: nn.Module, blocks: list[tuple[str, Block]]) -> nn.Module | None:
    return next((block.norm_attention for _, block in blocks if block.attention is attention), None)


def _attention_hook(found: Reading, name: str) -> Any:
    entry = found.attention[name]

    @torch.no_grad()
    def read(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        x = arguments[0]
        given = arguments[1] if len(arguments) > 1 else keywords.get("first")
        probabilities = attention_probabilities(module, x)  # (B W, h, n, n)
        rows = entropies(probabilities)  # (B W, h, n)
        entry.queries, entry.tokens = given, rows.shape[2]
        entry.entropy.append(rows.mean(2).cpu())
        entry.entropy_first.append(rows[:, :, 0].cpu())
        entry.to_self.append(probabilities.diagonal(dim1=2, dim2=3).mean(2).cpu())
        if not entry.inputs:
            entry.inputs.append(at_least_fp32(x[:KEPT].detach()))
        if not entry.maps and len(probabilities) == len(x):
            entry.maps.append(probabilities[:KEPT].cpu())

    return read


def _block_hook(found: Reading, name: str, *, is_first: bool) -> Any:
    @torch.no_grad()
    def read(block: Block, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Tensor) -> None:
        given = dict(zip(("h", "w", "first"), arguments, strict=False)) | keywords
        h, w = given["h"], given.get("w")
        if is_first:
            found.stream.setdefault("input", []).append(_shares(h))
            found.tokens = found.tokens or [at_least_fp32(h[:KEPT].detach())]
        whole = output if given.get("first") is None else _whole(block, h, w)
        found.stream.setdefault(name, []).append(_shares(whole))

    return read


def _whole(block: Block, h: Tensor, w: Tensor | None) -> Tensor:
    """The block's output for all tokens; the attention's own forward keeps its hook from counting twice."""
    h = h + block.attention.forward(block.norm_attention(h, w))
    return h + block.perceptron(block.norm_perceptron(h, w))


def _shares(h: Tensor) -> tuple[Tensor, Tensor]:
    composite, frobenius = residual_shares(h)
    return composite.cpu(), frobenius.cpu()
