"""Activation checkpointing: memory for time (arXiv 1604.06174)."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vitgan.nn.attention import fused_allowed


def recomputed(
    function: Callable[..., Tensor],
    *inputs: Tensor | int | None,
    again: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Tensor:
    """function(*inputs), whose activations are not kept: the backward pass computes them again.

    `again` makes the context of that second computation, for what `function` reads beside its inputs. Within
    `sdpa_kernel(SDPBackend.MATH)`, where gradients are differentiated again, all activations are kept.
    """
    if not (torch.is_grad_enabled() and fused_allowed()):
        return function(*inputs)
    return checkpoint(
        function,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), again()),
    )
