"""What the tests of packed folders share."""

from pathlib import Path

import pytest

from packings import fill_folder, packing


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A folder of images in three classes."""
    return fill_folder(tmp_path / "source")


@pytest.fixture
def packed(source: str, tmp_path: Path) -> Path:
    """It, packed."""
    assert packing(source, tmp_path / "packed")
    return tmp_path / "packed"
