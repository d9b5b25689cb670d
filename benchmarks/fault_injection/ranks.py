"""A process of several that dies or hangs; these are started by torchrun and not forked."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

from fault_injection.trial import IMAGES, Failed, Trial, newest, require, weights, whole

LIMIT = 60.0  # seconds in which the others must have stopped


@contextmanager
def torchrun(trial: Trial, ranks: int, restarts: int, images: int):
    """`torchrun -m vitgan train` in a group of its own, its stderr in a file."""
    command = ["--nproc-per-node", ranks, "--max-restarts", restarts, "--master-port", free_port()]
    words = [*command, "-m", "vitgan", *trial.words("--images", images)]
    with (trial.folder / "said.txt").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *map(str, words)],
            stderr=said,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


def said(trial: Trial) -> str:
    return (trial.folder / "said.txt").read_text(errors="replace")


def waited(
    trial: Trial, condition: Callable[[], object], seconds: float = 120.0, record: list[float] | None = None
) -> None:
    """Wait until something holds, and record how long that took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise Failed(f"nothing happened for {seconds:.0f} seconds: {said(trial)}")
        time.sleep(0.01)
    if record is not None:
        record.append(time.monotonic() - began)


def alive(number: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def numbers(process: subprocess.Popen, ranks: int) -> dict[int, int]:
    """By rank the number of its process."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {}
    for child in children:
        settings = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        rank = next((s.removeprefix(b"RANK=") for s in settings if s.startswith(b"RANK=")), None)
        if rank is not None:
            found[int(rank)] = int(child)
    require(len(found) == ranks, f"{len(found)} processes are found, not {ranks}")
    return found


def lost(number: int, pattern: str):
    """Rank 0 and rank 1 of two get a signal; the other must stop and name it."""

    def test(trial: Trial) -> tuple[int, str]:
        seconds: list[float] = []
        for rank in (0, 1):
            trial.clear()
            with torchrun(trial, 2, 0, 10**6) as process:
                waited(trial, lambda: newest(trial.run))
                by_rank = numbers(process, 2)
                os.kill(by_rank[rank], number)
                name, other = re.compile(pattern.format(rank)), by_rank[1 - rank]
                waited(trial, lambda other=other: not alive(other), LIMIT, seconds)
                require(name.search(said(trial)), f"rank {rank} is not named: {said(trial)}")
        require(max(seconds) < LIMIT, f"it took {seconds} seconds")
        return 2, f"named by the other, which has ended {max(seconds):.0f} seconds later"

    return test


def restarted(trial: Trial) -> tuple[int, str]:
    """SIGKILL to rank 1 of two under `torchrun --max-restarts 2`, once or twice."""
    images, times = 50 * IMAGES, 1 if trial.quick else 2
    with torchrun(trial, 2, times, images) as process:
        for time_ in range(times):
            before = newest(trial.run)
            waited(trial, lambda before=before: newest(trial.run) >= before + 16)
            os.kill(numbers(process, 2)[1], signal.SIGKILL)
            waited(trial, lambda time_=time_: said(trial).count("Resuming") == time_ + 1)
        waited(trial, lambda: process.poll() is not None, 300)
        require(process.returncode == 0, said(trial))
    whole(trial.run, images)
    disturbed = weights(trial.run)
    trial.clear()
    with torchrun(trial, 2, 0, images) as process:
        waited(trial, lambda: process.poll() is not None, 300)
    require(weights(trial.run) == disturbed, "other weights than without the kill")
    return times, "torchrun starts all anew, with no flag they go on from the last checkpoint; bit for bit"
