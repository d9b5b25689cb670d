"""Processes that read batches ahead, started again at the same sample when one of them is lost."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.data._utils.worker as torch_worker
from torch.utils.data import DataLoader, Dataset

from vitgan.data.reach import Patience, Unreachable
from vitgan.data.reading import Fetched
from vitgan.errors import UserError

logger = logging.getLogger("vitgan")
RESTARTS = 3  # one after another without a batch between them


class Readers:
    """Results of `read`, a function that goes to other processes, for the requests one after another.

    requests(k) gives those from number k on. With no workers everything is read here.
    """

    def __init__(
        self,
        read: Callable[[Any], Fetched],
        requests: Callable[[int], Iterator[Any]],
        patience: Patience,
        *,
        workers: int,
        pinned: bool,
    ) -> None:
        self._read, self._requests, self._patience = read, requests, patience
        self._workers, self._pinned = min(workers, _cores()), pinned
        self._reading: Iterator[Fetched] | None = None
        self._next = 0

    def take(self) -> Fetched:
        """The next result. Raises UserError where the source stays out of reach, or readers keep dying."""
        fetched = self._from_workers() if self._workers else self._read(next(self._requests(self._next)))
        if fetched.lost is not None:
            self.close()
            fetched = self._patience(self._read_here)
        self._next += 1
        return fetched

    def close(self) -> None:
        """End the processes."""
        self._reading = None

    def _read_here(self) -> Fetched:
        fetched = self._read(next(self._requests(self._next)))
        if fetched.lost is not None:
            raise Unreachable(*fetched.lost)
        return fetched

    def _from_workers(self) -> Fetched:
        reason = ""
        for attempt in range(RESTARTS + 1):
            try:
                if self._reading is None:
                    self._reading = self._started()
                return next(self._reading)
            except (RuntimeError, OSError, EOFError) as error:  # a reader raises nothing itself
                reason = _first_line(error)
            self.close()
            if attempt < RESTARTS:
                logger.warning("A data worker was lost (%s): starting the workers again.", reason)
        raise UserError(
            f"The data workers ended {RESTARTS + 1} times in a row ({reason}): memory may be short, "
            "so lower --data.workers; 0 reads in the process itself."
        )

    def _started(self) -> Iterator[Fetched]:
        loader = DataLoader(
            _Reading(self._read),
            batch_size=None,
            sampler=self._requests(self._next),  # pyright: ignore[reportArgumentType]
            num_workers=self._workers,
            collate_fn=_as_it_is,
            pin_memory=self._pinned,
            worker_init_fn=_prepare,
            generator=torch.Generator(),  # else the loader takes a number from the global generator
        )
        if threading.current_thread() is not threading.main_thread():
            return iter(loader)
        before = signal.getsignal(signal.SIGCHLD)
        reading = iter(loader)
        # torch's handler would raise in the midst of a training step. take() finds out within 5 seconds.
        signal.signal(signal.SIGCHLD, before)
        return reading


class _Reading(Dataset[Fetched]):
    """What a worker process does: one item is a whole batch."""

    def __init__(self, read: Callable[[Any], Fetched]) -> None:
        self._read = read

    def __getitem__(self, index: Any) -> Fetched:
        return self._read(index)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _as_it_is(fetched: Any) -> Any:
    return fetched


def _prepare(_worker: int) -> None:
    # A signal to the whole group, as Ctrl-C sends it, must not end the readers of a trainer that still
    # finishes its step and saves. SIGTERM stays deadly: it is how the parent ends a reader that hangs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setsid"):
        os.setsid()
    # `datasets` would give every worker a part of the stream; here each of them reads all of it.
    torch_worker._worker_info = None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
