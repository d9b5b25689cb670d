"""The processes of one run: how they meet, and how each learns that another is gone.

torchrun starts them and says by environment variables who they are; without these a run has one process.
"""

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from vitgan import processes
from vitgan.errors import Elsewhere, UserError

SECONDS_BETWEEN_BEATS = 1.0
PATIENCE = 20.0  # seconds without a beat after which a rank counts as lost
GRACE = 15.0  # seconds that the main thread has to end by itself once a rank is lost
LONGEST_WAIT = timedelta(hours=3)  # of a collective: for a rank that lives, only its work decides
JOIN_WAIT = timedelta(minutes=10)


def launched() -> int:
    """How many processes torchrun has started for this run; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Alone:
    """A run of one process."""

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Within it nothing can be lost."""
        yield


@contextlib.contextmanager
def joined(device: torch.device) -> "Iterator[Alone | Liveness]":
    """Within it the processes that torchrun started are one run; nothing where there is one alone.

    Raises UserError that names the rank when another process dies, stops or does not answer.
    """
    if launched() == 1 or processes.ranks() > 1:
        yield Alone()
        return
    try:
        _meet(device)
        yield from _living(Liveness())
    except UserError as error:
        error.rank = int(os.environ["RANK"])
        raise


def _living(liveness: "Liveness") -> "Iterator[Liveness]":
    reason: str | None = "it was stopped"
    try:
        with liveness.explained():
            yield liveness
            distributed.barrier()
        reason = None
    except UserError as error:
        reason = str(error)
        raise
    finally:
        liveness.leave(reason)
        distributed.destroy_process_group()


def _meet(device: torch.device) -> None:
    # Imported later, as other parts of torch do, its functions' defaults would keep the group and its threads
    # beyond the end of the interpreter, which now and then aborts the process.
    import torch.distributed.nn  # noqa: F401  # pyright: ignore[reportUnusedImport]

    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, ranks = next(rendezvous("env://", timeout=JOIN_WAIT))
        store = PrefixStore(f"vitgan/{_name_of_meeting(store, rank, ranks)}", store)
        distributed.init_process_group(
            backend, store=store, rank=rank, world_size=ranks, timeout=LONGEST_WAIT
        )
    except (ValueError, RuntimeError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"Rank {os.environ.get('RANK')} did not meet the others at {place} ({_one_line(error)}): "
            "start all processes with torchrun."
        ) from error


def _name_of_meeting(store: Store, rank: int, ranks: int) -> str:
    """A name that these processes share, and none that met in the same store before torchrun's restart."""
    own = uuid.uuid4().hex
    if rank > 0:
        store.set(f"vitgan/hello/{rank}", own)
        name = store.get(f"vitgan/answer/{own}").decode()
        store.set(f"vitgan/ready/{name}/{rank}", "yes")
        return name
    answered: dict[int, bytes] = {}
    others = range(1, ranks)
    deadline = time.monotonic() + JOIN_WAIT.total_seconds()
    while not store.check([f"vitgan/ready/{own}/{other}" for other in others]):
        for other in (other for other in others if store.check([f"vitgan/hello/{other}"])):
            hello = store.get(f"vitgan/hello/{other}")
            if answered.get(other) != hello:  # one of an earlier meeting is answered in vain
                store.set(f"vitgan/answer/{hello.decode()}", own)
                answered[other] = hello
        if time.monotonic() > deadline:
            raise RuntimeError(f"{ranks - 1 - len(answered)} processes did not come")
        time.sleep(0.02)
    return own


def local_device(kind: str) -> torch.device:
    """This process's own device of the machine. Raises UserError where there are too few GPUs."""
    if kind != "cuda" or "LOCAL_RANK" not in os.environ:
        return torch.device(kind)
    own, wanted = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if wanted > torch.cuda.device_count():
        raise UserError(
            f"There are {wanted} processes on this machine and {torch.cuda.device_count()} GPUs: start "
            f"torchrun with --nproc-per-node {torch.cuda.device_count()}."
        )
    torch.cuda.set_device(own)
    return torch.device("cuda", own)


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Within it only rank 0 warns: what every rank finds alike is said once."""
    logger = logging.getLogger("vitgan")
    before = logger.level
    if processes.rank() > 0:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class Liveness:
    """Beats of every rank in the store that they met by, and a thread that watches the others'."""

    def __init__(self) -> None:
        self.rank, self.ranks = processes.rank(), processes.ranks()
        store = distributed.distributed_c10d._get_default_store()  # no public name
        self._store = store.clone() if hasattr(store, "clone") else store
        self._host, self._place = socket.gethostname(), _place()
        self._count, self._left, self._ending = 0, None, threading.Event()
        self._beat()
        distributed.barrier()
        self._known: dict[int, tuple[bytes, float]] = {}  # by rank: the last beat, and when it came
        self._lost: dict[int, str] = {}
        self._silent: set[int] = set()  # those of the lost who can say nothing
        self._found = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="liveness", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Within it the error of a collective that misses a rank becomes a sentence about that rank."""
        try:
            yield
        except UserError:
            raise
        except RuntimeError as error:
            if not self._found.wait(PATIENCE + 5):
                raise
            raise self._error() from error

    def leave(self, reason: str | None) -> None:
        """Say that this rank ends: with its work done, or for a reason."""
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
            if not isinstance(error, Elsewhere):
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
        """The store is gone, and with it rank 0, which keeps it where torchrun does not."""
        beat, _ = self._known.get(0, (b"", 0.0))
        if beat:
            self._judge(0, json.loads(beat), 0.0)
        self._silent.add(0)
        self._lose(0, f"cannot be reached at the meeting point ({_one_line(error)})")

    def _lose(self, rank: int, what: str) -> None:
        self._lost.setdefault(rank, what)
        self._found.set()

    def _error(self) -> UserError:
        """The sentence, which the first rank that can speak says."""
        rank, what = min(self._lost.items())
        end = "" if what.endswith(".") else "."
        text = f"Rank {rank} {what}{end} The others stop; the same command goes on from the last checkpoint."
        first = next(r for r in range(self.ranks) if r not in self._silent)
        return UserError(text) if first == self.rank else Elsewhere(text)


def _place() -> str:
    """The same for processes that see each other's numbers."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()


def _alive(pid: int) -> bool:
    """Whether a process of this machine runs; a zombie does not."""
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")
