"""Memory of the process: keep what is freed, and how much there is."""

import ctypes
import platform
import re
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
NEVER = -1
LARGEST = 2**30  # bytes; glibc's own largest threshold is 32 MiB, less than one activation of 32x32 images


def keep_freed_memory() -> bool:
    """Have glibc's malloc serve, and keep, blocks up to 1 GiB from its heap; False where there is no glibc.

    A step then does not ask the system for the same pages again. By default each larger block is mapped and
    unmapped, and the system clears its pages every time: a third of a `cifar10-small` step
    (docs/decisions.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))


def resident(*, highest: bool = False) -> int | None:
    """Bytes of this process in memory, now or at its highest; None where the system does not say.

    On Linux from /proc: getrusage would count what the process that started this one had in memory.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(rf"{'VmHWM' if highest else 'VmRSS'}:\s+(\d+) kB", status)
    return None if found is None else int(found[1]) * 1024


def peak(device: torch.device) -> int | None:
    """Bytes at the highest so far: of the GPU's memory where `device` is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident(highest=True)
