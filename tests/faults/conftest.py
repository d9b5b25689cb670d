"""What the tests of runs share."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from runs import ALL_ON, Command, final


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, torch.Tensor]]:
    """straight(train, images) is the state after `images` images without a stop."""
    known: dict[int, dict[str, torch.Tensor]] = {}

    def run(train: Command, images: int) -> dict[str, torch.Tensor]:
        if images not in known:
            folder = tmp_path_factory.mktemp("straight")
            assert train(folder, "--images", str(images), *ALL_ON) == 0
            known[images] = final(folder)
        return known[images]

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a small disk needs Linux and root")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=4m"):
        pytest.skip(f"a small disk cannot be mounted here ({os.strerror(ctypes.get_errno())})")
    try:
        yield folder
    finally:
        libc.umount2(os.fsencode(folder), 2)  # lazily: a test that failed may hold a file
