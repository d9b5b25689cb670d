"""The machine that a run is on: its hardware and software, and the memory of the process."""

import ctypes
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

from vitgan.compat import usable_cores

if sys.platform != "win32":
    import resource

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


def return_freed_memory() -> None:
    """Give the pages that malloc keeps back to the system, and count the peak of memory anew from here.

    Nothing happens where the C library is not glibc or the system has no such count.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def free_memory() -> int | None:
    """Bytes of the machine's memory that this process can still take; None where the system does not say.

    The least of what the kernel says is available, what the container's control group has left, and what the
    limits of the process (`ulimit -v`, `ulimit -d`) leave.
    """
    if sys.platform == "win32":
        return None
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    known = [int(found[1]) * 1024] if found is not None else []
    known += [left for left in map(_left_in_group, _control_groups()) if left is not None]
    for name, limit in (("VmSize", resource.RLIMIT_AS), ("VmData", resource.RLIMIT_DATA)):
        most, taken = resource.getrlimit(limit)[0], re.search(rf"{name}:\s+(\d+) kB", status)
        if most != resource.RLIM_INFINITY and taken is not None:
            known.append(most - int(taken[1]) * 1024)
    return max(min(known), 0) if known else None


GROUPS = Path("/sys/fs/cgroup")


def _control_groups() -> Iterator[tuple[Path, str, str]]:
    """The control groups of this process that bound its memory: folder, and the files of limit and usage.

    Of version 2 that of the process and those above it; of version 1 that of the process. In a container
    either may be mounted as the root.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for _, names, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if names == "":
            inner = GROUPS / path.lstrip("/")
            for folder in {GROUPS, inner, *(one for one in inner.parents if GROUPS in one.parents)}:
                yield folder, "memory.max", "memory.current"
        elif "memory" in names.split(","):
            for folder in (GROUPS / "memory" / path.lstrip("/"), GROUPS / "memory"):
                yield folder, "memory.limit_in_bytes", "memory.usage_in_bytes"


def _left_in_group(group: tuple[Path, str, str]) -> int | None:
    """Bytes that a control group has left, its file cache counted as free; None where it has no limit."""
    folder, limit, usage = group
    try:
        most, taken = ((folder / name).read_text(encoding="ascii").strip() for name in (limit, usage))
        facts = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
    except (OSError, ValueError):
        return None
    if not most.isdigit() or int(most) > 2**60:
        return None
    cache = int(facts.get("total_inactive_file", facts.get("inactive_file", "0")))
    return int(most) - int(taken) + cache


@contextmanager
def within_memory(size: int | None) -> Iterator[None]:
    """A context within which this process cannot take more than `size` bytes beyond those that it has.

    More than that raises MemoryError, or torch's RuntimeError, where Linux would first grant it and then kill
    the process, or another one. Nothing happens where `size` is None or the system has no such limit.
    """
    status = Path("/proc/self/status")
    taken = re.search(r"VmData:\s+(\d+) kB", status.read_text("ascii")) if status.exists() else None
    if sys.platform == "win32" or size is None or taken is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    bounds = [size + int(taken[1]) * 1024, *(one for one in before if one != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


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
