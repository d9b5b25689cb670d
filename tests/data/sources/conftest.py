"""Fixtures of the tests of streams: tar files, sets of the Hub's library, and a web server of tar files."""

import functools
import http.server
import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from streamed import COUNT, COUNTS, encoded, members, write_tar
from web_server import Server


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the DataLoader fork its workers, on every Python, so that they inherit what a test has patched."""
    if "fork" in multiprocessing.get_all_start_methods():
        forking = functools.partial(DataLoader, multiprocessing_context="fork")
        monkeypatch.setattr("vitgan.data.loader.DataLoader", forking)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder with three tar files of samples."""
    starts = np.cumsum([0, *COUNTS])
    for shard, start in enumerate(starts[:-1]):
        write_tar(tmp_path / f"set-{shard}.tar", members(range(start, start + COUNTS[shard])))
    return tmp_path


@pytest.fixture
def wds(shards: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The three tar files as one `wds:` source, shuffled in windows of at most four samples."""
    monkeypatch.setattr("vitgan.data.sources.streams.WINDOW_SAMPLES", 4)
    return f"wds:{shards}/set-{{0..2}}.tar"


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An `hf:` source out of a folder of images, one sub-folder for each of its two classes."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("VITGAN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr("vitgan.data.sources.streams.WINDOW_SAMPLES", 4)
    for number in range(COUNT):
        place = tmp_path / "hub" / "train" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:02d}.png").write_bytes(encoded(number))
    return f"hf:{tmp_path / 'hub'}"


@pytest.fixture
def hub_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An `hf:` source with the same images and labels, in two parquet files."""
    library: Any = pytest.importorskip("datasets")
    monkeypatch.setenv("VITGAN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr("vitgan.data.sources.streams.WINDOW_SAMPLES", 4)
    kinds = library.Features({"label": library.ClassLabel(names=["cat", "dog"]), "picture": library.Image()})
    for part, found in enumerate((range(7), range(7, COUNT))):
        rows = {
            "label": [n % 2 for n in found],
            "picture": [{"bytes": encoded(n), "path": None} for n in found],
        }
        (tmp_path / "tables").mkdir(exist_ok=True)
        table = library.Dataset.from_dict(rows, features=kinds)
        table.to_parquet(tmp_path / "tables" / f"train-{part}.parquet")
    return f"hf:{tmp_path / 'tables'}"


@pytest.fixture
def server(
    shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[str, type[Server]]]:
    """The `wds:` source of the three tar files on a local web server, and the server's handler."""
    monkeypatch.setenv("VITGAN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr("vitgan.data.sources.tars.PAUSES", (0.0, 0.0, 0.0))
    handler = type("Handler", (Server,), {"folder": str(shards), "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"wds:http://127.0.0.1:{running.server_address[1]}/set-{{0..2}}.tar", handler
        running.shutdown()
        thread.join()
