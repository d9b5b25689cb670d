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

from vitgan.engine.description import whole_number, wrong_field
from vitgan.errors import UserError
from vitgan.json_text import read_json

FORMAT, MOST_FORMAT = 1, 10**6
TENSORS, DESCRIPTION = "tensors.safetensors", "checkpoint.json"


class DamagedCheckpoint(Exception):
    """A checkpoint that is not whole, with the reason."""


class NewerCheckpoint(UserError):
    """A checkpoint of a format that this version does not know."""


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
    """The tensors and the description of one checkpoint.

    Raises DamagedCheckpoint when it is not whole, NewerCheckpoint for a newer format.
    """
    body = load_description(folder)
    try:
        if not (folder / TENSORS).is_file():
            raise DamagedCheckpoint(f"{TENSORS} is missing")
        if _sha256(folder / TENSORS) != body["sha256"]:
            raise DamagedCheckpoint(f"{TENSORS} does not match its checksum")
        return load_file(folder / TENSORS), body
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:
        # Of a header that is right in itself and names a type that this torch lacks, too.
        raise DamagedCheckpoint(f"{TENSORS} cannot be read ({_clause(error)})") from error


def load_description(folder: Path) -> dict[str, Any]:
    """What `checkpoint.json` says, its fields and their types checked; not whether its recipe can be built.

    Raises DamagedCheckpoint, or NewerCheckpoint for a newer format.
    """
    try:
        whole = read_json(folder / DESCRIPTION)
        body, checksum = whole["checkpoint"], whole["sha256"]
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{DESCRIPTION} is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{DESCRIPTION} cannot be read ({_clause(error)})") from error
    if checksum != _json_sha256(body):
        raise DamagedCheckpoint(f"{DESCRIPTION} does not match its checksum")
    _check_format(folder, body)
    if (field := wrong_field(body)) is not None:
        raise DamagedCheckpoint(f"{DESCRIPTION} lacks the field {field}, or has a wrong one")
    return {"rollbacks": 0, **body}


def _check_format(folder: Path, body: Any) -> None:
    if not isinstance(body, dict) or not whole_number(1, MOST_FORMAT)(body.get("format")):
        raise DamagedCheckpoint(f"{DESCRIPTION} lacks the field format, or has a wrong one")
    if body["format"] > FORMAT:
        raise NewerCheckpoint(
            f"{folder} was written by a newer vitgan (format {body['format']}): "
            "upgrade with `pip install --upgrade vitgan`."
        )


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first. A copy that someone has renamed is not one."""
    return numbered(run / "checkpoints")


def numbered(folder: Path) -> list[Path]:
    """The folders in `folder` that are named by a number of images, in its order."""
    named = (path for path in folder.glob("[0-9]*") if path.name.isdecimal() and path.is_dir())
    return sorted(named, key=lambda path: int(path.name))


def load_newest(run: Path, tell: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that can be read, None if there is none at all; `tell` hears of each other one.

    One is passed over that is damaged, or of a newer format. Raises UserError when all are.
    """
    passed_over: list[str] = []
    newer: NewerCheckpoint | None = None
    for folder in reversed(checkpoints(run)):
        try:
            whole = load_checkpoint(folder)
        except DamagedCheckpoint as damage:
            passed_over.append(f"Checkpoint {folder.name} is damaged ({damage}); using the one before it.")
        except NewerCheckpoint as error:
            newer = newer or error
            passed_over.append(f"{str(error).rstrip('.')}; using the one before it.")
        else:
            for line in passed_over:
                tell(line)
            return whole
    if newer is not None:
        raise newer
    if passed_over:
        raise UserError(f"Every checkpoint in {run / 'checkpoints'} is damaged: move it away to start again.")
    return None


def prune(run: Path, keep: int, *, newest: int, for_good: Callable[[int], bool] = lambda _: False) -> None:
    """Delete all but the last `keep` checkpoints up to `newest` images, and what interrupted writes left.

    Those whose number of images is `for_good` stay.

    One beyond `newest` is damaged, else the run would have gone on from it: counted in, it would push out a
    good one.
    """
    whole = [folder for folder in checkpoints(run) if int(folder.name) <= newest]
    for folder in whole[:-keep]:
        if for_good(int(folder.name)):
            continue
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


def _clause(error: Exception) -> str:
    """What `error` says, short, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
