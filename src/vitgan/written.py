"""A file of JSON that a command is asked for: refused early, written whole."""

from pathlib import Path
from typing import Any

from vitgan.errors import UserError
from vitgan.replacing import replacing
from vitgan.terminal import STDOUT, json_of


def check_writable(path: Path | None) -> None:
    """Raise UserError now, and not after minutes of measuring; None and stdout are."""
    if path is None or path == STDOUT:
        return
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file with --json.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): name another with --json."
        ) from error


def write_json(path: Path | None, value: Any) -> None:
    """Write `value` to the file `path`, unless that is None or stdout."""
    if path is None or path == STDOUT:
        return
    with replacing(path) as temporary:
        temporary.write_text(json_of(value) + "\n", encoding="utf-8")
