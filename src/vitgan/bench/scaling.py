"""How the cost of a ViTGAN step grows with one size at a time, measured and drawn.

Shapes: R resolution, P patch, L = R^2 / P^2 patches.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vitgan.adversarial import BCR
from vitgan.bench.flops import performed_flops
from vitgan.bench.settings import open_images
from vitgan.bench.steps import WARM_UP, Stepper, memory_of
from vitgan.compat import importing_matplotlib
from vitgan.data import DataOptions
from vitgan.engine.gan import Recipe
from vitgan.engine.recipe import TrainingOptions
from vitgan.io import replacing
from vitgan.models import VisionTransformerOptions, ViTGANGeneratorOptions

with importing_matplotlib():
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, NullLocator

HEAD = 32  # size of an attention head at every width


@dataclass(frozen=True, kw_only=True)
class Base:
    """The sizes of the step that every range but the varied one keeps."""

    batch: int = 16
    width: int = 128
    depth: int = 2
    patch: int = 4
    resolution: int = 32

    def recipe(self) -> Recipe:
        """ViTGAN in fp32 with bCR; both networks of the same width, depth and patch, MLPs 4 times as wide."""
        sizes: dict[str, Any] = {"patch": self.patch, "depth": self.depth, "width": self.width}
        sizes |= {"heads": max(self.width // HEAD, 1), "perceptron_width": 4 * self.width}
        return Recipe(
            name="scaling",
            data=DataOptions(resolution=self.resolution, channels=3),
            generator=ViTGANGeneratorOptions(**sizes, latent_dim=self.width),
            discriminator=VisionTransformerOptions(**sizes),
            terms=(BCR(real=10.0, fake=10.0),),
            training=TrainingOptions(batch=self.batch, precision="fp32"),
        )

    @property
    def tokens(self) -> int:
        """Number L of patches of an image."""
        return (self.resolution // self.patch) ** 2


@dataclass(frozen=True, kw_only=True)
class Range:
    """A size that is varied, and its values; the other sizes are those of the base; "tokens" varies the patch
    alone."""

    name: str
    field: str
    values: tuple[int, ...]

    def bases(self, base: Base) -> list[Base]:
        """The sizes of each step, the smallest first."""
        return [replace(base, **{self.field: value}) for value in self.values]

    def size(self, base: Base) -> int:
        """The number on the horizontal axis."""
        return base.tokens if self.name == "tokens" else getattr(base, self.field)


RANGES = (
    Range(name="batch", field="batch", values=(4, 8, 16, 32, 64)),
    Range(name="width", field="width", values=(32, 64, 128, 256, 512)),
    Range(name="depth", field="depth", values=(1, 2, 4, 8, 16)),
    Range(name="tokens", field="patch", values=(16, 8, 4, 2)),
    Range(name="resolution", field="resolution", values=(16, 24, 32, 48, 64)),
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """The cost of a training step at one size."""

    size: int
    seconds: float
    """Seconds of the fastest round, which other work on the machine disturbs least."""
    flops: float
    """FLOPs of the whole step over its batch, counted from the shapes."""
    memory_mib: float | None
    """Peak memory in MiB of a fresh process: resident, or allocated by torch on a GPU; None if not asked
    for."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How the cost of a step grows with one size."""

    name: str
    points: list[Point]
    fitted_from: float
    """Least size in the fit, which takes the upper half of the range on a logarithmic scale."""
    exponent: float
    """Exponent of the power law fitted to the seconds over the size."""
    expected_exponent: float
    """Exponent of the power law fitted to the FLOPs of the same sizes."""
    memory_exponent: float | None


def exponent(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """(a, b) of the power law value = b size^a by least squares of the logarithms; two sizes at least."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((one - mean_x) ** 2 for one in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    return slope, math.exp(mean_y - slope * mean_x)


def upper_half(points: Sequence[Point]) -> list[Point]:
    """The points from the geometric mean of the smallest and the largest size on."""
    sizes = [point.size for point in points]
    return [point for point in points if point.size**2 >= min(sizes) * max(sizes)]


def measure_range(
    varied: Range, base: Base, *, device: torch.device, rounds: int, memory: bool = False
) -> Scaling:
    """Time steps at every size of one range, the sizes taking turns; `memory` starts a process for each."""
    bases = varied.bases(base)
    steppers = [_stepper(one, device) for one in bases]
    seconds = [math.inf for _ in bases]
    peaks: list[float | None] = [None for _ in bases]
    for _ in range(rounds):
        for k, stepper in enumerate(steppers):
            seconds[k] = min(seconds[k], stepper.timed(recorded=False))
    if memory:
        peaks = [memory_of(one.recipe(), data=None, device=device).peak_mib for one in bases]
    points = [
        Point(size=varied.size(one), seconds=taken, flops=_flops(one), memory_mib=peak)
        for one, taken, peak in zip(bases, seconds, peaks, strict=True)
    ]
    return scaling(varied.name, points)


def scaling(name: str, points: list[Point]) -> Scaling:
    """The exponents of the upper half of `points`."""
    upper = upper_half(points)
    sizes, peaks = [point.size for point in upper], [point.memory_mib for point in upper]
    known = [peak for peak in peaks if peak is not None]
    return Scaling(
        name=name,
        points=points,
        fitted_from=min(sizes),
        exponent=exponent(sizes, [point.seconds for point in upper])[0],
        expected_exponent=exponent(sizes, [point.flops for point in upper])[0],
        memory_exponent=exponent(sizes, known)[0] if len(known) == len(upper) else None,
    )


def to_dict(base: Base, scalings: Sequence[Scaling]) -> dict[str, Any]:
    """The base and the measurements as a JSON-ready object."""
    return {"base": asdict(base), "ranges": [asdict(one) for one in scalings]}


def _stepper(base: Base, device: torch.device) -> Stepper:
    recipe = base.recipe()
    stepper = Stepper(recipe, open_images(recipe.data, None, base.batch), device)
    for _ in range(WARM_UP):
        stepper.step()
    return stepper


def _flops(base: Base) -> float:
    return performed_flops(base.recipe()) * base.batch


DOTS_PER_INCH = 120
MEASURED, FITTED = "#2f86c9", "#cf4a5a"


def write_figure(path: Path, scalings: Sequence[Scaling], title: str) -> None:
    """Write the PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        draw(scalings, title).savefig(temporary, format="png", dpi=DOTS_PER_INCH)


def draw(scalings: Sequence[Scaling], title: str) -> Figure:
    """Measured points, and the line fitted to the upper half of each range."""
    figure = Figure(figsize=(3.4 * len(scalings) + 0.4, 3.4), layout="constrained")
    panels = figure.subplots(1, len(scalings), sharey=True, squeeze=False)[0]
    for axes, found in zip(panels, scalings, strict=True):
        _panel(axes, found)
    panels[0].set_ylabel("seconds of a step", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def _panel(axes: Axes, found: Scaling) -> None:
    sizes = [point.size for point in found.points]
    axes.plot(sizes, [point.seconds for point in found.points], "o", color=MEASURED, label="measured")
    upper = upper_half(found.points)
    fitted = [float(point.size) for point in upper]
    slope, factor = exponent(fitted, [point.seconds for point in upper])
    label = f"exponent {slope:.2f} (by FLOPs {found.expected_exponent:.2f})"
    axes.plot(fitted, [factor * size**slope for size in fitted], color=FITTED, label=label)
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel(found.name, fontsize=9)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.2)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, loc="upper left")
