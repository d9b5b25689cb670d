"""The tab that shows what the discriminator sees."""

from typing import Any

import gradio as gr
import torch
from torch import Tensor

from vitgan.diagnostics.attention import reading
from vitgan.explore.shelf import Model
from vitgan.explore.shown import class_attention, heat, patch_grid, shown
from vitgan.explore.visit import LIVE, Draw, Fitting, Visit, class_field, class_form, seed_field, told, whole
from vitgan.latent.projection import picture_of
from vitgan.models import from_uint8, to_uint8
from vitgan.models.vit import VisionTransformer


def view_tab(visit: Visit) -> Fitting:
    """Attention by layer and head, patches with their overlap, and the logit, over any image."""
    note = gr.Markdown(elem_id="view-note")
    with gr.Row():
        with gr.Column():
            seed = seed_field("Seed of the sample", "view-seed")
            label = class_field("view-class")
            said = gr.Textbox(label="Logit (above 0: taken for real)", interactive=False, elem_id="logit")
        with gr.Column():
            layer = gr.Slider(1, 2, 1, step=1, label="Layer", elem_id="layer", visible=False)
            head = gr.Slider(0, 2, 0, step=1, label="Head (0: their mean)", elem_id="head", visible=False)
        file = gr.File(label="Your picture in its place", type="binary", height=160, elem_id="view-upload")
    with gr.Row():
        with gr.Column():
            gr.Markdown("**Patches, one with its overlap**")
            grid = gr.HTML(elem_id="patches", min_height=100)
        with gr.Column():
            gr.Markdown("**Attention of the class token**")
            seen = gr.HTML(elem_id="attention", min_height=100)
    asked = [visit.run, seed, label, layer, head, file]

    def judge(name: str, seed: Any, label: Any, layer: Any, head: Any, data: bytes | None) -> tuple:
        model = visit.shelf.model(name)
        if model.discriminator is None:
            return "", "", ""
        label = whole(label, "The class")
        image = (
            _sample(model, whole(seed, "The seed"), label)
            if data is None
            else picture_of(data, model.generator)
        )
        logit, layers = judged(model, image, label)
        text = f"{logit:.3f}"
        if not isinstance(model.discriminator, VisionTransformer):
            return shown(image, "the image"), "", text
        maps = layers[whole(layer, "The layer", 1, len(layers)) - 1]  # (h, N, N)
        chosen = whole(head, "The head", 0, len(maps))
        weights = class_attention(maps, chosen - 1 if chosen else None)
        patches = patch_grid(image, model.discriminator.options.patch, model.discriminator.overlap)
        return (
            shown(patches, "the image and its patches"),
            shown(heat(image, weights), "attention over the image"),
            text,
        )

    for part in (seed, label, file):
        part.change(told(judge), asked, [grid, seen, said], **LIVE)
    for part in (layer, head):
        part.input(told(judge), asked, [grid, seen, said], **LIVE)
    return Fitting(
        parts=[note, label, layer, head],
        form=lambda model: [_note(model), class_form(model), *_reach(model)],
        draws=[Draw(function=judge, inputs=asked, outputs=[grid, seen, said])],
    )


@torch.no_grad()
def judged(model: Model, image: Tensor, label: int) -> tuple[float, list[Tensor]]:
    """The logit of uint8 (C, R, R), and the attention (h, N, N) of each layer over all tokens."""
    assert model.discriminator is not None, "a run of its own training has one"
    labels = torch.tensor([label]) if model.generator.classes else None
    with model.looking, reading(model.discriminator) as found:
        logit = model.discriminator(from_uint8(image.unsqueeze(0)), labels).item()
    return logit, [entry.maps[0][0] for entry in found.attention.values() if entry.maps]


@torch.no_grad()
def _sample(model: Model, seed: int, label: int) -> Tensor:
    return to_uint8(model.generator.synthesise(model.latents([seed], label)))[0]


def _note(model: Model) -> str:
    if model.discriminator is None:
        return (
            "There is no discriminator here: generators of the package and exported ones come without. "
            "Choose a run of your own training."
        )
    if not isinstance(model.discriminator, VisionTransformer):
        return "This discriminator is no Vision Transformer: it has neither patches nor attention."
    return ""


def _reach(model: Model) -> tuple[gr.Slider, gr.Slider]:
    """The sliders of layer and head as far as the discriminator has them."""
    network = model.discriminator
    if not isinstance(network, VisionTransformer):
        return gr.Slider(visible=False), gr.Slider(visible=False)
    depth, heads = network.options.depth, network.options.heads
    return (
        gr.Slider(maximum=max(depth, 2), value=1, visible=depth > 1),
        gr.Slider(maximum=heads, value=0, visible=True),
    )
