"""The table's pictures: samples by row, and the discriminators' gradient norms.

Shapes: N images, C channels, R resolution.
"""

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitgan.compat import importing_matplotlib
from vitgan.engine.checkpoint import checkpoints
from vitgan.engine.grid import grid
from vitgan.engine.loggers import read_log
from vitgan.engine.run_folder import load_generator
from vitgan.io import replacing
from vitgan.tables.plan import Plan
from vitgan.tables.results import leading, leading_number
from vitgan.terminal import printable

with importing_matplotlib():
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FormatStrFormatter, LogLocator, NullFormatter

SHOWN = 16  # samples of a row
COLUMNS = 3  # panels beside each other
TITLE_WIDTH = 52  # letters of a line over a panel
DOTS_PER_INCH = 120
COLOUR, OTHERS, WRONG = "#2f86c9", "#c4c4c4", "#cf4a5a"
NORM = "gradient_norm_discriminator"


def write_figures(plan: Plan, table: dict[str, Any]) -> None:
    """Write `table.png`, `curves.png` and `gradient_norms.png` into the plan's folder."""
    _save(plan.out / "table.png", samples(plan, table))
    _save(plan.out / "curves.png", curves(table))
    _save(plan.out / "gradient_norms.png", gradient_norms(plan, table))


def samples(plan: Plan, table: dict[str, Any]) -> Figure:
    """A figure of a strip of each row's samples from the same seed, under a strip of real images."""
    strips: list[tuple[str, Tensor | None, str]] = [("real images", _real(plan), "")]
    for row in table["rows"]:
        images = None
        if checkpoints(plan.folder(row["row"])):
            generator = load_generator(plan.folder(row["row"]))
            images = generator.sample(SHOWN, seed=plan.request.seed)
        strips.append((row["label"], images, _caption(row)))
    figure = Figure(figsize=(13, 0.62 * len(strips) + 0.2), layout="constrained")
    panels = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
    for axes, strip in zip(panels, strips, strict=True):
        _strip(axes, plan, *strip)
    return figure


def _strip(axes: Axes, plan: Plan, label: str, images: Tensor | None, caption: str) -> None:
    """Draw one strip of images uint8 (N, C, R, R); blank squares where `images` is None."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    shown = _blank(plan) if images is None else images
    axes.imshow(grid(shown, columns=SHOWN), cmap="gray", vmin=0, vmax=255)
    if images is None:
        axes.text(0.5, 0.5, "no checkpoint", ha="center", va="center", transform=axes.transAxes, color=WRONG)
    outside = {"transform": axes.transAxes, "va": "center", "fontsize": 9}
    axes.text(-0.01, 0.5, label, ha="right", **outside)
    axes.text(1.01, 0.5, caption, ha="left", **outside)


def _blank(plan: Plan) -> Tensor:
    """Light squares in place of samples, uint8 (N, C, R, R)."""
    form = plan.images.options
    return torch.full((SHOWN, form.channels, form.resolution, form.resolution), 240, dtype=torch.uint8)


def _caption(row: dict[str, Any]) -> str:
    number = leading(row["metrics"]).replace("frechet", "Fréchet") if row["metrics"] else ""
    ending = {"diverged": f"diverged at image {row['diverged_at'] or 0:,}", "failed": "failed"}
    return "\n".join(filter(None, (number.replace(" distance", "\ndistance"), ending.get(row["status"]))))


def _real(plan: Plan) -> Tensor:
    """SHOWN real images by the seed, uint8 (N, C, R, R)."""
    draws = torch.Generator().manual_seed(plan.request.seed)
    return plan.images.get(torch.randperm(len(plan.images), generator=draws)[:SHOWN].tolist())


def curves(table: dict[str, Any]) -> Figure:
    """A plot of the leading number against images and against minutes: the mean of a row's seeds, and from
    its least to its largest a band."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, unit in zip(panels, ("images", "seconds"), (1, 60), strict=True):
        for number, row in enumerate(table["rows"]):
            own = [
                _points(trial["curve"], key, unit) for trial in table["trials"] if trial["row"] == row["row"]
            ]
            _band(axes, [points for points in own if points], row["label"], f"C{number}")
        axes.set(xlabel={"images": "images seen", "seconds": "minutes of training"}[key], yscale="log")
        axes.grid(alpha=0.2)
    panels[0].xaxis.set_major_formatter(EngFormatter(sep=""))
    known = (leading_number(point["metrics"]) for trial in table["trials"] for point in trial["curve"])
    panels[0].set_ylabel(next((name.replace("_", " ") for name, _ in filter(None, known)), ""))
    if panels[1].get_legend_handles_labels()[0]:
        figure.legend(*panels[1].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def _points(curve: list[dict[str, Any]], key: str, unit: float) -> list[tuple[float, float]]:
    found = [(point[key] / unit, leading_number(point["metrics"])) for point in curve]
    return [(x, number[1]) for x, number in found if number is not None]


def _band(axes: Axes, trials: list[list[tuple[float, float]]], label: str, colour: str) -> None:
    """Draw the mean of the trials' curves over the range that all of them cover, and their band."""
    if not trials:
        return
    start, end = max(points[0][0] for points in trials), min(points[-1][0] for points in trials)
    x = np.unique(
        [x for points in trials for x, _ in points if start <= x <= end]
        or [points[-1][0] for points in trials]
    )
    values = np.array([np.interp(x, *np.array(points).T) for points in trials])
    axes.plot(x, values.mean(0), color=colour, marker=".", linewidth=1.3, label=label)
    axes.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)


