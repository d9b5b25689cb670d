"""Projection: the search for the latent whose image is nearest to a picture, and the reading of pictures.

Shapes: B batch, C channels, R resolution.
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

MOST_BYTES = 2**25  # of an encoded picture
MOST_SIDE = 2048  # pixels, of a picture that is kept to be cropped


def read_picture(path: str | Path, generator: Generator) -> Tensor:
    """The centre square of a picture file, resized to the generator's images: uint8 (C, R, R).

    The picture is turned upright first. Raises UserError where it is damaged, of an unknown format, or larger
    than 32 MiB or 64 megapixels; wrong sizes and formats are found before anything is decoded.
    """
    try:
        with Path(path).expanduser().open("rb") as file:
            data = read_bounded(file, MOST_BYTES)
        return picture_of(data, generator)
    except UnreadableImage as error:
        raise UserError(f"{path} cannot be used: {error}.") from error


def picture_of(data: bytes, generator: Generator) -> Tensor:
    """As `read_picture`, of the content of a file. Raises UnreadableImage where that raises UserError."""
    with _decoding(data) as image:
        return _pixels(image, generator)


def open_picture(data: bytes) -> Image.Image:
    """The picture in the content of a file: RGB, upright, reduced to at most 2,048 pixels a side.

    Raises UnreadableImage where `read_picture` raises UserError.
    """
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
    """A box (left, top, right, bottom) of a picture, resized to the generator's images: uint8 (C, R, R).

    Raises UnreadableImage where the box has fewer than 2 pixels a side.
    """
    return _pixels(image.crop(box), generator)


def _pixels(image: Image.Image, generator: Generator) -> Tensor:
    """A picture as uint8 (C, R, R) of the generator's resolution and channels."""
    pixels = to_pixels(image, generator.resolution, generator.channels)
    return torch.from_numpy(pixels.copy())  # they may be Pillow's own, which cannot be written to


@contextmanager
def _decoding(data: bytes) -> Iterator[Image.Image]:
    """A context with the opened picture, in which whatever decoding raises becomes UnreadableImage."""
    if len(data) > MOST_BYTES:
        raise UnreadableImage(f"it is larger than {MOST_BYTES // 2**20} MiB")
    with quiet_decoding():
        try:
            yield open_image(data)
        except UnreadableImage:
            raise
        except Exception as error:  # damaged data: Pillow raises almost anything, by the header already
            raise UnreadableImage(f"it is damaged ({reason(error)})") from error


CANDIDATES, KEPT = 1024, 4  # random latents that are tried, and the nearest ones that are optimised
LEARNING_RATE = 0.1  # in standard deviations of w
PULL = 1e-3  # weight of the squared distance from the mean of w, in standard deviations of w
Progress = Callable[[int, int, float], bool]


@dataclass(frozen=True, kw_only=True)
class Projection:
    """What a search has found.

    Attributes
        w: latent (1, ...) of the nearest image of all steps.
        image: that image, float (1, C, R, R) in [-1, 1].
        losses: `distance` of the nearest candidate at each step so far.
    """

    w: Tensor
    image: Tensor
    losses: list[float]

    @property
    def difference(self) -> float:
        """The `distance` of `image` from the picture, a mean squared difference; 0 where they are equal."""
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
    """Search for the latent whose image is nearest to a picture; returns what `searching` yields last.

    `progress(step, steps, loss)` is called after every step and ends the search by returning False. Raises
    UserError as `searching` does, and whatever `progress` raises.
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
    """Search for the w nearest to a picture, uint8 (C, R, R), and yield what is found so far after each step.

    Adam begins from the nearest of 1,024 random w's, which `seed` draws; `label` (1,) is their class, or
    None. The loss is `distance` and a pull towards the mean of w, which keeps w where the generator was
    trained. No perceptual network takes part, as it would have to be downloaded. Raises UserError for a
    picture of another shape or dtype, or less than one step.
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
    """The mean squared difference (B,) of images (B, C, R, R) from a target (1, C, R, R), over all scales.

    It is the mean over the images themselves and their halvings down to a side of 2 or 3 pixels: coarse
    scales have a useful gradient while the fine ones do not match yet.
    """
    losses = []
    while True:
        losses.append((images - target).square().flatten(1).mean(1))
        if images.shape[-1] < 4:
            return torch.stack(losses).mean(0)
        images, target = F.avg_pool2d(images, 2), F.avg_pool2d(target, 2)


def _target(generator: Generator, picture: Tensor, steps: int) -> Tensor:
    """The picture, uint8 (C, R, R), in the form of the generator's output: float (1, C, R, R) in [-1, 1].

    Raises UserError for another shape or dtype, or fewer than one of `steps`.
    """
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
    """The random w's (4, ...) nearest to the target, and the mean and standard deviation (1, ...) of w."""
    z = generator.latents(CANDIDATES, seed=seed).to(target.device)
    labels = None if label is None else label.expand(CANDIDATES)
    w = generator.mapping(z, labels).float()
    losses = torch.cat([distance(generator.synthesise(part), target) for part in w.split(128)])
    order = losses.argsort()[:KEPT]
    return w[order], w.mean(0, keepdim=True), w.std(0, keepdim=True) + 1e-6


def _rate(step: int, steps: int) -> float:
    """The learning rate of a step: a linear warm-up over the first twentieth times a half cosine to zero."""
    return LEARNING_RATE * min(1, 20 * (step + 1) / steps) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
