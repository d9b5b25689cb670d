"""What the tests of the latent space share."""

from pathlib import Path

import pytest

from tiny_runs import Command


@pytest.fixture
def run(tiny_train: Command, tmp_path: Path) -> Path:
    """A run of 8 images."""
    assert tiny_train(tmp_path / "run", "--images", "8") == 0
    return tmp_path / "run"
