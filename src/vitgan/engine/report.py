"""A run's report: one HTML file with curves, samples, settings and hardware, complete in itself."""

import base64
import html
import io
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitgan.engine.curves import panels
from vitgan.engine.log import read_log
from vitgan.replacing import replacing

MOST_SAMPLES = 12
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
    """Writes `folder/report.html` from what there is of `folder/log.jsonl` and `folder/samples/*.png`.

    A sample's name is the images seen at it: 000012800.png. Other pictures are left out.
    recipe: `vitgan.options.to_dict` of the run's. status: a sentence on how the run stands.
    The page is whole, or (OSError, for instance of a full disk) the one before it stays.
    """
    page = _page(title, status, _sections(folder, recipe, environment))
    with replacing(folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


def settings(value: Any, where: str = "") -> list[tuple[str, str]]:
    """Every leaf of `vitgan.options.to_dict` as (dotted field, value); an object's own row is its class."""
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
        _section("Samples", _samples(sorted(_sample_files(folder), key=lambda path: int(path.stem)))),
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


def _sample_files(folder: Path) -> list[Path]:
    return [path for path in (folder / "samples").glob("*.png") if path.stem.isdigit()]


def _samples(files: list[Path]) -> str:
    if not files:
        return "<p>No samples yet.</p>"
    chosen = np.unique(np.linspace(0, len(files) - 1, min(MOST_SAMPLES, len(files))).round().astype(int))
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
    """The picture as JPEG of at most `most_bytes`, made smaller until it is."""
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
