"""The interfaces of generators and discriminators, and loading weights into a network.

Shapes: N images, B batch, C channels, R resolution, Z latent size, E size of a projection.
"""

import abc
import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitgan.config import brief
from vitgan.errors import UserError, did_you_mean
from vitgan.nn import LabelProjection, Linear, SpectralNorm
from vitgan.nn.norm import Normalisation
from vitgan.terminal import class_list

MEAN_OF_ALL, MEAN_OF_CLASS = 4096, 1024  # latents of which a mean of w is taken
Labels = Tensor | Sequence[int | str] | int | str


class Generator(nn.Module, abc.ABC):
    """z (B, Z), labels (B,) or None -> images (B, C, R, R) in [-1, 1], by way of an intermediate latent w.

    A subclass defines `mapping` (a module) and `synthesise`, and `training_images` where a training step
    draws more random numbers than z, as StyleGAN2 does for noise and style mixing.
    """

    can_recompute = False
    """Whether the network supports activation checkpointing."""
    activation_checkpointing = False
    """Keep no activations within the blocks; the backward pass computes them again."""
    mapping: nn.Module
    """z (B, Z), labels (B,) or None -> w (B, ...), the latent that truncation pulls toward its mean."""
    class_names: tuple[str, ...] = ()
    """The names of the classes in the order of their numbers; empty where they are not known."""
    class_counts: tuple[int, ...] = ()
    """The number of training images of each class; empty where it is not known."""

    def __init__(self, *, resolution: int, channels: int, classes: int, latent_dim: int) -> None:
        super().__init__()
        self.resolution, self.channels, self.classes = resolution, channels, classes
        self.latent_dim = latent_dim

    @abc.abstractmethod
    def synthesise(self, w: Tensor) -> Tensor:
        """w (B, ...) -> images (B, C, R, R). In eval mode the images are a function of w alone."""

    def modulations(self) -> list[Tensor]:
        """The weights (O, E) of the affine maps by which w modulates layers; empty if it modulates none."""
        return []

    def render(self, w: Tensor, scale: int) -> Tensor:
        """w (B, ...) -> images (B, C, scale R, scale R), for a generator whose output is implicit.

        Such an output is a function of the pixels' coordinates. Raises UserError for any other where `scale`
        is not 1.
        """
        if scale == 1:
            return self.synthesise(w)
        raise UserError(
            "This generator gives pixels and no function of their coordinates: leave --scale out, "
            "or train one whose output is implicit."
        )

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z (B, Z), labels (B,) or None -> images (B, C, R, R).

        In eval mode on a CPU, raises UserError for labels that are missing or beyond the classes.
        """
        if not self.training and z.device.type == "cpu" and not _traced():
            self._check_labels(labels)
        return self.synthesise(self.mapping(z, labels))

    def training_images(self, z: Tensor, labels: Tensor | None, rng: torch.Generator) -> Tensor:  # noqa: ARG002
        """z (B, Z), labels (B,) or None -> images (B, C, R, R) of a training step.

        Whatever is random in them beside z is drawn from `rng`.
        """
        return self(z, labels)

    def advance(self) -> None:
        """Called once after each update of the generator: takes a step of power iteration, for example."""

    @torch.no_grad()
    def latents(self, count: int, *, seed: int) -> Tensor:
        """`count` latents z ~ N(0, I), (count, Z), a function of the seed alone: more begin with the same."""
        numbers = count * self.latent_dim
        rng = torch.Generator().manual_seed(seed)
        # torch draws blocks of 16, and a last one that is not full otherwise.
        drawn = torch.randn(-(-numbers // 16) * 16, generator=rng)
        return drawn[:numbers].view(count, self.latent_dim)

    def class_number(self, label: int | str) -> int:
        """The number of a class that is given by its name or its number; a name comes before a number.

        Raises UserError where there is no such class, or the generator knows none.
        """
        if not self.classes:
            raise UserError("This generator knows no classes: leave --class out (labels, in Python).")
        if isinstance(label, str):
            label = label.encode(errors="backslashreplace").decode()  # as names that are not UTF-8 are kept
        if label in self.class_names:
            return self.class_names.index(label)
        if isinstance(label, str):
            number = int(label) if re.fullmatch("[0-9]{1,18}", label) else -1
        else:
            number = operator.index(label)
        if not 0 <= number < self.classes:
            guess = did_you_mean(label, self.class_names) if isinstance(label, str) else ""
            raise UserError(
                f"There is no class {brief(label)}: this generator draws {self.shown_classes()}.{guess}"
            )
        return number

    def shown_classes(self) -> str:
        """The classes in words, "2 classes, 0 (cat), 1 (dog)"."""
        names = self.class_names or [str(number) for number in range(self.classes)]
        return f"{self.classes:,} class{'es' * (self.classes != 1)}, {class_list(names)}"

    def trained_classes(self) -> Tensor:
        """The numbers of the classes, (K,), without those that had no training images."""
        trained = torch.tensor(self.class_counts).nonzero().flatten()
        return trained if len(trained) else torch.arange(self.classes)

    def labels_of(self, labels: Labels | None, count: int, seed: int) -> Tensor | None:
        """The labels int64 (count,) of the images that `sample` draws, on the CPU; None without classes.

        `labels` are as `sample` takes them; None draws from the seed, every class that was trained with the
        same probability. Raises UserError for a class that does not exist, or another number of labels.
        """
        if labels is None:
            if not self.classes:
                return None
            trained, rng = self.trained_classes(), torch.Generator().manual_seed(seed)
            return trained[torch.randint(len(trained), (count,), generator=rng)]
        if isinstance(labels, int | str):
            return torch.full((count,), self.class_number(labels))
        if not hasattr(labels, "shape"):  # a sequence, not a tensor or an array
            numbers = [self.class_number(label) for label in cast("Sequence[int | str]", labels)]
            labels = torch.tensor(numbers, dtype=torch.int64)
        found = torch.as_tensor(labels).cpu()
        whole = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
        if not whole or found.shape not in ((), (count,)):
            raise UserError(
                f"labels are {found.dtype} {tuple(found.shape)}: give {count} whole numbers, one an image."
            )
        found = found.to(torch.int64).expand(count)
        self._check_labels(found)
        return found

    def _check_labels(self, labels: Tensor | None) -> None:
        """Raise UserError where labels (B,) are missing, superfluous or beyond the classes."""
        if labels is None:
            if self.classes:
                raise UserError(f"This generator draws {self.shown_classes()}: give labels, one an image.")
            return
        wrong = labels[(labels < 0) | (labels >= self.classes)]
        if wrong.numel() or not self.classes:
            self.class_number(int(wrong[0]) if wrong.numel() else 0)

    @torch.no_grad()
    def sample(
        self,
        count: int,
        *,
        seed: int = 0,
        truncation: float = 1.0,
        labels: Labels | None = None,
        batch: int = 256,
        dtype: torch.dtype = torch.float32,
        part: slice = slice(None),
        scale: int = 1,
    ) -> Tensor:
        """`count` images, uint8 (count, C, R, R) on the CPU, computed in batches on the weights' device.

        `dtype` is that of the activations: bfloat16 is about twice as fast where the hardware computes in it.
        Image i of a seed is the same for every `count`. truncation T pulls w toward its mean, that of its
        class where there are classes: w_mean + T (w - w_mean). A class-conditional generator takes `labels`,
        one class for all or `count` of them, each a number or a name of `class_names`, or draws them from the
        seed; raises UserError where there is no such class. `part` selects which of the images are computed
        and returned. `scale` K renders an implicit output at K times the resolution, (count, C, K R, K R), in
        batches smaller by K^2; raises UserError where the output is not implicit.
        """
        device = next(self.parameters()).device
        z, chosen = self.latents(count, seed=seed), self.labels_of(labels, count, seed)
        z, chosen = z[part], None if chosen is None else chosen[part]
        side, batch = scale * self.resolution, max(1, batch // scale**2)
        images = torch.empty(len(z), self.channels, side, side, dtype=torch.uint8)
        means = self.means_w(chosen) if truncation != 1 else None
        for start in range(0, len(z), batch):
            now = slice(start, start + batch)
            own_labels = None if chosen is None else chosen[now].to(device)
            w = self.mapping(z[now].to(device, dtype), own_labels)
            if means is not None:
                w = torch.lerp(means(now).to(dtype), w, truncation)
            images[now] = to_uint8(self.render(w, scale)).cpu()
        return images

    @torch.no_grad()
    def mean_w(self, label: int | None = None) -> Tensor:
        """The mean of w, (1, ...), over latents of seed 0: 1,024 of the class `label`, or 4,096.

        Without a label the latents go through the classes that were trained.
        """
        device = next(self.parameters()).device
        z = self.latents(MEAN_OF_ALL if label is None else MEAN_OF_CLASS, seed=0).to(device)
        labels = None
        if self.classes:
            own = self.trained_classes() if label is None else torch.tensor([label])
            labels = own[torch.arange(len(z)) % len(own)].to(device)
        return self.mapping(z, labels).mean(0, keepdim=True)

    def means_w(self, labels: Tensor | None) -> Callable[[slice], Tensor]:
        """A function of a slice of the labels (N,): the mean of w for each, (n, ...), that of its class.

        Without labels it gives the mean of all, (1, ...).
        """
        if labels is None:
            mean = self.mean_w()
            return lambda _: mean
        own, places = labels.unique(return_inverse=True)
        means = torch.cat([self.mean_w(label) for label in own.tolist()]) if len(own) else self.mean_w()
        return lambda part: means[places[part].to(means.device)]


def _traced() -> bool:
    """Whether torch follows the computation to compile or export it, and cannot branch on numbers."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] of any shape to uint8: each number becomes the nearest of 0 to 255, clamped."""
    return ((images.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_uint8(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images in uint8 of any shape to numbers in [-1, 1], computed in fp32 and returned in `dtype`."""
    return images.float().div(127.5).sub_(1).to(dtype)


@dataclass(frozen=True)
class Judgement:
    """The outputs of a discriminator for a batch of images."""

    logits: Tensor
    """(B, 1), fp32."""
    pixels: Tensor | None = None
    """A logit for each pixel, (B, 1, R, R), fp32; only a U-Net discriminator has them."""
    projections: Tensor | None = None
    """Projections (B, E), fp32, for a contrastive loss; only a contrastive discriminator has them."""

    def split(self, sizes: Sequence[int]) -> Iterator["Judgement"]:
        """The judgements of consecutive parts of the batch, which have these sizes."""
        parts = {name: value.split(list(sizes)) for name, value in self._columns().items()}
        return (Judgement(**{name: part[i] for name, part in parts.items()}) for i in range(len(sizes)))

    def detached(self) -> "Judgement":
        """The same outputs, detached from the graph."""
        return Judgement(**{name: value.detach() for name, value in self._columns().items()})

    def _columns(self) -> dict[str, Tensor]:
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in columns.items() if value is not None}


class Discriminator(nn.Module, abc.ABC):
    """images (B, C, R, R) in [-1, 1], labels (B,) or None -> logits (B, 1), fp32.

    A subclass defines its layers and `forward`. The base has what most of them share: `normalise`, called
    after the last layer is built, adds a spectral norm, which `normalised` applies and `advance` updates;
    `label_projection` makes the vectors of the classes, and `labelled` adds their part of the logits.
    """

    can_recompute = False
    """Whether the network supports activation checkpointing."""
    activation_checkpointing = False
    """Keep no activations within the blocks; the backward pass computes them again."""

    def __init__(self, *, resolution: int = 0, channels: int = 0, classes: int = 0) -> None:
        super().__init__()
        self.resolution, self.channels, self.classes = resolution, channels, classes
        self.spectral: SpectralNorm | None = None

    @abc.abstractmethod
    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor: ...

    def normalise(self, kind: Normalisation, part: nn.Module | None = None) -> None:
        """Normalise the weight matrices of `part`, by default of the whole network, as they are at this call.

        Where `kind` is "none" nothing is normalised.
        """
        if kind != "none":
            layers = [module for module in (part or self).modules() if isinstance(module, Linear)]
            self.spectral = SpectralNorm(layers, improved=kind == "improved")

    @contextmanager
    def normalised(self) -> Iterator[Callable[[], AbstractContextManager[object]]]:
        """A context within which layers under spectral norm compute with their normalised weights.

        It yields a function that enters it again with the same weights, for activations that the backward
        pass computes again.
        """
        if self.spectral is None:
            yield nullcontext
            return
        with self.spectral.applied() as weights:
            yield partial(self.spectral.using, weights)

    def label_projection(
        self, width: int, *, equalised: bool = True, unit_variance: bool = False
    ) -> LabelProjection | None:
        """Vectors of `width` for the classes, None where there are no classes."""
        if not self.classes:
            return None
        return LabelProjection(self.classes, width, equalised=equalised, unit_variance=unit_variance)

    @staticmethod
    def labelled(
        logits: Tensor, features: Tensor, labels: Tensor | None, projection: LabelProjection | None
    ) -> Tensor:
        """logits (B, 1, ...) plus the labels' of features (B, D, ...), in the dtype of `logits`.

        They are `logits` themselves where `projection` is None, which needs no labels.
        """
        if projection is None:
            return logits
        assert labels is not None
        return logits + projection.logits(features, labels, logits.dtype)

    def judge(self, images: Tensor, labels: Tensor | None = None) -> Judgement:
        """The outputs that a training step uses: the logits, and further ones where a subclass has them."""
        return Judgement(self(images, labels))

    def advance(self) -> None:
        """One step of the spectral norm's power iteration, to be taken once after each update."""
        if self.spectral is not None:
            self.spectral.advance()


Built = TypeVar("Built")
Network = TypeVar("Network", bound=nn.Module)
# What modules are built with: all else makes little (`arange`), or is made of these.
SIZED = (torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand, torch.full)
SPARE = 2**20  # elements beside those of the weights: buffers that are not saved, what weights are drawn from


def load_network(
    build: Callable[[], Network], tensors: dict[str, Tensor], name: str, run: str | Path
) -> Network:
    """The network that `build` makes, with the tensors `name`.* of `run`, in eval mode and frozen.

    Raises UserError as `load_weights` does, and, before memory is allocated for it, where the network would
    be much larger than the tensors.
    """
    network = within(tensors, build, run)
    load_weights(network, tensors, name, run)
    return network.eval().requires_grad_(False)


def within(tensors: dict[str, Tensor], build: Callable[[], Built], run: str | Path) -> Built:
    """The result of `build`. Raises UserError where it allocates much more than the `tensors` hold."""
    try:
        with _AtMost(4 * sum(tensor.numel() for tensor in tensors.values()) + SPARE):
            return build()
    except _TooLarge as error:
        raise UserError(f"The weights in {run} do not fit its recipe: it asks for many more.") from error


def load_weights(network: nn.Module, tensors: dict[str, Tensor], name: str, run: str | Path) -> None:
    """Load the tensors `name`.* of `run` into `network`.

    Raises UserError, and changes nothing, where a name, shape or dtype differs, or a weight is not finite.
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
    """The first difference in names, shapes or dtypes of two state dicts, as a clause, or None."""
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
    """More elements were to be allocated than are allowed."""


class _AtMost(TorchFunctionMode):
    """A context within which torch allocates at most `elements` elements in all, else raises `_TooLarge`."""

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
    """Options from which a generator is built: a registered, frozen, keyword-only dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> Generator:
        """The network for images (C, R, R), conditioned on a label where `classes` > 0."""
        ...


class DiscriminatorOptions(Protocol):
    """Options from which a discriminator is built: a registered, frozen, keyword-only dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> Discriminator:
        """The network for images (C, R, R), conditioned on a label where `classes` > 0."""
        ...
