"""What every generator and discriminator is to the rest, and reading weights into one.

Shapes: N images, B batch, C channels, R resolution, Z latent size, E size of a projection.
"""

import abc
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitgan.config import brief
from vitgan.errors import UserError


class Generator(nn.Module, abc.ABC):
    """z (B, Z), labels (B,) or None -> images (B, C, R, R) in [-1, 1], by way of an intermediate latent w.

    A system gives `mapping` (a module) and `synthesise`; `training_images` too where training draws more than
    z, as the noise and the style mixing of StyleGAN2.
    """

    can_recompute = False
    """Whether it knows activation checkpointing."""
    activation_checkpointing = False
    """Keep no activations within the blocks; the backward pass computes them again."""
    mapping: nn.Module
    """z (B, Z), labels (B,) or None -> w (B, ...), whose mean truncation pulls to."""

    def __init__(self, *, resolution: int, channels: int, classes: int, latent_dim: int) -> None:
        super().__init__()
        self.resolution, self.channels, self.classes = resolution, channels, classes
        self.latent_dim = latent_dim

    @abc.abstractmethod
    def synthesise(self, w: Tensor) -> Tensor:
        """w (B, ...) -> images (B, C, R, R): the same for the same w, in eval mode."""

    def modulations(self) -> list[Tensor]:
        """The weights (O, E) of the affine maps by which w modulates the network; none where it does not."""
        return []

    def render(self, w: Tensor, scale: int) -> Tensor:
        """w (B, ...) -> images (B, C, scale R, scale R), where an image is a function of the coordinates.

        Raises UserError where it is not.
        """
        if scale == 1:
            return self.synthesise(w)
        raise UserError(
            "This generator gives pixels and no function of their coordinates: leave --scale out, "
            "or train one whose output is implicit."
        )

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.synthesise(self.mapping(z, labels))

    def training_images(self, z: Tensor, labels: Tensor | None, rng: torch.Generator) -> Tensor:  # noqa: ARG002
        """The images of a training step; whatever is random in them beside z is drawn from `rng`."""
        return self(z, labels)

    def advance(self) -> None:
        """What must happen once a generator update, after it: a power iteration, say."""

    @torch.no_grad()
    def latents(self, count: int, *, seed: int) -> Tensor:
        """`count` latents z ~ N(0, I), (count, Z), a function of the seed alone."""
        return torch.randn(count, self.latent_dim, generator=torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def sample(
        self,
        count: int,
        *,
        seed: int = 0,
        truncation: float = 1.0,
        labels: Tensor | None = None,
        batch: int = 256,
        dtype: torch.dtype = torch.float32,
        part: slice = slice(None),
        scale: int = 1,
    ) -> Tensor:
        """`count` images, uint8 (count, C, R, R) on the CPU, made `batch` at a time on the own device.

        `dtype` is that of the activations: bfloat16 is about twice as fast where the hardware computes in it.
        truncation T pulls w toward its mean, w_mean + T (w - w_mean). A class-conditional generator takes
        labels (count,), or draws them from the seed. Of these images only `part` is made. `scale` K renders
        an implicit output at K times the resolution, (count, C, K R, K R), K^2 times as few at a time; others
        raise UserError.
        """
        device = next(self.parameters()).device
        z = self.latents(count, seed=seed)
        if self.classes and labels is None:
            labels = torch.randint(self.classes, (count,), generator=torch.Generator().manual_seed(seed))
        z, labels = z[part], None if labels is None else labels[part]
        side, batch = scale * self.resolution, max(1, batch // scale**2)
        images = torch.empty(len(z), self.channels, side, side, dtype=torch.uint8)
        mean = self.mean_w() if truncation != 1 else None
        for start in range(0, len(z), batch):
            now = slice(start, start + batch)
            own_labels = None if labels is None else labels[now].to(device)
            w = self.mapping(z[now].to(device, dtype), own_labels)
            if mean is not None:
                w = torch.lerp(mean.to(dtype), w, truncation)
            images[now] = to_uint8(self.render(w, scale)).cpu()
        return images

    @torch.no_grad()
    def mean_w(self, count: int = 4096) -> Tensor:
        """Mean of w over `count` latents of seed 0, (1, ...)."""
        z = self.latents(count, seed=0).to(next(self.parameters()).device)
        labels = torch.arange(count, device=z.device) % self.classes if self.classes else None
        return self.mapping(z, labels).mean(0, keepdim=True)


def to_uint8(images: Tensor) -> Tensor:
    """Images as numbers in [-1, 1] to images as bytes, the nearest of 0..255; any shape."""
    return ((images.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_uint8(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images as bytes to images as numbers in [-1, 1], computed in fp32 and given in `dtype`; any shape."""
    return images.float().div(127.5).sub_(1).to(dtype)


@dataclass(frozen=True)
class Judgement:
    """What a discriminator says of a batch of images."""

    logits: Tensor
    """(B, 1), fp32."""
    pixels: Tensor | None = None
    """A logit for each pixel, (B, 1, R, R), fp32: the U-Net discriminator's."""
    projections: Tensor | None = None
    """(B, E), fp32: the contrastive discriminator's."""

    def split(self, sizes: Sequence[int]) -> Iterator["Judgement"]:
        """The judgements of parts of the batch of these sizes, in order."""
        parts = {name: value.split(list(sizes)) for name, value in self._columns().items()}
        return (Judgement(**{name: part[i] for name, part in parts.items()}) for i in range(len(sizes)))

    def detached(self) -> "Judgement":
        """The same without a gradient."""
        return Judgement(**{name: value.detach() for name, value in self._columns().items()})

    def _columns(self) -> dict[str, Tensor]:
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in columns.items() if value is not None}


class Discriminator(nn.Module, abc.ABC):
    """images (B, C, R, R) in [-1, 1], labels (B,) or None -> logits (B, 1), fp32."""

    can_recompute = False
    """Whether it knows activation checkpointing."""
    activation_checkpointing = False
    """Keep no activations within the blocks; the backward pass computes them again."""

    @abc.abstractmethod
    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor: ...

    def judge(self, images: Tensor, labels: Tensor | None = None) -> Judgement:
        """All that the game uses of this discriminator: the logits, and what a system has beside."""
        return Judgement(self(images, labels))

    def advance(self) -> None:
        """What must happen once a discriminator update, after it: a power iteration, say."""


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


class GeneratorOptions(Protocol):
    """Options that make a generator: a frozen, keyword-only dataclass, registered."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> Generator:
        """The network for images (C, R, R), conditioned on a label where `classes` > 0."""
        ...


class DiscriminatorOptions(Protocol):
    """Options that make a discriminator: a frozen, keyword-only dataclass, registered."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> Discriminator:
        """The network for images (C, R, R), conditioned on a label where `classes` > 0."""
        ...
