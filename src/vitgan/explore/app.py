"""The page as a whole: its tabs, the choice of a run above them, and how it is served."""

import functools
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported, which would call its makers

import gradio as gr

from vitgan.explore.discriminator import discriminator_tab
from vitgan.explore.generator import DIRECTIONS_TAB, directions_tab, samples_tab, walk_tab
from vitgan.explore.models import Model, ModelCache
from vitgan.explore.page import QUICK, Refresh, Shared, errors_shown
from vitgan.explore.projection import projection_tab
from vitgan.explore.runs import runs_tab
from vitgan.latent.projection import MOST_BYTES

DELETE_AFTER = (600, 6 * 3600)  # seconds: how often old files are looked for, and the age at which they go


def serve(folder: Path, first: str | None, *, host: str, port: int) -> None:
    """Serve the page over the runs in `folder` until the process is interrupted or terminated.

    `first` is the run that is chosen when the page opens, in the forms that `vitgan.load` takes; None chooses
    the first of `folder`. Uploads and written films lie in a temporary folder that is deleted at the end.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="vitgan-explore-") as place:
        os.environ["GRADIO_TEMP_DIR"] = place
        page = build(ModelCache(folder, first))
        page.launch(**launch_options(host, port), prevent_thread_lock=True)
        print(f"vitgan explore: http://{host}:{port} (Ctrl-C ends it)", flush=True)
        page.block_thread()


def build(models: ModelCache) -> gr.Blocks:
    """The whole page over `models`; their first name is chosen when it opens."""
    with gr.Blocks(title="vitgan explore", analytics_enabled=False, delete_cache=DELETE_AFTER) as page:
        gr.Markdown("# vitgan explore")
        names = models.names()
        # gradio takes any name: `models`, not the list of when the page was opened, says which runs exist.
        run = gr.Dropdown(names, value=names[0], label="Run", elem_id="run", allow_custom_value=True)
        about = gr.Markdown(elem_id="about")
        shared = Shared(
            page=page, models=models, run=run, kept=gr.State([]), found=gr.State(None), tabs=gr.Tabs()
        )
        refreshes = [Refresh(components=[about], updates=lambda model: [_about(model)]), *_tabs(shared)]
        seen = gr.State(names)
        run.focus(functools.partial(_choices, models), seen, [run, seen], api_visibility="private", **QUICK)
        _redraw_on_choice(page, shared, refreshes)
    return page


def _choices(models: ModelCache, seen: list[str]) -> tuple[gr.Dropdown, list[str]]:
    """Names of the runs there are now, then others `seen` before: an open list of gradio must not shrink."""
    names = list(dict.fromkeys([*models.names(), *seen]))
    return gr.Dropdown(choices=names), names


def _tabs(shared: Shared) -> list[Refresh]:
    with shared.tabs:
        with gr.Tab("Samples"):
            samples = samples_tab(shared)
        with gr.Tab("Walk"):
            walk = walk_tab(shared)
        with gr.Tab("Directions", id=DIRECTIONS_TAB):
            directions, own = directions_tab(shared)
        with gr.Tab("Your picture"):
            picture = projection_tab(shared, own)
        with gr.Tab("Discriminator"):
            view = discriminator_tab(shared)
        with gr.Tab("Runs"):
            runs = runs_tab(shared)
    return [samples, walk, directions, picture, view, runs]


def _redraw_on_choice(page: gr.Blocks, shared: Shared, refreshes: list[Refresh]) -> None:
    """Make every tab adapt to the chosen model and draw, on opening the page and on choosing another run."""

    def adapt(name: str) -> list[Any]:
        model = shared.models.get(name)
        return [update for refresh in refreshes for update in refresh.updates(model)]

    parts = [part for refresh in refreshes for part in refresh.components]
    refreshed = gr.on(
        [page.load, shared.run.change],
        errors_shown(adapt),
        shared.run,
        parts,
        api_visibility="private",
        **QUICK,
    )
    for draw in (draw for refresh in refreshes for draw in refresh.draws):
        name = draw.function.__name__
        refreshed.success(
            errors_shown(draw.function), [*draw.inputs], [*draw.outputs], api_name=name, **QUICK
        )


def _about(model: Model) -> str:
    """The line about the generator: image size, colours, classes, number of parameters."""
    generator = model.generator
    numbers = sum(parameter.numel() for parameter in generator.parameters())
    kind = {1: "grey", 3: "RGB"}[generator.channels]
    classes = f", {generator.classes} classes" if generator.classes else ""
    return f"{generator.resolution} x {generator.resolution} pixels, {kind}{classes}, {numbers:,} parameters"


def launch_options(host: str, port: int) -> dict[str, Any]:
    """The arguments of gradio's `launch`: no public link, nothing sent to its makers, uploads bounded."""
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
