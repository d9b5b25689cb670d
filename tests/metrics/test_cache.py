"""The cache of measurements: what is hit, what is missed, and what is never trusted."""

import logging
from pathlib import Path

import pytest
import torch

from vitgan.io import replacing
from vitgan.metrics.protocol import Cache, cache_folder, key_of

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.float64).t()}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path)
    cache.save("real", "k", TENSORS, {"source": "digits"})
    return cache


def test_what_was_saved_is_read_bit_for_bit(cache: Cache) -> None:
    entry = cache.load("real", "k")
    assert entry is not None
    assert entry[1] == {"source": "digits"}
    assert entry[0].keys() == TENSORS.keys()
    assert all(torch.equal(entry[0][name], tensor) for name, tensor in TENSORS.items())
    assert cache.load("real", "other") is None
    assert cache.load("classifier", "k") is None


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_entry_counts_as_none_and_is_told(
    cache: Cache, suffix: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = cache.folder / f"real-k.{suffix}"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        position = content.index(b"digits") if suffix == "json" else len(content) - 2
        content[position] ^= 1
    path.write_bytes({"flip": content, "cut": content[:-9], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert cache.load("real", "k") is None
    assert "damaged" in caplog.text
    cache.save("real", "k", TENSORS, {})
    assert cache.load("real", "k") is not None


def test_half_of_an_entry_counts_as_none(cache: Cache) -> None:
    (cache.folder / "real-k.safetensors").unlink()
    assert cache.load("real", "k") is None


def test_tensors_of_another_entry_are_not_taken(cache: Cache) -> None:
    cache.save("real", "m", {"a": torch.zeros(1)}, {})
    (cache.folder / "real-m.safetensors").replace(cache.folder / "real-k.safetensors")
    assert cache.load("real", "k") is None


def test_nothing_is_left_beside_an_entry_and_an_interrupted_write_keeps_the_old(cache: Cache) -> None:
    path = cache.folder / "real-k.json"
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == before
    assert sorted(file.name for file in cache.folder.iterdir()) == ["real-k.json", "real-k.safetensors"]


def test_a_folder_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        Cache(tmp_path / "file").save("real", "k", TENSORS, {})
    assert "cannot be written" in caplog.text


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VITGAN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "vitgan"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/vitgan")
    monkeypatch.setenv("VITGAN_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own"


def test_a_key_is_of_every_part() -> None:
    keys = {key_of(a=1, b="x"), key_of(a=2, b="x"), key_of(a=1, b="y"), key_of(a=1, c="x")}
    assert len(keys) == 4
    assert key_of(a=1, b="x") == key_of(b="x", a=1)
