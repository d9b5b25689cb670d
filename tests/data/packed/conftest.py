"""Fixtures of the tests of packed folders: a source, and the folder that it is packed into."""

from pathlib import Path

import pytest

from packings import fill_folder, packing


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A folder of images in three classes."""
    return fill_folder(tmp_path / "source")


@pytest.fixture
def packed(source: str, tmp_path: Path) -> Path:
    """The folder into which `source` was packed."""
    assert packing(source, tmp_path / "packed")
    return tmp_path / "packed"
