"""The curves of a run's log as SVG to sit inside a page: its text is the page's, and it asks for no file."""

import dataclasses
import io
import math
import re
from collections.abc import Iterable

import numpy as np

from vitgan.engine.log import GROUPS, split_key

HEADINGS = {
    "loss": "Losses",
    "term": "Terms of the losses",
    "logit": "Logits of real and fake images",
    "gradient_norm": "Gradient norms",
    "images_per_second": "Images per second",
    "learning_rate": "Learning rates",
    "evaluation": "Scores (protocol in evaluations.jsonl)",
}
LOGARITHMIC = ("gradient_norm", "term")  # where every value is above zero
WITHOUT_CURVE = ("images", "seconds", "step")
MOST_POINTS = 1000  # of one curve
SMOOTHED_FROM = 50  # points; fewer are shown as they are
LEGEND_COLUMNS = 3
INK = "#010203"  # stands for the page's own colour of text
COLOURS = ("#2f86c9", "#e0762f", "#2f9e6e", "#a66bc9", "#c9a227", "#cf4a5a", "#3aa6a6", "#8c8c8c")
COLOUR_OF = {"discriminator": 0, "generator": 1, "real": 2, "fake": 5, "gap": 3}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot: its heading, what it shows in a sentence, and the <svg> element."""

    heading: str
    description: str
    svg: str


def panels(lines: list[dict]) -> list[Panel]:
    """A plot for every group of numbers in the log (`vitgan.engine.log.split_key`), over images seen."""
    grouped: dict[str, list[str]] = {group: [] for group in GROUPS}
    for key in dict.fromkeys(key for line in lines for key in line):
        if key not in WITHOUT_CURVE:
            grouped.setdefault(split_key(key)[0], []).append(key)
    return [_panel(group, keys, lines) for group, keys in grouped.items() if keys]


def smoothed(y: np.ndarray) -> np.ndarray:
    """The mean of each value (n,) and its neighbours, a twenty-fifth of all; fewer at the ends."""
    window = np.ones(2 * (len(y) // 50) + 1)
    return np.convolve(y, window, "same") / np.convolve(np.ones_like(y), window, "same")


def thinned(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` of the points (n,), (n,): lowest and highest of each stretch, so no spike is lost."""
    if len(x) <= most:
        return x, y
    stretches = np.array_split(np.arange(len(x)), most // 2)
    kept = {index for part in stretches for index in (part[y[part].argmin()], part[y[part].argmax()])}
    chosen = np.array(sorted(kept))
    return x[chosen], y[chosen]


def _panel(group: str, keys: list[str], lines: list[dict]) -> Panel:
    heading = HEADINGS.get(group, group)
    curves = {split_key(key)[1].replace("_", " ") or heading: _points(key, lines) for key in keys}
    ends = ", ".join(f"{name} {y[-1]:.3g}" for name, (_, y) in curves.items() if len(y))
    return Panel(
        heading=heading,
        description=f"{heading} over images seen; at the end: {ends or 'no finite value'}.",
        svg=_inline(_drawn(curves, logarithmic=group in LOGARITHMIC), prefix=group),
    )


def _points(key: str, lines: Iterable[dict]) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(line["images"], line[key]) for line in lines if key in line]
    points = np.array([pair for pair in pairs if np.isfinite(pair[1])], dtype=float).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def _drawn(curves: dict[str, tuple[np.ndarray, np.ndarray]], logarithmic: bool) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(5.6, 2.9))
        # By hand: matplotlib's own layout draws every plot twice.
        top = 1 - 0.1 * max(1, math.ceil(len(curves) / LEGEND_COLUMNS))
        axes = figure.add_axes((0.11, 0.17, 0.875, top - 0.17))
        for index, (name, (x, y)) in enumerate(curves.items()):
            if len(x):
                colour = COLOURS[COLOUR_OF.get(name, index) % len(COLOURS)]
                _draw_curve(axes, x, y, name, colour)
        if logarithmic and all((y > 0).all() for _, y in curves.values()):
            axes.set_yscale("log")
        _dress(axes)
        written = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    return written.getvalue()


def _draw_curve(axes, x: np.ndarray, y: np.ndarray, name: str, colour: str) -> None:
    many = len(x) > SMOOTHED_FROM
    if many:
        axes.plot(*thinned(x, y, MOST_POINTS), color=colour, linewidth=0.6, alpha=0.35)
        y = smoothed(y)
    step = math.ceil(len(x) / MOST_POINTS)
    marker = "o" if len(x) == 1 else ""
    style = {"linewidth": 1.6 if many else 1.4, "marker": marker, "markersize": 4}
    axes.plot(x[::step], y[::step], color=colour, label=f"{name}  {y[-1]:.3g}", **style)


def _dress(axes) -> None:
    from matplotlib.ticker import EngFormatter

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(which="both", color=INK, labelcolor=INK)
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("images seen", color=INK)
    if axes.get_legend_handles_labels()[0]:
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": LEGEND_COLUMNS, "borderaxespad": 0.2}
        axes.legend(frameon=False, labelcolor=INK, handlelength=1.2, **above)


def _inline(svg: str, prefix: str) -> str:
    """The <svg> element alone: ids unlike another plot's, ink the page's, paths to 1/100 of a point."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", svg, count=5)
    svg = svg.replace("xlink:href", "href").replace(INK, "currentColor")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{re.sub(r'[^A-Za-z0-9]', '-', prefix)}-", svg)
    return re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
