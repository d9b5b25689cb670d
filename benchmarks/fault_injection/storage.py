"""Checkpoints that are damaged, and disks that are full."""

import ctypes
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fault_injection.kills import reference
from fault_injection.trial import Failed, Trial, fine, newest, refused, require, weights, whole
from vitgan.engine import loop as engine
from vitgan.engine.checkpoint import DESCRIPTION, TENSORS, checkpoints

Damage = Callable[[Trial, Path], object]


def truncate(trial: Trial, path: Path) -> None:
    """Cut the file somewhere."""
    os.truncate(path, trial.dice.randrange(1, path.stat().st_size))


def flip(trial: Trial, path: Path) -> None:
    """Turn one bit over."""
    content = bytearray(path.read_bytes())
    content[trial.dice.randrange(len(content))] ^= 1 << trial.dice.randrange(8)
    path.write_bytes(content)


def empty(_: Trial, path: Path) -> None:
    """Leave no byte."""
    path.write_bytes(b"")


def remove(_: Trial, path: Path) -> None:
    """Delete the file."""
    path.unlink()


def of_the_future(_: Trial, path: Path) -> None:
    """Say a newer format, under a checksum that is right."""
    path = path.with_name(DESCRIPTION)
    body = json.loads(path.read_text())["checkpoint"] | {"format": 7}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"checkpoint": body, "sha256": digest}))


def damaged(damage: Damage, said: str, times: int) -> Callable[[Trial], tuple[int, str]]:
    """The newest checkpoint of a run that has ended at half its way is damaged."""

    def test(trial: Trial) -> tuple[int, str]:
        undisturbed, _ = reference(trial)
        trial.clear()
        fine(trial.ended(trial.words("--images", 48)))
        half = trial.folder / "half"
        shutil.rmtree(half, ignore_errors=True)
        trial.run.rename(half)
        number = min(times, 2) if trial.quick else times
        for at in range(number):
            trial.clear()
            shutil.copytree(half, trial.run)
            damage(trial, checkpoints(trial.run)[-1] / (TENSORS, DESCRIPTION)[at % 2])
            text = fine(trial.ended(trial.words()))
            require(text.count(said) == 1, f"{said!r} is not said once: {text}")
            require("at 40 images" in text, f"it did not go on from the one before: {text}")
            whole(trial.run)
            require(weights(trial.run) == undisturbed, "other weights")
        return number, "found by its checksum, said in one line, the one before is used; bit for bit"

    return test


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=4m"):
        raise Failed(
            f"not tried: a small disk cannot be mounted ({os.strerror(ctypes.get_errno())}), be root"
        )
    try:
        yield folder
    finally:
        libc.umount2(os.fsencode(folder), 2)


def fill(disk: Path) -> None:
    """Take all that is free."""
    with (disk / "ballast").open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def full(place: str, kept: int) -> Callable[[Trial], tuple[int, str]]:
    """The disk becomes full when the run is about to write at 32 images; later it has room again."""

    def test(trial: Trial) -> tuple[int, str]:
        undisturbed, _ = reference(trial)
        with small_disk(trial.folder / "disk") as disk:
            run = disk / "run"

            def arm() -> None:
                real = getattr(engine.Run, place)

                def filling(self: engine.Run, *arguments) -> None:
                    if self.images_seen >= 32:
                        fill(disk)
                    real(self, *arguments)

                setattr(engine.Run, place, filling)

            line = f"The last checkpoint, at image {kept}, is kept"
            refused(trial.ended(trial.words(run=run), arm), "is full", "delete what you do not need", line)
            require(newest(run) == kept, f"the newest checkpoint is at {newest(run)} images")
            (disk / "ballast").unlink()
            fine(trial.ended(trial.words(run=run)))
            whole(run)
            require(weights(run) == undisturbed, "other weights")
        return (
            1,
            "says what is full and what to free; the last checkpoint is kept; with room again, bit for bit",
        )

    return test
