"""Tensors that were read, into the networks that their recipe asks for: compared before they are used."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitgan.errors import UserError
from vitgan.options import brief

Built = TypeVar("Built")
Network = TypeVar("Network", bound=nn.Module)
# What modules are built with: all else makes little (`arange`), or is made of these.
SIZED = (torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand, torch.full)
SPARE = 2**20  # elements beside those of the weights: buffers that are not saved, what weights are drawn from


def load_network(
    build: Callable[[], Network], tensors: dict[str, Tensor], name: str, run: str | Path
) -> Network:
    """The network that `build` makes with the tensors `name`.* of `run`, in eval mode and frozen.

    A recipe that asks for more than the tensors hold is refused before memory is taken for it. Raises
    UserError as `load_weights`.
    """
    network = within(tensors, build, run)
    load_weights(network, tensors, name, run)
    return network.eval().requires_grad_(False)


def within(tensors: dict[str, Tensor], build: Callable[[], Built], run: str | Path) -> Built:
    """What `build` makes. Raises UserError where it is much larger than the `tensors` of `run`."""
    try:
        with _AtMost(4 * sum(tensor.numel() for tensor in tensors.values()) + SPARE):
            return build()
    except _TooLarge as error:
        raise UserError(f"The weights in {run} do not fit its recipe: it asks for many more.") from error


def load_weights(network: nn.Module, tensors: dict[str, Tensor], name: str, run: str | Path) -> None:
    """Give `network` the tensors `name`.* of `run`.

    Raises UserError, and changes nothing, where a name, a shape or a type differs, or a number is not finite.
    """
    weights = {n.removeprefix(f"{name}."): t for n, t in tensors.items() if n.startswith(f"{name}.")}
    if (reason := misfit(network.state_dict(), weights)) is not None:
        raise UserError(f"The weights in {run} do not fit its recipe: {reason}.")
    for key, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"The weights in {run} are not finite ({name}.{key}): use an earlier checkpoint, one folder "
                "of RUN/checkpoints."
            )
    network.load_state_dict(weights)


def misfit(own: dict[str, Tensor], given: dict[str, Tensor]) -> str | None:
    """The first difference of names, shapes and types, as one clause; None where there is none."""
    for name, tensor in own.items():
        if name not in given:
            return f"{brief(name)} is missing"
        if given[name].shape != tensor.shape:
            return f"{name} has the shape {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
        if given[name].dtype != tensor.dtype:
            return f"{name} has the type {given[name].dtype}, not {tensor.dtype}"
    unknown = next((name for name in given if name not in own), None)
    return None if unknown is None else f"there is no {brief(unknown)}"


class _TooLarge(Exception):
    """More elements were asked for than allowed."""


class _AtMost(TorchFunctionMode):
    """Within it torch makes tensors of up to `elements` in all; `_TooLarge` before more."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.left = elements

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in SIZED:
            size = (kwargs or {}).get("size", args)
            sides = size if not size or isinstance(size[0], int) else size[0]  # (2, 3) or ((2, 3),)
            self.left -= math.prod(sides)
            if self.left < 0:
                raise _TooLarge
        return func(*args, **(kwargs or {}))
