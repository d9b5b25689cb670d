"""What a run sets in its process: threads, and what malloc keeps."""

import platform
import resource
import subprocess
import sys

import pytest
import torch

from vitgan.engine.train import threads


def test_threads_are_set_within_and_restored():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with threads(None):
        assert torch.get_num_threads() == before


BLOCKS = 16
OF_64_MIB = f"""
import resource
import torch
from vitgan.engine.environment import keep_freed_memory

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

assert keep_freed_memory()
for _ in range({BLOCKS}):
    torch.empty(2**24).fill_(1)
before = pages()
for _ in range({BLOCKS}):
    torch.empty(2**24).fill_(1)
print(pages() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_most_large_blocks_are_not_cleared_again():
    """Of blocks made and freed in a process of their own, fewer than half of the pages are asked for anew."""
    done = subprocess.run([sys.executable, "-c", OF_64_MIB], capture_output=True, text=True, check=True)
    assert int(done.stdout) < BLOCKS * 2**26 / resource.getpagesize() / 2
