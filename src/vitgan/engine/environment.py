"""What a run ran on: versions and hardware, so that a number can be believed later."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

GIBIBYTE = 2**30


def environment(device: torch.device) -> dict[str, str]:
    """Names and values, in the order to show them; of a GPU only if `device` is one. None names the host."""
    facts = {
        "vitgan": importlib.metadata.version("vitgan"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": str(device),
        "processor": _processor(),
        "cores": f"{_usable_cores()} usable of {os.cpu_count()}",
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


def _usable_cores() -> int:
    # Containers and batch systems often give a process fewer cores than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> int | None:
    """Bytes of memory of the machine; None where the system does not say (Windows)."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _gibibytes(size: int) -> str:
    return f"{size / GIBIBYTE:.1f} GiB"
