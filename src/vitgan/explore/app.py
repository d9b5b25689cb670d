"""The page: its tabs, what they share, and how it is served."""

import functools
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported: it would ask its makers

import gradio as gr

from vitgan.explore.directions import DIRECTIONS_TAB, directions_tab
from vitgan.explore.picture import picture_tab
from vitgan.explore.runs import runs_tab
from vitgan.explore.samples import samples_tab, walk_tab
from vitgan.explore.shelf import Model, Shelf
from vitgan.explore.view import view_tab
from vitgan.explore.visit import QUICK, Fitting, Visit, told
from vitgan.latent.projection import MOST_BYTES

KEPT_FOR = (600, 6 * 3600)  # seconds: how often files are looked through, and how old they may grow


def serve(folder: Path, first: str | None, *, host: str, port: int) -> None:
    """The page over the runs of `folder`, `first` chosen, until it is interrupted or ended.

    Uploads and walks lie in a temporary folder that goes with it.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="vitgan-explore-") as place:
        os.environ["GRADIO_TEMP_DIR"] = place
        page = build(Shelf(folder, first))
        page.launch(**launch_options(host, port), prevent_thread_lock=True)
        print(f"vitgan explore: http://{host}:{port} (Ctrl-C ends it)", flush=True)
        page.block_thread()


def build(shelf: Shelf) -> gr.Blocks:
    """The page over a shelf, its first model chosen."""
    with gr.Blocks(title="vitgan explore", analytics_enabled=False, delete_cache=KEPT_FOR) as page:
        gr.Markdown("# vitgan explore")
        names = shelf.names()
        # Any name is taken: the shelf, and not the list of the page's beginning, says what there is.
        run = gr.Dropdown(names, value=names[0], label="Run", elem_id="run", allow_custom_value=True)
        about = gr.Markdown(elem_id="about")
        visit = Visit(
            page=page, shelf=shelf, run=run, kept=gr.State([]), found=gr.State(None), tabs=gr.Tabs()
        )
        fittings = [Fitting(parts=[about], form=lambda model: [_about(model)]), *_tabs(visit)]
        seen = gr.State(names)
        run.focus(functools.partial(_choices, shelf), seen, [run, seen], api_visibility="private", **QUICK)
        _fit_and_draw(page, visit, fittings)
    return page


def _choices(shelf: Shelf, seen: list[str]) -> tuple[gr.Dropdown, list[str]]:
    """What there is now, then what was there: an open list of gradio may not grow shorter."""
    names = list(dict.fromkeys([*shelf.names(), *seen]))
    return gr.Dropdown(choices=names), names


def _tabs(visit: Visit) -> list[Fitting]:
    with visit.tabs:
        with gr.Tab("Samples"):
            samples = samples_tab(visit)
        with gr.Tab("Walk"):
            walk = walk_tab(visit)
        with gr.Tab("Directions", id=DIRECTIONS_TAB):
            directions, own = directions_tab(visit)
        with gr.Tab("Your picture"):
            picture = picture_tab(visit, own)
        with gr.Tab("Discriminator"):
            view = view_tab(visit)
        with gr.Tab("Runs"):
            runs = runs_tab(visit)
    return [samples, walk, directions, picture, view, runs]


def _fit_and_draw(page: gr.Blocks, visit: Visit, fittings: list[Fitting]) -> None:
    """On arrival, and when another run is chosen: every tab takes the model's form, then draws."""

    def fit(name: str) -> list[Any]:
        model = visit.shelf.model(name)
        return [update for fitting in fittings for update in fitting.form(model)]

    parts = [part for fitting in fittings for part in fitting.parts]
    fitted = gr.on(
        [page.load, visit.run.change], told(fit), visit.run, parts, api_visibility="private", **QUICK
    )
    for draw in (draw for fitting in fittings for draw in fitting.draws):
        name = draw.function.__name__
        fitted.success(told(draw.function), [*draw.inputs], [*draw.outputs], api_name=name, **QUICK)


def _about(model: Model) -> str:
    generator = model.generator
    numbers = sum(parameter.numel() for parameter in generator.parameters())
    kind = {1: "grey", 3: "RGB"}[generator.channels]
    classes = f", {generator.classes} classes" if generator.classes else ""
    return f"{generator.resolution} x {generator.resolution} pixels, {kind}{classes}, {numbers:,} parameters"


def launch_options(host: str, port: int) -> dict[str, Any]:
    """Nothing is shared, nothing is asked of the network, uploads are bounded."""
    return {
        "server_name": host,
        "server_port": port,
        "share": False,
        "quiet": True,
        "max_file_size": MOST_BYTES,
        "footer_links": [],
        "ssr_mode": False,
        "enable_monitoring": False,
    }
