"""The run's page `report.html`: curves, samples, settings and environment in one file."""

import base64
import dataclasses
import html
import io
import math
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitgan.compat import importing_matplotlib
from vitgan.engine.grid import sample_files
from vitgan.engine.loggers import GROUPS, read_log, split_key
from vitgan.io import write_text
from vitgan.terminal import printable

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
    """A plot: its heading, a sentence on what it shows, and the <svg> element."""

    heading: str
    description: str
    svg: str


def panels(lines: list[dict]) -> list[Panel]:
    """A plot for every group of numbers in the log (`vitgan.engine.loggers.split_key`), over images seen."""
    grouped: dict[str, list[str]] = {group: [] for group in GROUPS}
    lines = [{printable(key): value for key, value in line.items()} for line in lines]
    for key in dict.fromkeys(key for line in lines for key in line):
        if key not in WITHOUT_CURVE:
            grouped.setdefault(split_key(key)[0], []).append(key)
    return [_panel(group, keys, lines) for group, keys in grouped.items() if keys]


def smoothed(y: np.ndarray) -> np.ndarray:
    """The moving average of y (n,) over a twenty-fifth of its length, over fewer values at the ends."""
    window = np.ones(2 * (len(y) // 50) + 1)
    return np.convolve(y, window, "same") / np.convolve(np.ones_like(y), window, "same")


def thinned(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` of the points x, y (n,): the lowest and highest of each stretch, so no spike is lost."""
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
    with importing_matplotlib():
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
    """The <svg> element with unique ids, the page's text colour, and paths rounded to 1/100 of a point."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", svg, count=5)
    svg = svg.replace("xlink:href", "href").replace(INK, "currentColor")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{re.sub(r'[^A-Za-z0-9]', '-', prefix)}-", svg)
    return re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)


MOST_SHOWN = 12  # sample grids on the page
# A base64 character holds 6 bits: with the curves, a page of less than 2 MB.
BYTES_OF_LAST_SAMPLE, BYTES_OF_EARLIER_SAMPLE = 400_000, 50_000
LINES_OF_END = 10  # "at the end" is the mean of so many of the log's last lines
FACTS_AT_END = {  # key in the log: what it is called in the headline
    "images_per_second": "images/s",
    "loss_discriminator": "discriminator loss",
    "loss_generator": "generator loss",
    "logit_gap": "logit gap, real − fake",
    "gradient_norm_discriminator": "discriminator gradient norm",
}


def write_report(folder: Path, *, title: str, recipe: dict, environment: dict[str, str], status: str) -> None:
    """Write `folder/report.html` from `folder/log.jsonl` and the sample grids, as far as they exist.

    recipe: `vitgan.config.to_dict` of the run's recipe. status: a sentence on how the run stands. The write
    is atomic: where it raises OSError, of a full disk for instance, the previous page stays.
    """
    page = _page(title, status, _sections(folder, recipe, environment))
    write_text(folder / "report.html", page)


def settings(value: Any, where: str = "") -> list[tuple[str, str]]:
    """Every leaf of `vitgan.config.to_dict` as (dotted field, value); the row of an object is its class."""
    if isinstance(value, dict):
        own = [(where, str(value["type"]))] if where and "type" in value else []
        fields = [(f"{where}.{key}".lstrip("."), item) for key, item in value.items() if key != "type"]
    elif isinstance(value, (list, tuple)) and any(isinstance(item, (dict, list)) for item in value):
        own, fields = [], [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    else:
        return [(where, _shown(value))]
    return own + [row for place, item in fields for row in settings(item, place)]


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value)) or "none"
    return "none" if value is None else str(value)


def _sections(folder: Path, recipe: dict, environment: dict[str, str]) -> list[str]:
    lines = read_log(folder)
    return [
        _facts(lines),
        _section("Samples", _samples(sample_files(folder))),
        _section("Curves", _curves(lines)),
        _section("Settings", _settings_tables(recipe)),
        _section("Versions and hardware", _table("Environment", list(environment.items()))),
    ]


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{content}\n</section>"


def _facts(lines: list[dict]) -> str:
    last = lines[-1] if lines else {}
    facts = {
        "images seen": f"{last.get('images', 0):,}",
        "minutes": f"{last.get('seconds', 0.0) / 60:,.1f}",
    }
    for key, label in FACTS_AT_END.items():
        values = [line[key] for line in lines[-LINES_OF_END:] if math.isfinite(line.get(key, math.nan))]
        facts[label] = f"{np.mean(values):,.4g}" if values else "–"
    items = (f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in facts.items())
    note = f"Losses, logits, norms and images/s: the mean of the last {LINES_OF_END} lines of the log."
    return f'<dl class="facts">{"".join(items)}</dl>\n<p class="note">{note}</p>'


def _curves(lines: list[dict]) -> str:
    figures = [
        f"<figure><h3>{html.escape(panel.heading)}</h3>"
        f'<div role="img" aria-label="{html.escape(panel.description)}">{panel.svg}</div></figure>'
        for panel in panels(lines)
    ]
    if not figures:
        return "<p>Nothing is logged yet.</p>"
    note = (
        "Where there are many values: thin, what was logged; thick, the mean over a twenty-fifth of the run."
    )
    return f'<p class="note">{note}</p>\n<div class="curves">{"".join(figures)}</div>'


def _samples(files: list[Path]) -> str:
    if not files:
        return "<p>No samples yet.</p>"
    chosen = np.unique(np.linspace(0, len(files) - 1, min(MOST_SHOWN, len(files))).round().astype(int))
    *earlier, last = [files[index] for index in chosen]
    strip = "".join(_picture(path, BYTES_OF_EARLIER_SAMPLE) for path in earlier)
    latest = f'<div class="latest">{_picture(last, BYTES_OF_LAST_SAMPLE)}</div>'
    return latest + (
        f'\n<h3>Earlier, of the same latents</h3>\n<div class="strip">{strip}</div>' if strip else ""
    )


def _picture(path: Path, most_bytes: int) -> str:
    caption = f"{int(path.stem):,} images"
    content, kind = path.read_bytes(), "png"
    if len(content) > most_bytes:
        content, kind = _shrunk(path, most_bytes), "jpeg"
    address = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    alternative = f"Grid of generated images after {caption}"
    return f'<figure><img src="{address}" alt="{alternative}"><figcaption>{caption}</figcaption></figure>'


def _shrunk(path: Path, most_bytes: int) -> bytes:
    """The picture as a JPEG of at most `most_bytes`, reduced in size until it fits."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    while True:
        written = io.BytesIO()
        picture.save(written, format="JPEG", quality=88)
        if written.tell() <= most_bytes:
            return written.getvalue()
        picture = picture.resize([max(1, side * 3 // 4) for side in picture.size], Image.Resampling.LANCZOS)


def _settings_tables(recipe: dict) -> str:
    tables: dict[str, list[tuple[str, str]]] = {}
    for field, value in settings(recipe):
        part = field.split(".")[0].split("[")[0]
        nested = isinstance(recipe[part], dict) or field != part
        tables.setdefault(part if nested else "run", []).append((field, value))
    ordered = "".join(_table(part, rows) for part, rows in tables.items())
    return f'<div class="settings">{ordered}</div>' if ordered else "<p>No settings were given.</p>"


def _table(caption: str, rows: list[tuple[str, str]]) -> str:
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>'
        for name, value in rows
    )
    return f"<table><caption>{html.escape(caption)}</caption><tbody>{body}</tbody></table>"


def _page(title: str, status: str, sections: list[str]) -> str:
    content = "\n".join(sections)
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{html.escape(title)}</h1><p class="status">{html.escape(status)}</p></header>
<main>
{content}
</main>
<footer>Written by vitgan, {written}.</footer>
</body>
</html>
"""


STYLE = """
:root { --page: #fbfbf9; --text: #1d1d1f; --muted: #64646b; --line: #dededa; --accent: #2f86c9 }
@media (prefers-color-scheme: dark) {
  :root { --page: #16181b; --text: #e6e6e3; --muted: #9b9ba3; --line: #34373c; --accent: #5aa9e6 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem;
  padding-bottom: .3rem; border-bottom: 1px solid var(--line) } h3 { font-size: .95rem; margin: 0 0 .3rem }
figure { margin: 0 } img { max-width: 100%; display: block; border-radius: 3px }
svg { width: 100%; height: auto; display: block } svg text { font-family: system-ui, sans-serif !important }
footer, .note, figcaption { color: var(--muted); font-size: .85rem } footer { margin-top: 2rem }
.status { margin: .5rem 0 1.2rem; padding: .4rem .8rem; border-left: 4px solid var(--accent) }
.facts { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); margin: 0 }
.facts div { display: flex; flex-direction: column-reverse; justify-content: flex-end }
.facts dt { color: var(--muted); font-size: .8rem }
.facts dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums }
.latest { margin-bottom: 1.2rem }
.strip { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)) }
.strip img { width: 100% }
.curves { display: grid; gap: 1.4rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)) }
.settings { columns: 26rem; column-gap: 2rem }
table { width: 100%; margin-bottom: 1rem; border-collapse: collapse; break-inside: avoid; font-size: .85rem }
caption { text-align: left; font-weight: 600; padding-bottom: .2rem }
th, td { padding: .15rem .6rem .15rem 0; border-top: 1px solid var(--line); vertical-align: top;
  text-align: left }
th { font: .8rem ui-monospace, monospace; width: 55% }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
"""