def gradient_norms(plan: Plan, table: dict[str, Any]) -> Figure:
    """A plot of the norm of D's gradient over images seen, a panel for each row, the other rows behind it in
    grey."""
    curves = {row["label"]: _curve(plan.folder(row["row"])) for row in table["rows"]}
    columns = min(COLUMNS, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(4.2 * columns + 0.4, 2.3 * rows + 0.7), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(curves) :]:
        axes.set_visible(False)
    for axes, row in zip(panels.flat, table["rows"], strict=False):
        _panel(axes, row, curves)
    for k, axes in enumerate(panels.flat[: len(curves)]):
        axes.xaxis.set_tick_params(labelbottom=k + columns >= len(curves))
    figure.suptitle("Norm of the discriminator's gradient over images seen", fontsize=10)
    figure.supxlabel("images seen; each point is the mean of the steps since the last", fontsize=9)
    return figure


def _panel(axes: Axes, row: dict[str, Any], curves: dict[str, tuple[list[float], list[float]]]) -> None:
    for label, (images, norms) in curves.items():
        if label != row["label"]:
            axes.plot(images, norms, color=OTHERS, linewidth=0.7, zorder=1)
    images, norms = curves[row["label"]]
    axes.plot(images, norms, color=COLOUR, linewidth=1.3, marker="o" if len(images) == 1 else "", zorder=3)
    if row["diverged_at"] is not None:
        axes.axvline(row["diverged_at"], color=WRONG, linewidth=1, linestyle="--")
    said = f", largest {max(norms):.3g}" if norms else ", no finite value"
    diverged = "" if row["diverged_at"] is None else f", diverged at {row['diverged_at']:,}"
    axes.set_title(textwrap.fill(printable(f"{row['label']}{said}{diverged}"), TITLE_WIDTH), fontsize=9)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.2)
    axes.tick_params(labelsize=8)


def _curve(folder: Path) -> tuple[list[float], list[float]]:
    """Images seen and norms of D's gradient, where these are finite and above zero."""
    lines = read_log(folder)
    points = [(line["images"], line[NORM]) for line in lines if math.isfinite(line.get(NORM, math.nan))]
    kept = [(images, norm) for images, norm in points if norm > 0]
    return [images for images, _ in kept], [norm for _, norm in kept]


def _save(path: Path, figure: Figure) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
