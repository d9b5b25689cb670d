"""The processes of one run: how torchrun's processes meet, and what each of them is.

torchrun starts them and says by environment variables who they are; without these a run has one process.
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
    if launched() == 1 or collectives.world_size() > 1:
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
            f"Rank {os.environ.get('RANK')} did not meet the others at {place} ({one_line(error)}): "
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
    if collectives.rank() > 0:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
