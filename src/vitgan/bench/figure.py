"""The picture of the scaling: a panel for each size, seconds of a step on two log axes."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, NullLocator

from vitgan.bench.scaling import Scaling, exponent, upper_half
from vitgan.replacing import replacing

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
