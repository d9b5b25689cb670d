"""What a run sets in its process: threads, and what malloc keeps."""

import platform
import resource

import pytest
import torch

from vitgan.engine.memory import keep_freed_memory
from vitgan.engine.train import threads


def test_threads_are_set_within_and_restored():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with threads(None):
        assert torch.get_num_threads() == before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_most_large_blocks_are_not_cleared_again():
    """Blocks of 64 MiB, made and freed: fewer than half of their pages are asked for anew."""
    assert keep_freed_memory()
    blocks, pages = 16, 2**26 // resource.getpagesize()
    for _ in range(blocks):
        torch.empty(2**24).fill_(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(blocks):
        torch.empty(2**24).fill_(1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < blocks * pages / 2
