"""Keep freed memory in the process, so that a step does not ask the system for the same pages again."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
NEVER = -1
LARGEST = 2**30  # bytes; glibc's own largest threshold is 32 MiB, less than one activation of 32x32 images


def keep_freed_memory() -> bool:
    """Have glibc's malloc serve, and keep, blocks up to 1 GiB from its heap; False where there is no glibc.

    By default each larger block is mapped and unmapped, and the system clears its pages every time: a third
    of a `cifar10-small` step (docs/decisions.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
