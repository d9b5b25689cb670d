"""The precision of a run's activations."""

from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "auto"]


def activation_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """bf16 when asked for, or by "auto" where the hardware multiplies bf16 matrices; else fp32."""
    if precision == "auto":
        precision = "bf16" if _has_bf16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch names no public test for a CPU's bf16 units.
    tests = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(test() for test in tests if test is not None)
