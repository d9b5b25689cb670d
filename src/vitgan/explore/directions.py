"""The tab that moves an image along directions of the latent space."""

from typing import Any

import gradio as gr
import torch
from torch import Tensor

from vitgan.explore.shelf import DIRECTIONS, Model
from vitgan.explore.shown import shown
from vitgan.explore.visit import (
    LIVE,
    QUICK,
    Draw,
    Fitting,
    Visit,
    class_field,
    class_form,
    found_latent,
    seed_field,
    told,
    whole,
)
from vitgan.latent import edited
from vitgan.models import to_uint8

REACH = 4.0  # standard deviations
DIRECTIONS_TAB = "directions"


def directions_tab(visit: Visit) -> tuple[Fitting, gr.Checkbox]:
    """Sliders along principal components and factorised directions move an image live.

    Gives the checkbox too that says whether they move the visitor's own picture.
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
    asked = [visit.run, seed, label, own, visit.found, *sliders]

    def move(name: str, seed: Any, label: Any, own: bool, found: Any, *amounts: float) -> str:
        model = visit.shelf.model(name)
        seed, label = whole(seed, "The seed"), whole(label, "The class")
        w = found_latent(found, name) if own else model.latents([seed], label)
        moved = {n: a for n, a in zip(names, amounts, strict=True) if a and n in model.directions}
        return shown(_image(model, edited(w, moved, model.directions)), "the moved image")

    for part in (seed, label, own):
        part.change(told(move), asked, image, **LIVE)
    for slider in sliders:
        slider.input(told(move), asked, image, **LIVE)
    zeros = [0.0] * len(sliders)
    zero.click(lambda: zeros, None, sliders, api_visibility="private", **QUICK).then(
        told(move), asked, image, **QUICK
    )
    fitting = Fitting(
        parts=[label, own, kinds["sefa"], *sliders],
        form=lambda model: [
            class_form(model),
            False,
            gr.Column(visible=bool(model.generator.modulations())),
            *zeros,
        ],
        draws=[Draw(function=move, inputs=asked, outputs=[image])],
    )
    return fitting, own


@torch.no_grad()
def _image(model: Model, w: Tensor) -> Tensor:
    """uint8 (C, R, R) of w (1, ...)."""
    return to_uint8(model.generator.synthesise(w))[0]
