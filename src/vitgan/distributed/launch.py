"""How the processes that torchrun has started meet, which device each has, and how they leave again.

torchrun tells each process its rank by environment variables (WORLD_SIZE, RANK, LOCAL_RANK); without them a
run has one process.
"""

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from vitgan.distributed import collectives
from vitgan.distributed.liveness import Liveness
from vitgan.errors import UserError, one_line

# How long a collective waits for a rank. Whether a rank is lost is not known by this but by its heartbeats.
LONGEST_WAIT = timedelta(hours=3)
JOIN_WAIT = timedelta(minutes=10)  # until all ranks have met


def launched_processes() -> int:
    """How many processes torchrun has started for this run; 1 where it was not used."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class SingleProcess:
    """What `Liveness` is to a run of several processes, for a run of one, which can lose none."""

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """A context that changes nothing."""
        yield


@contextlib.contextmanager
def process_group(device: torch.device) -> "Iterator[SingleProcess | Liveness]":
    """A context within which the processes that torchrun started are torch's default process group.

    It changes nothing where there is one process, or a group already. Raises UserError where the processes do
    not meet within ten minutes, and one that names the rank where another process dies, stops or no longer
    answers.
    """
    if launched_processes() == 1 or collectives.world_size() > 1:
        yield SingleProcess()
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
            f"Rank {os.environ.get('RANK')} did not meet the others at {place} ({one_line(error)}): "
            "start all processes with torchrun."
        ) from error


def _name_of_meeting(store: Store, rank: int, ranks: int) -> str:
    """A name that these processes agree upon, and that none had which met in the same store before a restart.

    torchrun keeps its store when it starts all processes again, with the keys of the processes before. Rank 0
    invents the name and sends it to every rank whose greeting it finds, until all of them have confirmed it.
    Raises RuntimeError after ten minutes.
    """
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
            if (
                answered.get(other) != hello
            ):  # a greeting of before the restart may be answered too; nobody reads that
                store.set(f"vitgan/answer/{hello.decode()}", own)
                answered[other] = hello
        if time.monotonic() > deadline:
            raise RuntimeError(f"{ranks - 1 - len(answered)} processes did not come")
        time.sleep(0.02)
    return own


def local_device(kind: str) -> torch.device:
    """This process's own device of the kind "cpu" or "cuda": the GPU of its local rank where torchrun is
    used.

    Raises UserError where the machine has fewer GPUs than processes.
    """
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
def warnings_of_rank_0() -> Iterator[None]:
    """A context within which only rank 0 logs the package's warnings, for what every rank finds alike."""
    logger = logging.getLogger("vitgan")
    before = logger.level
    if collectives.rank() > 0:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
