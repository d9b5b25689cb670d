r"""Parts of one's own in one file: a loss, a discriminator, a source, a metric and a logger.

    vitgan list --parts --use examples/own_parts.py
    vitgan train digits --use examples/own_parts.py --data stripes:count=200 --loss least-squares \
        --loss.real 0.9 --discriminator small-convolutional --discriminator.width 16 \
        --loggers tensorboard,csv-log --images 2560 --out runs/stripes
    vitgan sample runs/stripes --count 16 --out grid.png

CONTRIBUTING.md says what each of them must define.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

import vitgan
from vitgan.config import option
from vitgan.data import ArraySource
from vitgan.models import Discriminator
from vitgan.nn import Convolution, Linear


@vitgan.register
@dataclass(frozen=True, kw_only=True)
class LeastSquares:
    """Least squares loss (arXiv 1611.04076).

    D: ((D(x) - `real`)^2 + D(G(z))^2) / 2; G: (D(G(z)) - `real`)^2 / 2, each the mean over the batch.
    """

    real: float = option(1.0, above=0)
    """The logit that the discriminator is to give to real images; to generated ones it is to give 0."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return ((real - self.real).square().mean() + fake.square().mean()) / 2

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:  # noqa: ARG002
        return (fake - self.real).square().mean() / 2


@vitgan.register
@dataclass(frozen=True, kw_only=True)
class SmallConvolutional:
    """Three convolutions, each followed by a mean of 2 x 2 pixels, and a linear layer."""

    width: int = option(32, least=1)
    """Channels after the first convolution; each later one doubles them."""

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> "SmallDiscriminator":  # noqa: ARG002
        """The network for images of `channels` channels, whatever their resolution; labels are not used."""
        return SmallDiscriminator(channels, self.width)


class SmallDiscriminator(Discriminator):
    """images (B, C, R, R) in [-1, 1] -> logits (B, 1), fp32."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = (channels, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(Convolution(a, b) for a, b in pairwise(widths))
        self.head = Linear(4 * width, 1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        x = images
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            x = F.avg_pool2d(x, 2, ceil_mode=True)  # (B, 2^k width, R / 2^(k + 1), R / 2^(k + 1))
        return self.head(x.mean((2, 3))).float()


@vitgan.register
@dataclass(frozen=True, kw_only=True)
class Stripes:
    """Grey pictures of vertical and of horizontal stripes, which are the two classes."""

    count: int = option(500, least=2)
    """Number of pictures."""
    size: int = option(8, least=2)
    """Side of each picture, in pixels."""

    def open(self) -> ArraySource:
        random = np.random.default_rng(0)
        labels = np.arange(self.count) % 2
        place, period = random.uniform(0, 1, self.count), random.uniform(2, 4, self.count)
        wave = np.sin(2 * np.pi * (np.arange(self.size) / period[:, None] + place[:, None]))  # (N, S)
        lines = ((wave + 1) * 127.5).astype(np.uint8)
        vertical = np.broadcast_to(lines[:, None, :], (self.count, self.size, self.size))
        images = np.where(labels[:, None, None] == 0, vertical, vertical.transpose(0, 2, 1))
        return ArraySource("stripes", images, labels, ("vertical", "horizontal"))


@vitgan.register
@dataclass(frozen=True, kw_only=True)
class MeanDistance:
    """The distance between the mean features of real and of generated images; lower is better."""

    def measure(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        return {"mean_distance": (real.double().mean(0) - fake.double().mean(0)).norm().item()}


@vitgan.register
@dataclass(frozen=True, kw_only=True)
class CSVLog:
    """The log as a table, `RUN/log.csv`: images seen, a number's name and its value on each line."""

    def start(self, folder: Path, *, images_seen: int, recipe: dict[str, Any]) -> "CSVWriter":  # noqa: ARG002
        path, kept = folder / "log.csv", []
        if path.exists():  # a run that goes on from a checkpoint makes anew what came after it
            with path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.reader(file) if len(row) == 3 and int(row[0]) <= images_seen]
        writer = CSVWriter(path.open("w", newline="", encoding="utf-8"))
        writer.rows.writerows(kept)
        return writer


class CSVWriter:
    """Writes each number as it comes; pictures stay where they are."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.rows = file, csv.writer(file)

    def scalars(self, images: int, values: Mapping[str, float]) -> None:
        self.rows.writerows((images, name, value) for name, value in values.items())
        self.file.flush()

    def sample(self, images: int, path: Path) -> None: ...

    def close(self) -> None:
        self.file.close()
