"""Checkpoints: written whole or not at all, and never read when they are not whole."""

import contextlib
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from vitgan.engine import checkpoint as module
from vitgan.engine.checkpoint import (
    DESCRIPTION,
    TENSORS,
    DamagedCheckpoint,
    NewerCheckpoint,
    checkpoints,
    load_checkpoint,
    load_newest,
    prune,
    save_checkpoint,
)
from vitgan.engine.recipe import FORMAT
from vitgan.errors import UserError

DESCRIBED = {
    "seconds": 1.5,
    "recipe": {"type": "Recipe", "name": "é"},
    "classes": 0,
    "data": {"fingerprint": "f", "images": 7},
}


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"a.weight": torch.full((3, 2), value), "a.step": torch.tensor(value), "b": torch.empty(0)}


def save(run: Path, images: int) -> Path:
    return save_checkpoint(run, images, tensors(float(images)), DESCRIBED)


def flip_bit(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def newest(run: Path) -> tuple[int, list[str]]:
    said: list[str] = []
    found = load_newest(run, said.append)
    assert found is not None
    loaded, description = found
    assert torch.equal(loaded["a.weight"], torch.full((3, 2), float(description["images"])))
    return description["images"], said


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    folder = save(tmp_path, 128)
    loaded, description = load_checkpoint(folder)
    assert folder == tmp_path / "checkpoints" / "000000000128"
    assert loaded.keys() == tensors(0).keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors(128.0).items())
    assert description["images"] == 128
    assert description["seconds"] == 1.5
    assert description["recipe"] == DESCRIBED["recipe"]


def test_a_folder_holds_two_files_and_no_pickle(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    assert {path.name for path in folder.iterdir()} == {TENSORS, DESCRIPTION}
    json.loads((folder / DESCRIPTION).read_text())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000000001"]


def test_no_checkpoints_are_none(tmp_path: Path) -> None:
    assert load_newest(tmp_path, pytest.fail) is None


def test_the_order_is_that_of_the_images(tmp_path: Path) -> None:
    """It is so past the twelve digits of a name, too."""
    for images in (20, 3, 10**12, 7):
        save(tmp_path, images)
    assert [int(path.name) for path in checkpoints(tmp_path)] == [3, 7, 20, 10**12]


def truncate(folder: Path) -> None:
    path = folder / TENSORS
    path.write_bytes(path.read_bytes()[:-1])


def newer_checksum(folder: Path) -> None:
    """Replace the tensors by sound ones of another run, which the checksum is not of."""
    shutil.copy(save(folder.parents[2] / "other", 5) / TENSORS, folder / TENSORS)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated tensors": truncate,
    "empty tensors": lambda folder: (folder / TENSORS).write_bytes(b""),
    "a flipped bit in the tensors' header": lambda folder: flip_bit(folder / TENSORS, 0.1),
    "a flipped bit in the last tensor": lambda folder: flip_bit(folder / TENSORS, 1.0),
    "no tensors": lambda folder: (folder / TENSORS).unlink(),
    "other tensors": newer_checksum,
    "no description": lambda folder: (folder / DESCRIPTION).unlink(),
    "empty description": lambda folder: (folder / DESCRIPTION).write_bytes(b""),
    "garbage for a description": lambda folder: (folder / DESCRIPTION).write_bytes(b"\xff\x00{"),
    "a list for a description": lambda folder: (folder / DESCRIPTION).write_text("[1]"),
    "a number for a description": lambda folder: (folder / DESCRIPTION).write_text("7"),
    "another image count": lambda folder: (folder / DESCRIPTION).write_text(
        (folder / DESCRIPTION).read_text().replace('"images": 30', '"images": 31')
    ),
    "nothing at all": lambda folder: [path.unlink() for path in folder.iterdir()],
    "a folder in place of the tensors": lambda folder: [
        (folder / TENSORS).unlink(),
        (folder / TENSORS).mkdir(),
    ],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_newest_gives_the_one_before(damage: Callable[[Path], object], tmp_path: Path) -> None:
    for images in (10, 20, 30):
        save(tmp_path, images)
    damage(tmp_path / "checkpoints" / "000000000030")
    images, said = newest(tmp_path)
    assert images == 20
    assert len(said) == 1
    assert "000000000030 is damaged" in said[0]
    with pytest.raises(DamagedCheckpoint):
        load_checkpoint(tmp_path / "checkpoints" / "000000000030")


def test_every_single_bit_of_a_description_counts(tmp_path: Path) -> None:
    """A flipped bit is noticed, unless it leaves what is read as it was (white space between values)."""
    path = save(tmp_path, 1) / DESCRIPTION
    before, good = path.read_bytes(), load_checkpoint(path.parent)[1]
    for at in range(0, len(before), 3):
        path.write_bytes(before[:at] + bytes([before[at] ^ (1 << at % 8)]) + before[at + 1 :])
        with contextlib.suppress(DamagedCheckpoint):
            assert load_checkpoint(path.parent)[1] == good


def test_all_damaged_is_refused(tmp_path: Path) -> None:
    for images in (10, 20):
        truncate(save(tmp_path, images))
    with pytest.raises(UserError, match="Every checkpoint"):
        load_newest(tmp_path, pytest.fail)
    assert len(checkpoints(tmp_path)) == 2


@pytest.fixture
def save_newer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], None]:
    """A function that saves a checkpoint whose format number is one above the present one."""

    def save_it(run: Path, images: int) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(module, "FORMAT", FORMAT + 1)
            save(run, images)

    return save_it


