"""The tabs that look: the discriminator's view of an image, and a run while it trains."""

import html
import json
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image

from vitgan.diagnostics.attention import reading
from vitgan.engine.curves import panels
from vitgan.engine.log import read_log
from vitgan.engine.overview import facts
from vitgan.engine.report import settings
from vitgan.errors import UserError
from vitgan.explore.latents import QUICK, STILL, told
from vitgan.explore.shelf import Shelf
from vitgan.explore.shown import class_attention, heat, no_gradient_image, patch_grid
from vitgan.latent.pictures import picture_of
from vitgan.models.vit import VisionTransformer

REFRESH = 5.0  # seconds
CURVES = "display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem"


def view_tab(shelf: Shelf, run: gr.Dropdown) -> None:
    """What the discriminator looks at: attention by layer and head, patches with overlap, the logit."""
    gr.Markdown("The attention of the class token, over a sample or a picture of your own.")
    with gr.Row():
        seed = gr.Number(0, label="Seed of the sample", precision=0, minimum=0)
        layer = gr.Number(1, label="Layer", precision=0, minimum=1)
        head = gr.Number(0, label="Head (0: all)", precision=0, minimum=0)
        file = gr.File(label="Picture in its place", type="binary", height=110)
    look = gr.Button("Look", variant="primary", elem_id="look")
    with gr.Row():
        seen = gr.Image(label="Attention", elem_id="attention", **STILL)
        grid = gr.Image(label="Patches, one with its overlap", elem_id="patches", **STILL)
    said = gr.Textbox(label="Logit (above 0: taken for real)", interactive=False, elem_id="logit")

    def judge(name: str, seed: int, layer: int, head: int, data: bytes | None) -> Any:
        model = shelf.model(name)
        network = model.discriminator
        if not isinstance(network, VisionTransformer):
            raise UserError(
                f"{name} has no Vision Transformer to look into: choose a run of one's own training."
            )
        generator = model.generator
        image = generator.sample(1, seed=int(seed))[0] if data is None else picture_of(data, generator)
        labels = torch.zeros(1, dtype=torch.long) if generator.classes else None
        with torch.no_grad(), reading(network) as found:
            logit = network(no_gradient_image(image.unsqueeze(0)), labels).item()
        layers = [entry.maps[0][0] for entry in found.attention.values() if entry.maps]
        maps = layers[min(max(int(layer), 1), len(layers)) - 1]  # (h, N, N)
        chosen = None if int(head) < 1 else min(int(head), len(maps)) - 1
        weights = class_attention(maps, chosen)
        text = f"{logit:.3f}; {len(layers)} layers of {len(maps)} heads"
        return heat(image, weights), patch_grid(image, network.options.patch, network.overlap), text

    look.click(told(judge), [run, seed, layer, head, file], [seen, grid, said], **QUICK)


def runs_tab(shelf: Shelf, run: gr.Dropdown) -> None:
    """Curves, samples over time and settings of a run, read anew while it trains."""
    again = gr.Timer(REFRESH)
    state = gr.Markdown(elem_id="state")
    with gr.Row():
        when = gr.Slider(0, 1, 1, step=0.01, label="Sample, from the first to the last", elem_id="when")
        sample = gr.Image(label="Sample", elem_id="sample", **STILL)
    curves = gr.HTML(elem_id="curves")
    table = gr.Dataframe(headers=["setting", "value"], interactive=False, label="Settings", max_height=320)

    def read(name: str, when: float) -> Any:
        place = shelf.place(name)
        if not (place / "recipe.json").exists():
            return f"{name} is no run: nothing is trained in it.", None, "", []
        found = facts(place)
        line = ", ".join(f"{key}: {found[key]}" for key in ("state", "images", "data", "score") if found[key])
        drawn = "".join(
            f"<div><h4>{html.escape(p.heading)}</h4>{p.svg}</div>" for p in panels(read_log(place))
        )
        return line, _sample(place, when), f'<div style="{CURVES}">{drawn}</div>', _settings(place)

    outputs = [state, sample, curves, table]
    for event in (run.change, when.release, again.tick):
        event(told(read), [run, when], outputs, **QUICK)


def _sample(place: Path, when: float) -> Image.Image | None:
    files = sorted((place / "samples").glob("[0-9]*.png"))
    if not files:
        return None
    with Image.open(files[round(when * (len(files) - 1))]) as image:
        return image.convert("RGB")


def _settings(place: Path) -> list[list[str]]:
    try:
        recipe = json.loads((place / "recipe.json").read_bytes())
    except (OSError, ValueError):
        return []
    return [[name, value] for name, value in settings(recipe)]
