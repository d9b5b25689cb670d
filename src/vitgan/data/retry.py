"""Retrying to read a set of images whose disk or server is out of reach, though nothing is damaged."""

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from vitgan.errors import UserError

logger = logging.getLogger("vitgan")
Result = TypeVar("Result")

# The numbers of an OSError that say that a disk or a server is gone, not that a file is damaged.
LOST = frozenset(
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENODEV", "ENXIO")
    if hasattr(errno, name)
)
PATIENCE = "VITGAN_DATA_PATIENCE"  # an environment variable, in seconds
DEFAULT_PATIENCE = 300.0  # seconds
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds; each pause is twice the one before


class Unreachable(Exception):
    """Raised where the disk or server that an image is read from cannot be reached.

    place: which it is; reason: why, as one clause.
    """

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(place, reason)
        self.place, self.reason = place, reason


@contextlib.contextmanager
def reaching(root: Path) -> Iterator[None]:
    """A context that turns an OSError into Unreachable where `root` is gone or its device fails."""
    try:
        yield
    except OSError as error:
        if error.errno in LOST or _is_gone(root):
            raise Unreachable(str(root), error.strerror or str(error)) from error
        raise


def _is_gone(root: Path) -> bool:
    """Whether `root` is missing or an empty folder, as the mount point of a disk that is gone is."""
    try:
        if not root.is_dir():
            return not root.exists()
        with os.scandir(root) as entries:
            return next(entries, None) is None
    except OSError:
        return True


class Patience:
    """Calls a function again, with growing pauses, while it raises Unreachable; one thread at a time waits.

    The pauses add up to the seconds of the environment variable VITGAN_DATA_PATIENCE, 300 unless it is set. A
    warning tells that the waiting begins, another that it is over.
    """

    def __init__(self) -> None:
        self._waiting = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, _state: dict[str, object]) -> None:
        self._waiting = threading.Lock()

    def __copy__(self) -> "Patience":
        return Patience()

    def __call__(self, read: Callable[[], Result]) -> Result:
        """What `read` returns. Raises UserError when it still raises Unreachable after all pauses."""
        with contextlib.suppress(Unreachable):
            return read()
        with self._waiting:
            return _wait(read, _patience())


def _wait(read: Callable[[], Result], patience: float) -> Result:
    waited, pause = 0.0, FIRST_PAUSE
    while True:
        try:
            result = read()
        except Unreachable as loss:
            if waited >= patience:
                raise UserError(
                    f"{loss.place} cannot be reached any more ({loss.reason}): see that it is there again; "
                    "the run goes on from its last checkpoint with the same command."
                ) from loss
            if not waited:
                text = "%s cannot be reached (%s): waiting for it, at most %.0f seconds."
                logger.warning(text, loss.place, loss.reason, patience)
            pause = min(pause, patience - waited)
            time.sleep(pause)
            waited, pause = waited + pause, min(2 * pause, LONGEST_PAUSE)
            continue
        if waited:
            logger.warning("It is back after %.0f seconds: going on.", waited)
        return result


def _patience() -> float:
    text = os.environ.get(PATIENCE) or str(DEFAULT_PATIENCE)
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(text)) < float("inf"):
            return seconds
    raise UserError(f"{PATIENCE} is {text!r}, but must be a number of seconds.")
