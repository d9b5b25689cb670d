"""Packing on a full disk, killed or run twice; packed folders that are damaged or link outside themselves."""

import contextlib
import errno
import hashlib
import itertools
import json
import logging
import os
import re
import select
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from tiny_runs import fill
from vitgan.cli import main
from vitgan.data import DataOptions
from vitgan.data.packed import writer as packing_module
from vitgan.data.packed.index import INDEX, shard_name
from vitgan.data.packed.reader import PACKING, open_packed
from vitgan.data.reading import read_image
from vitgan.data.sources import Source
from vitgan.errors import UserError

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]

SIDE, COUNT, SHARD, CHUNK = 6, 23, 5, 3  # images of the set, of a shard and of a task
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    real = packing_module.plan_of

    def plan_of(*arguments: Any, **named: Any) -> Any:
        return replace(real(*arguments, **named), shard_images=SHARD)

    monkeypatch.setattr(packing_module, "plan_of", plan_of)
    monkeypatch.setattr("vitgan.data.packed.shards.CHUNK_IMAGES", CHUNK)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(tmp_path / "source.npz", images=pixels, labels=np.arange(COUNT) % 3)
    return tmp_path / "source.npz"


@pytest.fixture
def packed(source: Path, tmp_path: Path) -> Path:
    assert pack(source, tmp_path / "packed") == 0
    return tmp_path / "packed"


def pack(source: Path, out: Path, workers: int = 0, *words: str) -> int:
    words = words or ("--quiet",)
    return main(["data", "pack", str(source), str(out), "--workers", str(workers), *words])


