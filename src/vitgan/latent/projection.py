"""The latent whose image is nearest to a picture, and the picture as the generator's size wants it.

Shapes: C channels, R resolution, Z latent size.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vitgan.data.reading import quiet_decoding
from vitgan.data.transforms import UnreadableImage, open_image, read_bounded, reason, to_pixels, to_rgb
from vitgan.errors import UserError
from vitgan.models import Generator, from_uint8

MOST_BYTES = 2**25
MOST_SIDE = 2048  # of a picture that is kept to be cropped


def read_picture(path: str | Path, generator: Generator) -> Tensor:
    """uint8 (C, R, R): upright, its centre square, resized. At most 32 MiB and 64 megapixels.

    Raises UserError, before anything is decoded where size or kind are wrong.
    """
    try:
        with Path(path).expanduser().open("rb") as file:
            data = read_bounded(file, MOST_BYTES)
        return picture_of(data, generator)
    except UnreadableImage as error:
        raise UserError(f"{path} cannot be used: {error}.") from error


def picture_of(data: bytes, generator: Generator) -> Tensor:
    """The same of an encoded picture. Raises UnreadableImage."""
    with _decoding(data) as image:
        return _pixels(image, generator)


def open_picture(data: bytes) -> Image.Image:
    """An encoded picture in RGB, upright, reduced to 2,048 pixels a side at most. Raises UnreadableImage."""
    with _decoding(data) as image:
        picture = to_rgb(image, MOST_SIDE)
        picture.thumbnail((MOST_SIDE, MOST_SIDE), Image.Resampling.LANCZOS)
        return picture


def square_box(image: Image.Image, share: float, across: float, down: float) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a square within a picture, in pixels.

    Its side is `share` of the picture's shorter one, from 0 to 1, and 2 pixels at least; `across` and `down`
    say where it lies: 0 left or top, 0.5 in the middle, 1 right or bottom.
    """
    side = max(2, round(share * min(image.size)))
    left, top = round(across * (image.width - side)), round(down * (image.height - side))
    return left, top, left + side, top + side


def cropped(image: Image.Image, box: tuple[int, int, int, int], generator: Generator) -> Tensor:
    """A box (left, top, right, bottom) of a picture as uint8 (C, R, R). Raises UnreadableImage."""
    return _pixels(image.crop(box), generator)


def _pixels(image: Image.Image, generator: Generator) -> Tensor:
    pixels = to_pixels(image, generator.resolution, generator.channels)
    return torch.from_numpy(pixels.copy())  # they may be Pillow's own, which cannot be written to


@contextmanager
def _decoding(data: bytes) -> Iterator[Image.Image]:
    """The encoded picture, opened; whatever is wrong with it is an UnreadableImage."""
    if len(data) > MOST_BYTES:
        raise UnreadableImage(f"it is larger than {MOST_BYTES // 2**20} MiB")
    with quiet_decoding():
        try:
            yield open_image(data)
        except UnreadableImage:
            raise
        except Exception as error:  # damaged data: Pillow raises almost anything, by the header already
            raise UnreadableImage(f"it is damaged ({reason(error)})") from error


CANDIDATES, KEPT = 1024, 4
LEARNING_RATE = 0.1  # in standard deviations of w
PULL = 1e-3  # weight of the squared distance from the mean of w, in its deviations
Progress = Callable[[int, int, float], bool]


@dataclass(frozen=True, kw_only=True)
class Projection:
    """What was found.

    Attributes
        w: (1, ...), of the nearest image of all steps.
        image: that image, float (1, C, R, R) in [-1, 1].
        losses: of the best candidate, step by step.
    """

    w: Tensor
    image: Tensor
    losses: list[float]

    @property
    def difference(self) -> float:
        """The `distance` of the image."""
        return min(self.losses)


def project(
    generator: Generator,
    picture: Tensor,
    *,
    steps: int = 300,
    label: Tensor | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Projection:
    """The last of `searching`; `progress(step, steps, loss)` is called at every step and ends it by False.

    Raises UserError as that does, and what `progress` raises.
    """
    found = None
    for found in searching(generator, picture, steps=steps, label=label, seed=seed):
        if progress is not None and not progress(len(found.losses), steps, found.losses[-1]):
            break
    assert found is not None, "a search has one step at least"
    return found


def searching(
    generator: Generator, picture: Tensor, *, steps: int, label: Tensor | None = None, seed: int = 0
) -> Iterator[Projection]:
    """From the best of 1,024 random w's on, by Adam; `picture` is uint8 (C, R, R), `label` (1,) or None.

    Gives what is found, step by step. The loss is `distance`, and a pull toward the mean of w that keeps it
    where images are. No network that would have to be downloaded takes part. `seed` draws the random w's.
    Raises UserError for another picture, or less than one step.
    """
    target = _target(generator, picture, steps)
    start, mean, deviation = _start(generator, target, label, seed)
    leaf = ((start - mean) / deviation).requires_grad_()
    optimiser = torch.optim.Adam([leaf], LEARNING_RATE, betas=(0.9, 0.999))
    losses: list[float] = []
    found: Projection | None = None
    for step in range(steps):
        w = mean + deviation * leaf
        images = generator.synthesise(w)
        distances = distance(images, target)
        nearest = slice(best := int(distances.argmin()), best + 1)
        losses.append(distances[best].item())
        now = Projection(w=w[nearest].detach(), image=images[nearest].detach(), losses=list(losses))
        found = now if found is None or losses[-1] < found.difference else replace(found, losses=now.losses)
        yield found
        pull = PULL * leaf.square().flatten(1).mean(1)
        (leaf.grad,) = torch.autograd.grad((distances + pull).sum(), leaf)
        for group in optimiser.param_groups:
            group["lr"] = _rate(step, steps)
        optimiser.step()


def distance(images: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of (B, C, R, R) from (1, C, R, R), averaged over scales of half the size: (B,).

    Coarse scales tell where to go while the fine ones do not match yet.
    """
    losses = []
    while True:
        losses.append((images - target).square().flatten(1).mean(1))
        if images.shape[-1] < 4:
            return torch.stack(losses).mean(0)
        images, target = F.avg_pool2d(images, 2), F.avg_pool2d(target, 2)


def _target(generator: Generator, picture: Tensor, steps: int) -> Tensor:
    """The picture as a generator gives it: (1, C, R, R) in [-1, 1]."""
    shape = (generator.channels, generator.resolution, generator.resolution)
    if picture.dtype != torch.uint8 or picture.shape != shape:
        raise UserError(
            f"The picture is {picture.dtype} {tuple(picture.shape)}: give torch.uint8 {shape}, "
            "as vitgan.latent.read_picture does."
        )
    if steps < 1:
        raise UserError(f"A search has one step at least, not {steps}.")
    device = next(generator.parameters()).device
    return from_uint8(picture.to(device)).unsqueeze(0)


@torch.no_grad()
def _start(
    generator: Generator, target: Tensor, label: Tensor | None, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best random w's (B, ...), and mean and standard deviation of w."""
    z = generator.latents(CANDIDATES, seed=seed).to(target.device)
    labels = None if label is None else label.expand(CANDIDATES)
    w = generator.mapping(z, labels).float()
    losses = torch.cat([distance(generator.synthesise(part), target) for part in w.split(128)])
    order = losses.argsort()[:KEPT]
    return w[order], w.mean(0, keepdim=True), w.std(0, keepdim=True) + 1e-6


def _rate(step: int, steps: int) -> float:
    """Up over the first twentieth, then down as a half cosine."""
    return LEARNING_RATE * min(1, 20 * (step + 1) / steps) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
