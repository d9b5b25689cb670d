"""The tab that shows how a run trains, refreshed every few seconds while it does."""

import html
import json
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from vitgan.engine.grid import sample_files
from vitgan.engine.loggers import read_log
from vitgan.engine.report import panels, settings
from vitgan.engine.run_folder import facts
from vitgan.errors import UserError
from vitgan.explore.images import image_html
from vitgan.explore.page import QUICK, Draw, Refresh, Shared, errors_shown
from vitgan.terminal import printable

REFRESH = 5.0  # seconds between two readings of the run's folder
CURVES = "display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem"
LARGE = 640  # pixels: the width that a picture of samples is enlarged to, at most


def runs_tab(shared: Shared) -> Refresh:
    """The tab "Runs": a run's curves, its samples over time, and its settings."""
    again = gr.Timer(REFRESH)
    before = gr.State(None)
    state = gr.Markdown(elem_id="state")
    when = gr.Slider(1, 2, 1, step=1, label="Sample", elem_id="when", visible=False)
    sample = gr.HTML(elem_id="sample", min_height=100)
    curves = gr.HTML(elem_id="curves")
    gr.Markdown("**Settings**")
    table = gr.HTML(elem_id="settings", max_height=320)

    def read(name: str, when: Any, before: dict[str, Any] | None) -> list[Any]:
        """Updates of the parts that have changed since `before`, which is what the last call has read.

        A slider that stood at the newest sample moves to one that has come since.
        """
        try:
            place = shared.models.folder_of(name)
        except UserError as error:
            return _nothing(str(error))
        if not (place / "recipe.json").exists():
            return _nothing(f"{name} is no run: nothing is trained in it.")
        files = sample_files(place)
        old = before if before is not None and before["run"] == name else {}
        newest = not old or (when or 0) >= old["files"]
        chosen = len(files) if newest else min(max(int(when), 1), len(files))
        now = {
            "run": name,
            "files": len(files),
            "sample": files[chosen - 1].name if files else None,
            "log": _changed(place / "log.jsonl"),
            "state": _line(place),
        }
        same = {key for key in now if old.get(key, "none") == now[key]}
        return [
            gr.skip() if "state" in same else now["state"],
            gr.skip() if "files" in same else _slider(len(files), chosen),
            gr.skip() if "sample" in same else _sample(files, chosen),
            gr.skip() if "log" in same else _curves(place),
            gr.skip() if old else _settings(place),
            gr.skip() if len(same) == len(now) else now,
        ]

    asked = [shared.run, when, before]
    outputs = [state, when, sample, curves, table, before]
    again.tick(errors_shown(read), asked, outputs, **QUICK)
    when.input(errors_shown(read), asked, outputs, trigger_mode="always_last", **QUICK)
    return Refresh(draws=[Draw(function=read, inputs=asked, outputs=outputs)])


def _nothing(reason: str) -> list[Any]:
    """What is shown where there is no run to show: the reason, and empty parts."""
    return [reason, gr.Slider(visible=False), "", "", "", None]


def _changed(path: Path) -> tuple[int, int]:
    """A file's time of change in ns and its size in bytes; zeros where it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _line(place: Path) -> str:
    """The run's facts in one line: recipe, data, state, images seen, score."""
    found = facts(place)
    shown_facts = {key: found[key] for key in ("recipe", "data", "state", "images", "score") if found[key]}
    if isinstance(shown_facts.get("images"), int):
        shown_facts["images"] = f"{shown_facts['images']:,}"
    return printable(", ".join(f"{key}: {value}" for key, value in shown_facts.items()))


def _slider(count: int, chosen: int) -> gr.Slider:
    return gr.Slider(
        maximum=max(count, 2), value=max(chosen, 1), visible=count > 1, label=f"Sample, 1 to {count}"
    )


def _sample(files: list[Path], chosen: int) -> str:
    if not files:
        return "No samples yet."
    path = files[chosen - 1]
    try:
        with Image.open(path) as image:
            drawn = image_html(image.copy(), f"samples of {path.stem}", LARGE)
    except OSError as error:  # half written, or deleted meanwhile
        return f"{html.escape(path.name)} cannot be read ({html.escape(str(error))})."
    return f"<p>At {int(path.stem):,} images</p>{drawn}"


def _curves(place: Path) -> str:
    drawn = "".join(f"<div><h4>{html.escape(p.heading)}</h4>{p.svg}</div>" for p in panels(read_log(place)))
    return f'<div style="{CURVES}">{drawn}</div>' if drawn else "Nothing is logged yet."


def _settings(place: Path) -> str:
    try:
        recipe = json.loads((place / "recipe.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    rows = (
        f"<tr><th scope='row' style='text-align: left; padding-right: 2em'>{html.escape(name)}</th>"
        f"<td>{html.escape(printable(value))}</td></tr>"
        for name, value in settings(recipe)
    )
    return f"<table>{''.join(rows)}</table>"