def half_packed(source: Path, out: Path) -> None:
    """Pack `source`, but interrupt it when three of its five shards are whole."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3 * SHARD, signal.SIGINT)
        assert pack(source, out) == 130
    assert len(list(out.glob("images-*.npy"))) == 3


def stop_at(patch: pytest.MonkeyPatch, images: int, number: signal.Signals) -> None:
    def told(_progress: object, done: int) -> None:
        if done >= images:
            signal.raise_signal(number)

    patch.setattr("vitgan.commands.data._Progress.__call__", told)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# A full disk


@pytest.mark.parametrize("workers", [0, 2])
def test_with_space_again_the_same_command_goes_on_in_the_same_folder(
    workers: int, source: Path, packed: Path, small_disk: Path, refused: Refused
) -> None:
    (small_disk / "packed").mkdir()
    fill(small_disk)
    said = refused(pack(source, small_disk / "packed", workers))
    assert f"The disk of {small_disk / 'packed'} is full: delete what you do not need there" in said
    (small_disk / "ballast").unlink()
    assert pack(source, small_disk / "packed", workers) == 0
    assert contents(small_disk / "packed") == contents(packed)


@pytest.mark.parametrize("operation", ["mkdir", "fsync", "rename", "replace"])
def test_a_disk_that_is_full_at_any_moment_is_told_and_costs_no_whole_shard(
    operation: str, source: Path, packed: Path, tmp_path: Path, refused: Refused
) -> None:
    out, kept, number, code = tmp_path / "out", 0, 0, 2
    while code:
        with pytest.MonkeyPatch.context() as patch:
            fail_call(patch, os if operation == "fsync" else Path, operation, number)
            code = pack(source, out)
        if code:
            assert f"The disk of {out} is full: delete what you do not need there" in refused(code)
            shards = len(list(out.glob("images-*.npy")))
            assert shards >= kept
            kept = shards
        number += 1
        if code and number % 3 == 0:
            shutil.rmtree(out, ignore_errors=True)
            kept = 0
    assert number > 2
    assert contents(out) == contents(packed)


def fail_call(patch: pytest.MonkeyPatch, owner: Any, operation: str, number: int) -> None:
    """Make call `number` (from 0) of an operation raise the OSError of a full disk."""
    real, calls = getattr(owner, operation), itertools.count()

    def call(*arguments: Any, **named: Any) -> Any:
        if next(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **named)

    patch.setattr(owner, operation, call)


# Ended from outside


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_whole_shards_alone_and_the_same_command_goes_on(
    number: signal.Signals,
    workers: int,
    source: Path,
    packed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 2 * SHARD + 1, number)
        assert pack(source, out, workers) == 130
    assert capsys.readouterr().err == "vitgan: Interrupted.\n"
    assert sorted(path.name for path in out.iterdir()) == [".lock", PACKING, shard_name(0), shard_name(1)]
    assert pack(source, out, workers) == 0
    assert contents(out) == contents(packed)


def test_a_converting_process_that_is_killed_is_told_and_the_same_command_goes_on(
    source: Path, packed: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, packer = tmp_path / "out", os.getpid()

    def read_or_die(source: Source, index: int, form: Any) -> Any:
        if index == 2 * SHARD + 2 and os.getpid() != packer:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_image(source, index, form)

    with monkeypatch.context() as patch:
        patch.setattr("vitgan.data.packed.shards.read_image", read_or_die)
        said = refused(pack(source, out, workers=1))
    assert "was killed, perhaps for want of memory: give the same command again with fewer --workers" in said
    assert not list(out.glob("*.tmp"))
    assert pack(source, out, workers=1) == 0
    assert contents(out) == contents(packed)


def test_a_packer_that_is_killed_takes_its_processes_along(source: Path, tmp_path: Path) -> None:
    """Every process holds the writing end of a pipe, so reading it ends when the last process has ended."""
    reading, writing = os.pipe()

    def tell_and_wait(_progress: object, done: int) -> None:
        if done >= CHUNK:
            os.write(writing, b"x")
            signal.pause()

    packer = os.fork()
    if packer == 0:
        try:
            os.setsid()
            with mock.patch("vitgan.commands.data._Progress.__call__", tell_and_wait):
                pack(source, tmp_path / "out", workers=2)
        finally:
            os._exit(1)
    os.close(writing)
    try:
        assert os.read(reading, 1) == b"x"
        os.kill(packer, signal.SIGKILL)
        os.waitpid(packer, 0)
        assert select.select([reading], [], [], 20)[0]
        assert os.read(reading, 1) == b""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(packer, signal.SIGKILL)
        os.close(reading)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *((shard_name(1), fault) for fault in ("cut", "missing")),
        *((f"{PACKING}/00001.json", fault) for fault in ("cut", "missing", "altered")),
        *((f"{PACKING}/00001.checksums", fault) for fault in ("cut", "missing", "altered")),
    ],
)
def test_what_is_damaged_in_a_half_packed_folder_is_packed_again(
    name: str, fault: str, source: Path, packed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    half_packed(source, out)
    spoil(out / name, fault)
    assert pack(source, out) == 0
    assert contents(out) == contents(packed)


def spoil(file: Path, fault: str) -> None:
    data = bytearray(file.read_bytes())
    if fault == "missing":
        file.unlink()
    elif fault == "cut":
        file.write_bytes(data[:-1])
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data)


def test_a_half_packed_folder_whose_plan_is_damaged_is_refused(
    source: Path, tmp_path: Path, refused: Refused
) -> None:
    half_packed(source, tmp_path / "out")
    spoil(tmp_path / "out" / PACKING / "plan.json", "altered")
    before = contents(tmp_path / "out")
    assert "holds a damaged packing: delete it and pack again" in refused(
        pack(source, tmp_path / "out"), alone=False
    )
    assert contents(tmp_path / "out") == before


def test_a_folder_that_another_process_finishes_just_before_is_left_as_it_is(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other process finishes after this one has checked the folder, before this one takes the lock."""
    out, look = tmp_path / "out", packing_module._check_out

    def look_and_be_late(*arguments: Any) -> None:
        look(*arguments)
        monkeypatch.setattr(packing_module, "_check_out", look)
        assert pack(source, out, 0, "--json") == 0

    monkeypatch.setattr(packing_module, "_check_out", look_and_be_late)
    assert pack(source, out, 0, "--json") == 0
    said = capsys.readouterr().out
    assert re.findall(r'"new": (\w+)', said) == ["true", "false"]
    assert len(open_packed("out", out)) == COUNT


