"""Packing on a disk that fills, and from a folder that goes away."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tiny_runs import fill
from vitgan.cli import main
from vitgan.data import open_source
from vitgan.data.packed.index import Plan
from vitgan.data.packed.writer import pack as pack_source
from vitgan.data.packed.writer import plan_of
from vitgan.data.sources import Source
from vitgan.errors import UserError

pytestmark = pytest.mark.faults

SIDE, COUNT = 256, 24  # five images to a shard of 1 MiB


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "source").mkdir()
    for number in range(COUNT):
        picture = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        picture.save(tmp_path / "source" / f"{number:02d}.bmp")
    return tmp_path / "source"


def pack(source: Path, out: Path) -> int:
    return main(["data", "pack", str(source), str(out), "--shard-mib", "1", "--workers", "0"])


@pytest.mark.parametrize("full", [True, False], ids=["from the start", "after four shards"])
def test_a_full_disk_keeps_whole_shards_and_the_same_command_goes_on(
    full: bool, source: Path, small_disk: Path, tmp_path: Path, refused: Callable
) -> None:
    """The small disk has room for four shards of 960 KiB; the packing is resumed on another disk."""
    if full:
        fill(small_disk)
    for _ in range(2):
        said = refused(pack(source, small_disk / "packed"), alone=False)
        assert "is full: delete what you do not need there and give the same command again" in said
        assert f"{0 if full else 4} whole shards are kept" in said
    assert not list((small_disk / "packed").glob(".images*"))
    kept = sorted(path.name for path in (small_disk / "packed").glob("images*"))
    assert len(kept) == (0 if full else 4)
    shutil.copytree(small_disk / "packed", tmp_path / "moved")
    assert pack(source, tmp_path / "moved") == 0
    assert pack(source, tmp_path / "whole") == 0
    files = [sorted((tmp_path / name).glob("*.*")) for name in ("moved", "whole")]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def begun(source: Path) -> tuple[Source, Plan]:
    """The opened source, and the plan by which it is packed."""
    found = open_source(str(source))
    return found, plan_of(found, str(source), resolution=8, channels=3, shard_mib=1)


def test_a_source_that_goes_away_for_a_while_is_waited_for(source: Path, tmp_path: Path) -> None:
    found, plan = begun(source)
    source.rename(tmp_path / "away")
    back = threading.Timer(1.2, lambda: (tmp_path / "away").rename(source))
    back.start()
    began = time.monotonic()
    assert pack_source(found, tmp_path / "packed", plan, workers=0, progress=lambda _done: None)
    assert time.monotonic() - began > 1
    back.join()
    assert len(open_source(str(tmp_path / "packed"))) == COUNT
    assert (tmp_path / "packed" / "skipped.jsonl").read_bytes() == b""


def test_a_source_that_stays_away_ends_it_and_the_same_command_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITGAN_DATA_PATIENCE", "0.2")
    found, plan = begun(source)
    source.rename(tmp_path / "away")
    with pytest.raises(UserError, match=str(source)):
        pack_source(found, tmp_path / "packed", plan, workers=0, progress=lambda _done: None)
    (tmp_path / "away").rename(source)
    assert pack_source(found, tmp_path / "packed", plan, workers=0, progress=lambda _done: None)
    assert len(open_source(str(tmp_path / "packed"))) == COUNT
