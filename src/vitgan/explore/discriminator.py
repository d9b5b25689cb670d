"""The tab that shows what the discriminator makes of an image.

Shapes: C channels, R resolution, h heads, N tokens.
"""

from typing import Any

import gradio as gr
import torch
from torch import Tensor

from vitgan.diagnostics.attention import reading
from vitgan.explore.images import attention_heatmap, class_attention, image_html, patch_grid
from vitgan.explore.models import Model
from vitgan.explore.page import (
    LIVE,
    Draw,
    Refresh,
    Shared,
    class_field,
    class_update,
    errors_shown,
    seed_field,
    whole_number,
)
from vitgan.latent.projection import picture_of
from vitgan.models import from_uint8, to_uint8
from vitgan.models.vit import VisionTransformer


def discriminator_tab(shared: Shared) -> Refresh:
    """The tab "Discriminator": patches, attention by layer and head, and logit, of a sample or an upload."""
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
    asked = [shared.run, seed, label, layer, head, file]

    def judge(name: str, seed: Any, label: Any, layer: Any, head: Any, data: bytes | None) -> tuple:
        model = shared.models.get(name)
        if model.discriminator is None:
            return "", "", ""
        label = whole_number(label, "The class")
        image = (
            _sample(model, whole_number(seed, "The seed"), label)
            if data is None
            else picture_of(data, model.generator)
        )
        logit, layers = judged(model, image, label)
        text = f"{logit:.3f}"
        if not isinstance(model.discriminator, VisionTransformer):
            return image_html(image, "the image"), "", text
        maps = layers[whole_number(layer, "The layer", 1, len(layers)) - 1]  # (h, N, N)
        chosen = whole_number(head, "The head", 0, len(maps))
        weights = class_attention(maps, chosen - 1 if chosen else None)
        patches = patch_grid(image, model.discriminator.options.patch, model.discriminator.overlap)
        return (
            image_html(patches, "the image and its patches"),
            image_html(attention_heatmap(image, weights), "attention over the image"),
            text,
        )

    for part in (seed, label, file):
        part.change(errors_shown(judge), asked, [grid, seen, said], **LIVE)
    for part in (layer, head):
        part.input(errors_shown(judge), asked, [grid, seen, said], **LIVE)
    return Refresh(
        components=[note, label, layer, head],
        updates=lambda model: [_note(model), class_update(model), *_layer_and_head(model)],
        draws=[Draw(function=judge, inputs=asked, outputs=[grid, seen, said])],
    )


@torch.no_grad()
def judged(model: Model, image: Tensor, label: int) -> tuple[float, list[Tensor]]:
    """The discriminator's logit of an image, uint8 (C, R, R), and each layer's attention maps (h, N, N).

    `label` is the class that the image is judged as, where the model has classes. There are no maps where
    the discriminator is no Vision Transformer.
    """
    assert model.discriminator is not None, "a run of its own training has one"
    labels = torch.tensor([label]) if model.generator.classes else None
    with model.hooks_lock, reading(model.discriminator) as found:
        logit = model.discriminator(from_uint8(image.unsqueeze(0)), labels).item()
    return logit, [entry.maps[0][0] for entry in found.attention.values() if entry.maps]


@torch.no_grad()
def _sample(model: Model, seed: int, label: int) -> Tensor:
    """The sample of a seed, uint8 (C, R, R)."""
    return to_uint8(model.generator.synthesise(model.latents([seed], label)))[0]


def _note(model: Model) -> str:
    """Why the tab shows nothing or only a logit; empty where it shows everything."""
    if model.discriminator is None:
        return (
            "There is no discriminator here: generators of the package and exported ones come without. "
            "Choose a run of your own training."
        )
    if not isinstance(model.discriminator, VisionTransformer):
        return "This discriminator is no Vision Transformer: it has neither patches nor attention."
    return ""


def _layer_and_head(model: Model) -> tuple[gr.Slider, gr.Slider]:
    """The two sliders, set to the layers and heads of the discriminator; hidden where it has no attention."""
    network = model.discriminator
    if not isinstance(network, VisionTransformer):
        return gr.Slider(visible=False), gr.Slider(visible=False)
    depth, heads = network.options.depth, network.options.heads
    return (
        gr.Slider(maximum=max(depth, 2), value=1, visible=depth > 1),
        gr.Slider(maximum=heads, value=0, visible=True),
    )