# Damaged, or leading elsewhere


def test_packing_over_a_damaged_folder_says_where_to_pack_instead(
    source: Path, packed: Path, refused: Refused
) -> None:
    spoil(packed / shard_name(2), "cut")
    said = refused(pack(source, packed))
    assert f"{shard_name(2)} has 667 bytes, not 668): pack it again into another folder, or copy it" in said


@pytest.mark.parametrize(
    "place",
    ["../stolen.npy", "/etc/passwd", "sub/images-00001.npy", "images-00001.npy/..", "images-00002.npy"],
)
def test_an_index_that_leads_elsewhere_is_refused(place: str, packed: Path) -> None:
    shutil.copy(packed / shard_name(1), packed.parent / "stolen.npy")
    whole = json.loads((packed / INDEX).read_bytes())["packed"]
    whole["shards"][1]["file"] = place
    seal(packed, whole)
    with pytest.raises(UserError, match=r"is damaged \(index\.json has no valid file name\)"):
        open_packed("the set", packed)


def test_an_index_that_names_further_arrays_is_refused(packed: Path) -> None:
    whole = json.loads((packed / INDEX).read_bytes())["packed"]
    whole["arrays"]["../labels.npy"] = whole["arrays"]["labels.npy"]
    seal(packed, whole)
    with pytest.raises(UserError, match=r"is damaged \(index\.json has no valid arrays\)"):
        open_packed("the set", packed)


def seal(folder: Path, body: Any) -> None:
    """Write an index with this body and the checksum that belongs to it."""
    checksum = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (folder / INDEX).write_text(json.dumps({"packed": body, "sha256": checksum}))


@pytest.mark.parametrize("name", [shard_name(1), "checksums.npy", "labels.npy"])
def test_a_link_in_the_place_of_a_file_is_refused(name: str, packed: Path) -> None:
    (packed / name).rename(packed.parent / name)
    (packed / name).symlink_to(packed.parent / name)
    with pytest.raises(UserError, match=f"is damaged .{name} is a link"):
        open_packed("the set", packed)


@pytest.mark.parametrize("name", [shard_name(0), "skipped.jsonl"])
def test_verify_finds_what_opening_does_not_read(
    name: str, packed: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "skipped.jsonl":
        (packed / name).write_text("{}")
    else:
        spoil(packed / name, "altered")
    assert main(["data", "info", str(packed)]) == 0
    capsys.readouterr()
    assert f"has damaged files, {name}:" in refused(main(["data", "info", "--verify", str(packed)]))


@pytest.mark.parametrize(
    ("fault", "lost"),
    [("altered", [6]), ("cut", [9]), ("missing", [5, 6, 7, 8, 9])],
    ids=lambda value: str(value),
)
def test_damage_while_training_costs_the_damaged_images_alone(
    fault: str, lost: list[int], source: Path, packed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = DataOptions(source=str(packed), resolution=SIDE, memory_mib=0, workers=0)
    images, whole = options.build(), replace(options, source=str(source)).build()
    spoil(packed / shard_name(1), fault)
    used = [next(n for n in range(wanted, COUNT) if n not in lost) for wanted in range(COUNT)]
    with caplog.at_level(logging.WARNING, "vitgan"):
        for _ in range(2):
            assert torch.equal(images.get(range(COUNT)), whole.get(used))
    assert [item.name for item in images.skipped] == [f"image {n - SHARD} of {shard_name(1)}" for n in lost]
    assert len(caplog.records) == len(lost)
