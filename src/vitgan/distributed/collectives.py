"""This process among those that train one model together (torch.distributed); alone, everything is a no-op.

Objects travel as JSON and tensors as bytes: nothing is pickled.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from vitgan.errors import Elsewhere, UserError

BUCKET = 2**25  # bytes of gradients in one message


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if _joined() else 0


def world_size() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if _joined() else 1


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def average_gradients_(tensors: Sequence[Tensor], weight: float | None = None) -> None:
    """Put the mean over all ranks into each tensor; they travel in flat buckets of one dtype each.

    `weight` is this rank's in the mean; those of all ranks add up to 1, and are the same by default.
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
    """The mean over all ranks, without a gradient."""
    found = tensor.detach().clone()
    average_gradients_([found])
    return found


def all_reduce_max(values: Sequence[float]) -> list[float]:
    """Of each number the largest of all ranks."""
    if world_size() == 1:
        return list(values)
    found = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return found.tolist()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over all ranks; a gradient is summed on its way back."""
    return tensor if world_size() == 1 else _Sum.apply(tensor)


def all_gather(tensor: Tensor) -> Tensor:
    """(B, ...) of each rank, one after the other: (ranks B, ...); each rank gets its part's gradient back."""
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
    """This rank's part of `count` things; all parts together are the whole, in order."""
    return slice(rank() * count // world_size(), (rank() + 1) * count // world_size())


def all_gather_rows(tensor: Tensor) -> Tensor:
    """(B, ...) of each rank, whose B may differ, one after the other on every rank; no gradient."""
    counts = [int(count) for count in all_gather_objects(len(tensor))]
    filled = tensor.new_zeros(max(counts), *tensor.shape[1:])
    filled[: len(tensor)] = tensor
    parts = all_gather(filled.detach()).split(max(counts))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def broadcast(value: Any = None) -> Any:
    """Rank 0's `value`, which JSON can hold, on every rank."""
    if world_size() == 1:
        return value
    content = json.dumps(value).encode() if rank() == 0 else b""
    (size,) = all_reduce_max([len(content)])
    message = _message(content, int(size))
    distributed.broadcast(message, 0)
    return json.loads(bytes(message.numpy()))


def all_gather_objects(value: Any) -> list[Any]:
    """Each rank's `value`, which JSON can hold, in the order of ranks."""
    if world_size() == 1:
        return [value]
    content = json.dumps(value).encode()
    (size,) = all_reduce_max([len(content)])
    messages = [torch.empty(int(size), dtype=torch.uint8) for _ in range(world_size())]
    distributed.all_gather(messages, _message(content, int(size)))
    return [json.loads(bytes(message.numpy())) for message in messages]


def _message(content: bytes, size: int) -> Tensor:
    """uint8 (size,), filled up with blanks, which JSON passes over."""
    return torch.frombuffer(bytearray(content.ljust(size)), dtype=torch.uint8)


def broadcast_tensors(tensors: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Rank 0's tensors by name on every rank, on the CPU."""
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
    """A part that every rank enters: a UserError or OSError of one ends it, and the run, on all of them.

    The first rank that has one raises it, the others raise `Elsewhere`. It ends on all ranks at one time.
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
    raise Elsewhere(f"Rank {first} stopped: {said[first]}") from error
