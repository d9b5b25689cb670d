"""The tabs that draw samples, and walk between those that were kept."""

import os
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from vitgan.errors import UserError
from vitgan.explore.shelf import Model
from vitgan.explore.shown import CHOOSE, choices, downloads, shown
from vitgan.explore.visit import (
    LIVE,
    QUICK,
    Draw,
    Fitting,
    Visit,
    class_field,
    class_form,
    seed_field,
    told,
    whole,
)
from vitgan.latent import save_frames
from vitgan.latent.films import between, can_film, film_strip
from vitgan.models import to_uint8

MOST_SAMPLES, MOST_KEPT, MOST_FRAMES = 64, 64, 240
BATCH = 16


def samples_tab(visit: Visit) -> Fitting:
    """Samples by seed, count, truncation and class; a click keeps one."""
    with gr.Row():
        seed = seed_field("First seed", "seed")
        count = gr.Slider(1, MOST_SAMPLES, 16, step=1, label="Count", elem_id="count")
        truncation = gr.Slider(0, 1, 1, step=0.05, label="Truncation", elem_id="truncation")
        label = class_field("class")
    draw = gr.Button("Draw", variant="primary", elem_id="draw")
    gr.Markdown("Click one to keep it.")
    samples = gr.HTML(elem_id="samples", js_on_load=CHOOSE, min_height=100)
    gr.Markdown("Kept, in the order of a walk; a click downloads one.")
    keeps = gr.HTML(elem_id="kept", min_height=100)
    forget = gr.Button("Forget all kept", size="sm", elem_id="forget")

    def sample(name: str, seed: Any, count: Any, truncation: float, label: Any) -> str:
        model = visit.shelf.model(name)
        first, count = whole(seed, "The first seed"), whole(count, "Count", 1, MOST_SAMPLES)
        label = whole(label, "The class")
        seeds = [first + k for k in range(count)]
        facts = [{"run": name, "seed": s, "label": label, "truncation": float(truncation)} for s in seeds]
        images = _images(model, model.latents(seeds, label, float(truncation)))
        return choices(images, facts, [f"seed {s}" for s in seeds])

    def keep(kept: list[dict[str, Any]], event: gr.EventData) -> tuple[list[dict[str, Any]], str]:
        chosen = event.choice
        if len(own := own_kept(kept, chosen["run"])) == MOST_KEPT:
            raise UserError(f"{MOST_KEPT} samples are kept, which is the most: forget them first.")
        return [*kept, chosen], _kept(visit.shelf.model(chosen["run"]), [*own, chosen])

    def kept_of(name: str, kept: list[dict[str, Any]]) -> str:
        return _kept(visit.shelf.model(name), own_kept(kept, name))

    asked = [visit.run, seed, count, truncation, label]
    draw.click(told(sample), asked, samples, **LIVE)
    samples.click(told(keep), visit.kept, [visit.kept, keeps], **QUICK)
    forget.click(lambda: ([], ""), None, [visit.kept, keeps], api_visibility="private", **QUICK)
    return Fitting(
        parts=[label],
        form=lambda model: [class_form(model)],
        draws=[
            Draw(function=sample, inputs=asked, outputs=[samples]),
            Draw(function=kept_of, inputs=[visit.run, visit.kept], outputs=[keeps]),
        ],
    )


def walk_tab(visit: Visit) -> Fitting:
    """Between kept samples, as a film strip, a GIF and a film."""
    gr.Markdown("Keep two samples or more on the first tab; the walk goes from one to the next.")
    frames = gr.Slider(4, MOST_FRAMES, 48, step=1, label="Frames", elem_id="frames")
    go = gr.Button("Walk", variant="primary", elem_id="walk")
    strip = gr.HTML(elem_id="strip", min_height=100)
    files = gr.File(label="To download", file_count="multiple", elem_id="files", interactive=False)
    if not can_film():
        gr.Markdown('An MP4 too with `pip install "vitgan[video]"`.')

    def make(name: str, frames: Any, kept: list[dict[str, Any]]) -> tuple[str, list[str]]:
        model, own = visit.shelf.model(name), own_kept(kept, name)
        if len(own) < 2:
            raise UserError(f"{len(own)} kept of {name}: a walk needs two, click them on the first tab.")
        frames = whole(frames, "The number of frames", 4, MOST_FRAMES)
        ends = torch.cat([_latent(model, one) for one in own])
        images = between(model.generator, ends, frames)
        place = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR")))
        suffixes = (".png", ".gif", ".mp4") if can_film() else (".png", ".gif")
        written = [place / f"walk{suffix}" for suffix in suffixes]
        for path in written:
            save_frames(path, images)
        return shown(film_strip(images), "film strip"), [str(path) for path in written]

    go.click(told(make), [visit.run, frames, visit.kept], [strip, files], **QUICK)
    visit.run.change(lambda: ("", None), None, [strip, files], api_visibility="private", **QUICK)
    return Fitting()


def own_kept(kept: list[dict[str, Any]], run: str) -> list[dict[str, Any]]:
    """Those of a run."""
    return [one for one in kept if one["run"] == run]


def _kept(model: Model, kept: list[dict[str, Any]]) -> str:
    if not kept:
        return ""
    images = _images(model, torch.cat([_latent(model, one) for one in kept]))
    return downloads(images, [f"seed-{one['seed']}" for one in kept])


def _latent(model: Model, kept: dict[str, Any]) -> Tensor:
    seed, label = whole(kept["seed"], "A seed"), whole(kept["label"], "The class")
    return model.latents([seed], label, float(kept["truncation"]))


@torch.no_grad()
def _images(model: Model, w: Tensor) -> Tensor:
    """uint8 (K, C, R, R) of w (K, ...)."""
    return torch.cat([to_uint8(model.generator.synthesise(part)).cpu() for part in w.split(BATCH)])
