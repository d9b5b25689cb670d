"""The page: its tabs, what they share, and how it is served."""

import os
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported: it would ask its makers

import gradio as gr

from vitgan.explore.latents import directions_tab, picture_tab, samples_tab, walk_tab
from vitgan.explore.runs import runs_tab, view_tab
from vitgan.explore.shelf import Shelf
from vitgan.latent.pictures import MOST_BYTES


def build(folder: Path, first: str | None) -> gr.Blocks:
    """The page over the runs of `folder`, `first` or the package's digits chosen."""
    shelf = Shelf(folder, first)
    with gr.Blocks(title="vitgan explore", analytics_enabled=False) as page:
        gr.Markdown("# vitgan explore")
        kept, found = gr.State([]), gr.State(None)
        names = shelf.names()
        run = gr.Dropdown(names, value=first or names[0], label="Run", elem_id="run")
        with gr.Tab("Samples"):
            samples_tab(shelf, run, kept)
        with gr.Tab("Walk"):
            walk_tab(shelf, run, kept)
        with gr.Tab("Directions"):
            directions_tab(shelf, run, found)
        with gr.Tab("Your picture"):
            picture_tab(shelf, run, found)
        with gr.Tab("Discriminator"):
            view_tab(shelf, run)
        with gr.Tab("Runs"):
            runs_tab(shelf, run)
        run.focus(lambda: gr.Dropdown(choices=shelf.names()), None, run)
    return page


def serve(page: gr.Blocks, *, host: str, port: int) -> None:
    """Until it is interrupted."""
    print(f"vitgan explore: http://{host}:{port} (Ctrl-C ends it)", flush=True)
    page.launch(**launch_options(host, port), prevent_thread_lock=False)


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
