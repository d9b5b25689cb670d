"""Collectives of the processes that train one model together, by torch.distributed.

Every rank has to call each of them, with tensors of the same shapes unless it says otherwise. In a run of one
process they return what they were given. Objects travel as JSON and tensors as bytes: nothing is pickled.
Shapes: B rows of this rank.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from vitgan.errors import OtherRankError, UserError

BUCKET = 2**25  # bytes of gradients in one message


def rank() -> int:
    """The number of this process among those of the run, from 0; 0 in a run of one."""
    return distributed.get_rank() if _joined() else 0


def world_size() -> int:
    """How many processes train together; 1 where torch.distributed is not in use."""
    return distributed.get_world_size() if _joined() else 1


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def average_gradients_(tensors: Sequence[Tensor], weight: float | None = None) -> None:
    """Replace each tensor by its mean over all ranks, in place.

    They travel in flat buckets of at most 32 MiB and one dtype each. `weight` is this rank's share of the
    mean; the weights of all ranks must add up to 1. By default all ranks have the same.
    """
    if world_size() == 1:
        return
    weight = 1 / world_size() if weight is None else weight
    sent = []
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket]).mul_(weight)
        sent.append((bucket, flat, distributed.all_reduce(flat, async_op=True)))
    for bucket, flat, handle in sent:
        assert handle is not None
        handle.wait()
        for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(t.nbytes for t in bucket) + tensor.nbytes > BUCKET
        if bucket and (full or bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, as a new tensor without a gradient."""
    found = tensor.detach().clone()
    average_gradients_([found])
    return found


def all_reduce_max(values: Sequence[float]) -> list[float]:
    """For each place of a list of numbers, the largest that any rank has there; in fp64."""
    if world_size() == 1:
        return list(values)
    found = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return found.tolist()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all ranks.

    Differentiable: the gradients of all ranks are summed on the way back.
    """
    return tensor if world_size() == 1 else _Sum.apply(tensor)


def all_gather(tensor: Tensor) -> Tensor:
    """The tensors (B, ...) of all ranks, one after the other in the order of ranks: (ranks B, ...).

    Differentiable: each rank gets the gradient of its own part, summed over all ranks.
    """
    return tensor if world_size() == 1 else _Gather.apply(tensor)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004
        found = tensor.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(found)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # noqa: ARG004
        return _Sum.apply(gradient)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.count = len(tensor)
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Sum.apply(gradient).narrow(0, rank() * ctx.count, ctx.count)


def shard(count: int) -> slice:
    """Which of `count` items are this rank's. The slices of all ranks, in order, make up the whole."""
    return slice(rank() * count // world_size(), (rank() + 1) * count // world_size())


def all_gather_rows(tensor: Tensor) -> Tensor:
    """As `all_gather`, for tensors (B, ...) whose B may differ between ranks; without a gradient."""
    counts = [int(count) for count in all_gather_objects(len(tensor))]
    filled = tensor.new_zeros(max(counts), *tensor.shape[1:])
    filled[: len(tensor)] = tensor
    parts = all_gather(filled.detach()).split(max(counts))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def broadcast(value: Any = None) -> Any:
    """Rank 0's `value`, which JSON must be able to hold, on every rank; that of the others is ignored."""
    if world_size() == 1:
        return value
    content = json.dumps(value).encode() if rank() == 0 else b""
    (size,) = all_reduce_max([len(content)])
    message = _message(content, int(size))
    distributed.broadcast(message, 0)
    return json.loads(bytes(message.numpy()))


def all_gather_objects(value: Any) -> list[Any]:
    """The `value` of each rank, in the order of ranks, on every rank; it must be one that JSON can hold."""
    if world_size() == 1:
        return [value]
    content = json.dumps(value).encode()
    (size,) = all_reduce_max([len(content)])
    messages = [torch.empty(int(size), dtype=torch.uint8) for _ in range(world_size())]
    distributed.all_gather(messages, _message(content, int(size)))
    return [json.loads(bytes(message.numpy())) for message in messages]


def _message(content: bytes, size: int) -> Tensor:
    """Bytes as uint8 (size,), filled up with blanks, which a JSON parser passes over."""
    return torch.frombuffer(bytearray(content.ljust(size)), dtype=torch.uint8)


def broadcast_tensors(tensors: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Rank 0's tensors by name, on every rank and on the CPU. What other ranks give is ignored."""
    if world_size() == 1:
        assert tensors is not None
        return tensors
    facts = {n: (list(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in (tensors or {}).items()}
    received = {}
    for name, (shape, dtype) in broadcast(facts).items():
        tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        if tensors is not None:
            tensor.copy_(tensors[name])
        distributed.broadcast(tensor, 0)
        received[name] = tensor
    return received


@contextmanager
def errors_shared() -> Iterator[None]:
    """A context that every rank enters, and that fails on all ranks where it fails on one.

    Where a UserError or OSError is raised within it on some ranks, the first of these raises its own at the
    end, and all others raise `OtherRankError`. No rank leaves it before all have come to its end.
    """
    if world_size() == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except (UserError, OSError) as caught:
        error = caught
    said = all_gather_objects(None if error is None else str(error))
    first = next((number for number, text in enumerate(said) if text is not None), None)
    if first is None:
        return
    if first == rank():
        assert error is not None
        raise error
    raise OtherRankError(f"Rank {first} stopped: {said[first]}") from error
