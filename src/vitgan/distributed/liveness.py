"""How each process of a run learns that another is gone, and says so.

A collective that misses a rank fails late, or never, and does not say which rank it was. So every rank writes
a heartbeat to the store by which they met, once a second, and a thread of each reads those of the others.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as distributed

from vitgan.compat import process_group_store
from vitgan.distributed import collectives
from vitgan.errors import OtherRankError, UserError, one_line

SECONDS_BETWEEN_BEATS = 1.0
PATIENCE = 20.0  # seconds without a heartbeat after which a rank counts as lost
GRACE = 15.0  # seconds that the main thread has to end by itself once a rank is lost


class Liveness:
    """This rank's heartbeats, and a thread that watches those of the other ranks.

    Where a rank is lost the process ends with exit code 2, by itself or, where its main thread hangs in a
    collective, 15 seconds later. Of those that are left the first rank prints why.
    """

    def __init__(self) -> None:
        self.rank, self.ranks = collectives.rank(), collectives.world_size()
        store = process_group_store()
        self._store = store.clone() if hasattr(store, "clone") else store
        self._host, self._place = socket.gethostname(), _place()
        self._count, self._left, self._ending = 0, None, threading.Event()
        self._beat()
        distributed.barrier()
        self._known: dict[int, tuple[bytes, float]] = {}  # by rank: the last heartbeat, and when it came
        self._lost: dict[int, str] = {}
        self._silent: set[int] = set()  # the lost ranks that cannot print why
        self._found = threading.Event()
        with contextlib.suppress(RuntimeError):  # a store that is gone already is found out by the thread
            self._look()  # so that a rank which dies within the first second can be told by its process
        self._thread = threading.Thread(target=self._watch, name="liveness", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """A context that turns the error of a collective that misses a rank into a UserError naming it."""
        try:
            yield
        except UserError:
            raise
        except RuntimeError as error:
            if not self._found.wait(PATIENCE + 5):
                raise
            raise self._error() from error

    def leave(self, reason: str | None) -> None:
        """Tell the other ranks that this one ends: with its work done (None), or for the reason given."""
        self._ending.set()
        self._thread.join(5)
        self._left = reason or ""
        with contextlib.suppress(RuntimeError):  # the store may be gone with its machine
            self._beat()

    def _beat(self) -> None:
        self._count += 1
        own = {"host": self._host, "place": self._place, "pid": os.getpid()}
        beat = {"count": self._count, **own, "left": self._left}
        self._store.set(f"vitgan/beat/{self.rank}", json.dumps(beat))

    def _watch(self) -> None:
        failures = 0
        while not self._found.is_set() and not self._ending.wait(SECONDS_BETWEEN_BEATS):
            try:
                self._beat()
                self._look()
                failures = 0
            except RuntimeError as error:
                failures += 1
                if failures == 3:
                    self._lose_store(error)
        if self._found.is_set() and not self._ending.wait(GRACE):
            # The main thread hangs in a collective that no error ends.
            error = self._error()
            if not isinstance(error, OtherRankError):
                print(f"vitgan: {error}", file=sys.stderr, flush=True)
            os._exit(2)

    def _look(self) -> None:
        others = [rank for rank in range(self.ranks) if rank != self.rank]
        beats = self._store.multi_get([f"vitgan/beat/{rank}" for rank in others])
        now = time.monotonic()
        for rank, beat in zip(others, beats, strict=True):
            before, since = self._known.get(rank, (b"", now))
            if beat != before:
                before, since = beat, now
                self._known[rank] = (beat, now)
            self._judge(rank, json.loads(beat), now - since)

    def _judge(self, rank: int, beat: dict, silent: float) -> None:
        who = f"process {beat['pid']} on {beat['host']}"
        if beat["left"] is not None:
            if beat["left"]:
                self._lose(rank, f"({who}) stopped: {beat['left']}")
        elif beat["place"] == self._place and not _alive(beat["pid"]):
            self._silent.add(rank)
            self._lose(rank, f"({who}) died")
        elif silent > PATIENCE:
            self._silent.add(rank)
            self._lose(rank, f"({who}) has not answered for {silent:.0f} seconds")

    def _lose_store(self, error: Exception) -> None:
        """Count rank 0 as lost, in whose process the store is where torchrun does not keep it."""
        beat, _ = self._known.get(0, (b"", 0.0))
        if beat:
            self._judge(0, json.loads(beat), 0.0)
        self._silent.add(0)
        self._lose(0, f"cannot be reached at the meeting point ({one_line(error)})")

    def _lose(self, rank: int, what: str) -> None:
        self._lost.setdefault(rank, what)
        self._found.set()

    def _error(self) -> UserError:
        """The error that names the lost rank; an `OtherRankError` except on the first rank that is left."""
        rank, what = min(self._lost.items())
        end = "" if what.endswith(".") else "."
        text = f"Rank {rank} {what}{end} The others stop; the same command goes on from the last checkpoint."
        first = next(r for r in range(self.ranks) if r not in self._silent)
        return UserError(text) if first == self.rank else OtherRankError(text)


def _place() -> str:
    """A text that is the same for two processes if and only if they can see each other's process ids."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()


def _alive(pid: int) -> bool:
    """Whether the process with this id runs on this machine; a zombie, which has ended, does not."""
    if not Path("/proc/self/stat").exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            return True
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
