"""Checkpoints: one folder each, of a safetensors file and a JSON file, both under checksum; no pickle.

`RUN/checkpoints/000000012800/{tensors.safetensors, checkpoint.json}`, named by images seen. A folder is
written under a temporary name and renamed, so that a checkpoint is there whole or not at all.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitgan.errors import UserError

FORMAT = 1
TENSORS, DESCRIPTION = "tensors.safetensors", "checkpoint.json"


class DamagedCheckpoint(Exception):
    """A checkpoint that is not whole, with the reason."""


def save_checkpoint(
    run: Path, images_seen: int, tensors: dict[str, Tensor], description: dict[str, Any]
) -> Path:
    """Write one checkpoint of `run` and return its folder.

    Raises OSError with its `errno` (ENOSPC for a full disk), and then leaves nothing behind.
    """
    return write_checkpoint(run / "checkpoints" / f"{images_seen:012d}", images_seen, tensors, description)


def write_checkpoint(
    final: Path, images_seen: int, tensors: dict[str, Tensor], description: dict[str, Any]
) -> Path:
    """Write a checkpoint as the folder `final`; errors as `save_checkpoint`."""
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    final.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        _write_tensors(temporary / TENSORS, tensors)
        checksum = _sha256(temporary / TENSORS)
        body = {"format": FORMAT, "images": images_seen, **description, "sha256": checksum}
        _write_synced(
            temporary / DESCRIPTION, json.dumps({"checkpoint": body, "sha256": _json_sha256(body)}, indent=1)
        )
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _sync(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description of one checkpoint. Raises DamagedCheckpoint when it is not whole."""
    body = load_description(folder)
    try:
        if _sha256(folder / TENSORS) != body["sha256"]:
            raise DamagedCheckpoint(f"{TENSORS} does not match its checksum")
        return load_file(folder / TENSORS), body
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{TENSORS} is missing") from error
    except (OSError, SafetensorError) as error:
        raise DamagedCheckpoint(f"{TENSORS} cannot be read ({error})") from error


def load_description(folder: Path) -> dict[str, Any]:
    """What `checkpoint.json` says. Raises DamagedCheckpoint, or UserError for a newer format."""
    try:
        whole = json.loads((folder / DESCRIPTION).read_bytes())
        body, checksum = whole["checkpoint"], whole["sha256"]
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{DESCRIPTION} is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{DESCRIPTION} cannot be read ({error})") from error
    if checksum != _json_sha256(body):
        raise DamagedCheckpoint(f"{DESCRIPTION} does not match its checksum")
    if body["format"] > FORMAT:
        raise UserError(
            f"{folder} was written by a newer vitgan (format {body['format']}): "
            "upgrade with `pip install --upgrade vitgan`."
        )
    return body


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first. A copy that someone has renamed is not one."""
    return numbered(run / "checkpoints")


def numbered(folder: Path) -> list[Path]:
    """The folders in `folder` that are named by a number of images, in its order."""
    named = (path for path in folder.glob("[0-9]*") if path.name.isdecimal() and path.is_dir())
    return sorted(named, key=lambda path: int(path.name))


def load_newest(run: Path, tell: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that is whole, None if there is none at all; `tell` hears of each damaged one.

    Raises UserError when there are checkpoints and every one of them is damaged, or one is of a newer format.
    """
    damages: list[str] = []
    for folder in reversed(checkpoints(run)):
        try:
            whole = load_checkpoint(folder)
        except DamagedCheckpoint as damage:
            damages.append(f"Checkpoint {folder.name} is damaged ({damage}); using the one before it.")
            continue
        for line in damages:
            tell(line)
        return whole
    if damages:
        raise UserError(f"Every checkpoint in {run / 'checkpoints'} is damaged: move it away to start again.")
    return None


def prune(run: Path, keep: int, *, newest: int) -> None:
    """Delete all but the last `keep` checkpoints up to `newest` images, and what interrupted writes left.

    One beyond `newest` is damaged, else the run would have gone on from it: counted in, it would push out a
    good one.
    """
    whole = [folder for folder in checkpoints(run) if int(folder.name) <= newest]
    for folder in whole[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)
    for left in (run / "checkpoints").glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # it wraps what the system says, "… (os error 28)" for a full disk
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    _sync(path)


def _write_synced(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, nor a file synced for reading
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json_sha256(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
