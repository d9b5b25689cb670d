"""torch.compile of the parts that pay: the transformer blocks, each a region of its own, with a fall-back.

All blocks of a network have the same code, so one of each kind is compiled and the others reuse it.
"""

import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitgan.nn import Block, ImplicitOutput, fused_allowed

Mode = Literal["auto", "on", "off"]


class Compiled:
    """A module's forward, compiled; within `sdpa_kernel(SDPBackend.MATH)` as it was.

    What is compiled cannot be differentiated twice.
    """

    def __init__(self, forward: Callable[..., Tensor], **options: Any) -> None:
        self._plain, self._compiled = forward, torch.compile(forward, **options)

    def __call__(self, *inputs: Any, **named: Any) -> Tensor:
        return (self._compiled if fused_allowed() else self._plain)(*inputs, **named)


def compile_blocks(mode: Mode, device: torch.device, *networks: nn.Module) -> str | None:
    """Compile the blocks of `networks` where `mode` asks for it; returns a line to tell, or None.

    "auto" compiles on a CUDA GPU alone. Where no compiler works here the networks stay as they are, and the
    line says why. The code itself is made in the first steps, whose time counts as training.
    """
    if mode == "off" or (mode == "auto" and device.type != "cuda"):
        return None
    parts = [m for network in networks for m in network.modules() if isinstance(m, (Block, ImplicitOutput))]
    if not parts:
        return "Nothing to compile: these networks have no transformer blocks." if mode == "on" else None
    if (fault := why_not(device)) is not None:
        return f"torch.compile does not work here ({fault}): training goes on without it."
    for part in parts:
        part.forward = Compiled(part.forward, dynamic=False)
    return f"Compiling {len(parts)} blocks with the first steps, which takes minutes once."


def why_not(device: torch.device) -> str | None:
    """Why nothing can be compiled for `device`, in a clause; None where a small trial works."""
    log = logging.getLogger("torch._dynamo")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        x = torch.ones(8, device=device, requires_grad=True)
        torch.compile(lambda x: (x.sin() * 2).sum())(x).backward()
    except Exception as error:  # any of the compiler's own, of g++'s or Triton's
        lines = [line for line in str(error).splitlines() if line.strip()]
        return lines[0].strip().rstrip(".") if lines else type(error).__name__
    finally:
        log.setLevel(level)
    return None