def test_of_a_newer_format_the_one_before_is_used(save_newer: Callable, tmp_path: Path) -> None:
    save(tmp_path, 10)
    save_newer(tmp_path, 20)
    truncate(save(tmp_path, 30))
    images, said = newest(tmp_path)
    assert images == 10
    assert len(said) == 2
    assert "000000000030 is damaged" in said[0]
    assert (
        f"newer vitgan (format {FORMAT + 1}; this one knows {FORMAT}): upgrade with `pip install" in said[1]
    )
    assert said[1].endswith("; using the one before it.")


def test_a_newer_format_alone_is_refused(save_newer: Callable, tmp_path: Path) -> None:
    save_newer(tmp_path, 20)
    truncate(save(tmp_path, 30))
    with pytest.raises(NewerCheckpoint, match=rf"format {FORMAT + 1}.*pip install --upgrade vitgan"):
        load_newest(tmp_path, pytest.fail)


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    for images in (1, 2, 3, 4):
        save(tmp_path, images)
    prune(tmp_path, 2, newest=4)
    assert [int(path.name) for path in checkpoints(tmp_path)] == [3, 4]


def test_prune_keeps_what_was_just_written_below_a_damaged_one(tmp_path: Path) -> None:
    """A damaged checkpoint at 30 must not push out the good one at 25."""
    for images in (10, 20, 25, 30):
        save(tmp_path, images)
    truncate(tmp_path / "checkpoints" / "000000000030")
    prune(tmp_path, 1, newest=25)
    assert newest(tmp_path)[0] == 25
    assert [int(path.name) for path in checkpoints(tmp_path)] == [25, 30]


def test_prune_leaves_other_folders_and_takes_interrupted_writes(tmp_path: Path) -> None:
    save(tmp_path, 1)
    copy, rest = tmp_path / "checkpoints" / "000000000001.mine", tmp_path / "checkpoints" / ".2.9.tmp"
    copy.mkdir()
    rest.mkdir()
    save(tmp_path, 2)
    prune(tmp_path, 1, newest=2)
    assert copy.is_dir()
    assert not rest.exists()
    assert [int(path.name) for path in checkpoints(tmp_path)] == [2]


def test_the_same_count_again_replaces_a_damaged_one(tmp_path: Path) -> None:
    truncate(save(tmp_path, 5))
    save(tmp_path, 5)
    assert newest(tmp_path) == (5, [])


def test_a_full_disk_in_the_tensors_is_an_oserror_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The library below gives its own exception, without a number."""
    save(tmp_path, 1)

    def full(_tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError) as caught:
        save(tmp_path, 2)
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000000001"]


def test_a_full_disk_in_the_description_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save(tmp_path, 2)

    def full(_path: Path, _text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_write_synced", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 2)
    assert newest(tmp_path) == (2, [])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000000002"]
