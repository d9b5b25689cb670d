"""The machine that a run is on: its hardware and software, and the memory of the process."""

import ctypes
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

import numpy as np
import torch

from vitgan.compat import usable_cores

GIBIBYTE = 2**30


def environment(device: torch.device) -> dict[str, str]:
    """Versions and hardware, by name in the order to show them; of the GPU only where `device` is one.

    No value identifies the host.
    """
    facts = {
        "vitgan": importlib.metadata.version("vitgan"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": str(device),
        "processor": _processor(),
        "cores": f"{usable_cores()} usable of {os.cpu_count()}",
        "threads": str(torch.get_num_threads()),
    }
    if memory := _memory():
        facts["memory"] = _gibibytes(memory)
    return facts | (_gpu(device) if device.type == "cuda" else {})


def _gpu(device: torch.device) -> dict[str, str]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "gpu memory": _gibibytes(properties.total_memory),
        "cuda": str(torch.version.cuda),
    }


def _processor() -> str:
    if platform.system() == "Linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    elif platform.system() == "Darwin":
        asked = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        names = [asked.stdout.strip()]
    else:
        names = []
    # ARM kernels give no model name.
    return next(filter(None, names), platform.processor() or platform.machine())


def _memory() -> int | None:
    """The machine's memory in bytes; None where the system does not say (Windows)."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _gibibytes(size: int) -> str:
    return f"{size / GIBIBYTE:.1f} GiB"


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
NEVER = -1
LARGEST = 2**30  # bytes; glibc's own largest threshold is 32 MiB, less than one activation of 32x32 images


def keep_freed_memory() -> bool:
    """Make glibc's malloc serve blocks up to 1 GiB from its heap and keep them; False without glibc.

    Training steps then reuse their pages. By default each large block is mapped and unmapped, and the system
    zeroes its pages every time, which takes a third of a `cifar10-small` step (docs/decisions.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))


def resident(*, highest: bool = False) -> int | None:
    """Resident memory of this process in bytes, now or at its peak; None where the system does not say.

    It is read from /proc, as the peak of getrusage includes that of the process which started this one.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(rf"{'VmHWM' if highest else 'VmRSS'}:\s+(\d+) kB", status)
    return None if found is None else int(found[1]) * 1024


def peak(device: torch.device) -> int | None:
    """Peak memory so far in bytes: of the GPU where `device` is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident(highest=True)
