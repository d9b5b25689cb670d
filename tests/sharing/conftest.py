"""What the tests of exported generators share."""

import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from sizes import TINY
from vitgan.cli import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images seen of thirteen."""
    folder = tmp_path_factory.mktemp("sharing")
    images = np.random.default_rng(0).integers(0, 256, (13, 8, 8), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    words = ["train", "digits", "--data", str(folder / "images.npy"), "--out", str(folder / "run")]
    with mock.patch("vitgan.engine.report.panels", return_value=[]):
        assert main([*words, "--images", "12", "--device", "cpu", "--quiet", *TINY]) == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


@pytest.fixture
def exported(run: Path, tmp_path: Path) -> Path:
    assert main(["export", str(run), "--out", str(tmp_path / "exported")]) == 0
    return tmp_path / "exported"
