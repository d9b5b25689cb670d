"""The tabs that draw images with the generator: samples, walks between them, and moves along directions.

Shapes: K images, C channels, R resolution.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from vitgan.errors import UserError
from vitgan.explore.images import SEND_CHOICE, download_links, image_buttons, image_html
from vitgan.explore.models import DIRECTIONS, Model
from vitgan.explore.page import (
    LIVE,
    QUICK,
    Draw,
    Refresh,
    Shared,
    class_field,
    class_update,
    errors_shown,
    found_latent,
    seed_field,
    whole_number,
)
from vitgan.latent import edited, save_frames
from vitgan.latent.interpolation import between, can_film, film_strip
from vitgan.models import to_uint8

MOST_SAMPLES, MOST_KEPT, MOST_FRAMES = 64, 64, 240
BATCH = 16  # images drawn at once
REACH = 4.0  # standard deviations, of a slider to either side
DIRECTIONS_TAB = "directions"  # the id by which the tab is selected


def samples_tab(shared: Shared) -> Refresh:
    """The tab "Samples": images by seed, count, truncation and class; a click on one keeps it for a walk."""
    with gr.Row():
        seed = seed_field("First seed", "seed")
        count = gr.Slider(1, MOST_SAMPLES, 16, step=1, label="Count", elem_id="count")
        truncation = gr.Slider(0, 1, 1, step=0.05, label="Truncation", elem_id="truncation")
        label = class_field("class")
    draw = gr.Button("Draw", variant="primary", elem_id="draw")
    gr.Markdown("Click one to keep it.")
    samples = gr.HTML(elem_id="samples", js_on_load=SEND_CHOICE, min_height=100)
    gr.Markdown("Kept, in the order of a walk; a click downloads one.")
    keeps = gr.HTML(elem_id="kept", min_height=100)
    forget = gr.Button("Forget all kept", size="sm", elem_id="forget")

    def sample(name: str, seed: Any, count: Any, truncation: float, label: Any) -> str:
        model = shared.models.get(name)
        first, count = whole_number(seed, "The first seed"), whole_number(count, "Count", 1, MOST_SAMPLES)
        label = whole_number(label, "The class")
        seeds = [first + k for k in range(count)]
        facts = [{"run": name, "seed": s, "label": label, "truncation": float(truncation)} for s in seeds]
        images = _images(model, model.latents(seeds, label, float(truncation)))
        return image_buttons(images, facts, [f"seed {s}" for s in seeds])

    def keep(kept: list[dict[str, Any]], event: gr.EventData) -> tuple[list[dict[str, Any]], str]:
        chosen = event.choice
        if len(own := kept_of_run(kept, chosen["run"])) == MOST_KEPT:
            raise UserError(f"{MOST_KEPT} samples are kept, which is the most: forget them first.")
        return [*kept, chosen], _kept(shared.models.get(chosen["run"]), [*own, chosen])

    def kept_of(name: str, kept: list[dict[str, Any]]) -> str:
        return _kept(shared.models.get(name), kept_of_run(kept, name))

    asked = [shared.run, seed, count, truncation, label]
    draw.click(errors_shown(sample), asked, samples, **LIVE)
    samples.click(errors_shown(keep), shared.kept, [shared.kept, keeps], **QUICK)
    forget.click(lambda: ([], ""), None, [shared.kept, keeps], api_visibility="private", **QUICK)
    return Refresh(
        components=[label],
        updates=lambda model: [class_update(model)],
        draws=[
            Draw(function=sample, inputs=asked, outputs=[samples]),
            Draw(function=kept_of, inputs=[shared.run, shared.kept], outputs=[keeps]),
        ],
    )


def walk_tab(shared: Shared) -> Refresh:
    """The tab "Walk": interpolation between the samples that were kept, as a film strip, a GIF and a film."""
    gr.Markdown("Keep two samples or more on the first tab; the walk goes from one to the next.")
    frames = gr.Slider(4, MOST_FRAMES, 48, step=1, label="Frames", elem_id="frames")
    go = gr.Button("Walk", variant="primary", elem_id="walk")
    strip = gr.HTML(elem_id="strip", min_height=100)
    files = gr.File(label="To download", file_count="multiple", elem_id="files", interactive=False)
    if not can_film():
        gr.Markdown('An MP4 too with `pip install "vitgan[video]"`.')

    def make(name: str, frames: Any, kept: list[dict[str, Any]]) -> tuple[str, list[str]]:
        model, own = shared.models.get(name), kept_of_run(kept, name)
        if len(own) < 2:
            raise UserError(f"{len(own)} kept of {name}: a walk needs two, click them on the first tab.")
        frames = whole_number(frames, "The number of frames", 4, MOST_FRAMES)
        ends = torch.cat([_latent(model, one) for one in own])
        images = between(model.generator, ends, frames)
        place = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR")))
        suffixes = (".png", ".gif", ".mp4") if can_film() else (".png", ".gif")
        written = [place / f"walk{suffix}" for suffix in suffixes]
        for path in written:
            save_frames(path, images)
        return image_html(film_strip(images), "film strip"), [str(path) for path in written]

    go.click(errors_shown(make), [shared.run, frames, shared.kept], [strip, files], **QUICK)
    shared.run.change(lambda: ("", None), None, [strip, files], api_visibility="private", **QUICK)
    return Refresh()


def kept_of_run(kept: list[dict[str, Any]], run: str) -> list[dict[str, Any]]:
    """Those of the kept samples that are of the run `run`."""
    return [one for one in kept if one["run"] == run]


def _kept(model: Model, kept: list[dict[str, Any]]) -> str:
    """The HTML of kept samples of a model, as links that download them."""
    if not kept:
        return ""
    images = _images(model, torch.cat([_latent(model, one) for one in kept]))
    return download_links(images, [f"seed-{one['seed']}" for one in kept])


def _latent(model: Model, kept: dict[str, Any]) -> Tensor:
    """The latent w (1, ...) of a kept sample."""
    seed, label = whole_number(kept["seed"], "A seed"), whole_number(kept["label"], "The class")
    return model.latents([seed], label, float(kept["truncation"]))


@torch.no_grad()
def _images(model: Model, w: Tensor) -> Tensor:
    """The images, uint8 (K, C, R, R), of the latents w (K, ...)."""
    return torch.cat([to_uint8(model.generator.synthesise(part)).cpu() for part in w.split(BATCH)])


def directions_tab(shared: Shared) -> tuple[Refresh, gr.Checkbox]:
    """The tab "Directions": sliders move an image along principal components and factorised directions.

    Returned too is the checkbox that says whether it is the visitor's own picture that moves.
    """
    with gr.Row():
        seed = seed_field("Seed", "moved-seed")
        label = class_field("moved-class")
        own = gr.Checkbox(label="Begin from your picture, once it is projected", elem_id="own")
    with gr.Row():
        image = gr.HTML(elem_id="moved", min_height=400)
        kinds: dict[str, gr.Column] = {}
        sliders: list[gr.Slider] = []
        for kind in ("pca", "sefa"):
            with gr.Column(visible=kind == "pca") as kinds[kind]:
                for k in range(DIRECTIONS):
                    name, place = f"{kind} {k + 1}", f"{kind}-{k + 1}"
                    sliders.append(gr.Slider(-REACH, REACH, 0, step=0.1, label=name, elem_id=place))
    zero = gr.Button("All to 0", size="sm", elem_id="zero")
    names = [str(slider.label) for slider in sliders]
    asked = [shared.run, seed, label, own, shared.found, *sliders]

    def move(name: str, seed: Any, label: Any, own: bool, found: Any, *amounts: float) -> str:
        model = shared.models.get(name)
        seed, label = whole_number(seed, "The seed"), whole_number(label, "The class")
        w = found_latent(found, name) if own else model.latents([seed], label)
        moved = {n: a for n, a in zip(names, amounts, strict=True) if a and n in model.directions}
        return image_html(_images(model, edited(w, moved, model.directions))[0], "the moved image")

    for part in (seed, label, own):
        part.change(errors_shown(move), asked, image, **LIVE)
    for slider in sliders:
        slider.input(errors_shown(move), asked, image, **LIVE)
    zeros = [0.0] * len(sliders)
    zero.click(lambda: zeros, None, sliders, api_visibility="private", **QUICK).then(
        errors_shown(move), asked, image, **QUICK
    )
    refresh = Refresh(
        components=[label, own, kinds["sefa"], *sliders],
        updates=lambda model: [
            class_update(model),
            False,
            gr.Column(visible=bool(model.generator.modulations())),
            *zeros,
        ],
        draws=[Draw(function=move, inputs=asked, outputs=[image])],
    )
    return refresh, own
