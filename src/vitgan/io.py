"""Files that are written whole or not at all, and JSON that is read strictly."""

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from vitgan.errors import UserError
from vitgan.terminal import STDOUT, json_of

MOST_BYTES = 64 * 2**20
DEEPEST = 50  # levels of lists and objects; a recipe has 4


def read_json(path: Path) -> Any:
    """The value that a JSON file holds.

    Raises OSError where it cannot be read, and ValueError as `parse_json` does, or where it is above 64 MiB.
    """
    if path.exists() and not path.is_file():  # a pipe would never end
        raise OSError(f"{path.name} is no file")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES // 2**20} MiB")
    return parse_json(content)


def parse_json(content: bytes) -> Any:
    """The value that a JSON document says. Raises ValueError, with a clause that says what is wrong with it.

    Beside what is no JSON these are refused: a key that is given twice, half of a surrogate pair (which
    cannot be printed), and lists and objects within one another more than 50 levels deep. The halves U+DC80
    to U+DCFF pass: in the name of a file Python has them in place of bytes that are not UTF-8.
    """
    try:
        text = content.decode(json.detect_encoding(content))
        value = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(value)
    if re.search(r"\\u[dD][89a-fA-F]", text):
        _check_surrogates(value)
    return value


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """The SHA-256 of a value's JSON, its keys sorted, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sealed(key: str, body: Any) -> dict[str, Any]:
    """A JSON object with `body` under `key` and, under "sha256", the checksum of the body's own JSON."""
    return {key: body, "sha256": sha256_of_json(body)}


def read_sealed(path: Path, key: str) -> Any:
    """The body that `sealed` put under `key`, read from the file `path`.

    Raises OSError, or ValueError with a clause that says why the file is not whole.
    """
    return unsealed(read_json(path), key)


def unsealed(whole: Any, key: str) -> Any:
    """The body that `sealed` put under `key`, from JSON that has been read.

    Raises ValueError, with a clause that says why, where it is not whole.
    """
    if not isinstance(whole, dict) or key not in whole or "sha256" not in whole:
        raise ValueError(f"it lacks {key} or sha256")
    if whole["sha256"] != sha256_of_json(whole[key]):
        raise BrokenSeal
    return whole[key]


class BrokenSeal(ValueError):
    """A JSON object that has both a body and a checksum, which do not match."""

    def __init__(self) -> None:
        super().__init__("it does not match its checksum")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"it has the key {twice[:100]!r} twice")
    return found


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [part for item in level for part in _parts(item)]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _parts(item: Any) -> Any:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list) else ()


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("it has half of a surrogate pair") from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An atomic write: gives a temporary path beside `path`, and renames it to `path` if nothing is raised.

    So `path` holds the old content or the whole new one, never half of it. The temporary file is deleted
    where an error is raised.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path | None) -> None:
    """Raise UserError where no file `path` can be written, before minutes are spent on what is to be in it.

    The folders that lead there are made. None and `STDOUT` name no file and always pass.
    """
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


def write_text(path: Path, text: str) -> None:
    """Write `text` to the file `path` in UTF-8, atomically; what UTF-8 cannot hold becomes an escape."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_json(path: Path | None, value: Any) -> None:
    """Write `value` as JSON to the file `path`, atomically; nothing where `path` is None or `STDOUT`."""
    if path is None or path == STDOUT:
        return
    write_text(path, json_of(value) + "\n")


def try_lock(file: IO[Any]) -> bool:
    """Take the exclusive lock of an open file for this process; False where another process has it.

    It is held until the file is closed or the process ends; processes that this one has forked do not hold
    it. True, without any lock, where there are none: on Windows and on some network file systems.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)  # else a file system without locks
    return True


def home() -> Path:
    """The user's home folder; where there is none, a folder of the user's own among the temporary ones.

    A container that is started with the number of a user it does not know, and without HOME, has none.
    """
    with contextlib.suppress(RuntimeError):
        return Path.home()
    own = Path(tempfile.gettempdir()) / f"vitgan-{os.getuid()}"
    with contextlib.suppress(OSError):
        own.mkdir(mode=0o700, exist_ok=True)
        found = own.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return own
    return Path(tempfile.mkdtemp(prefix="vitgan-"))  # somebody else has made that folder
