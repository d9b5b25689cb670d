"""The tabs that draw: samples, walks between kept ones, directions, a picture of one's own."""

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from vitgan.data.transforms import UnreadableImage
from vitgan.errors import UserError
from vitgan.explore.shelf import DIRECTIONS, Shelf, generator_of
from vitgan.explore.shown import picture, pictures
from vitgan.latent import edited, save_frames, walk
from vitgan.latent.frames import check_path
from vitgan.latent.interpolation import label_of, latent_of
from vitgan.latent.pictures import MOST_BYTES, picture_of
from vitgan.latent.projection import searching
from vitgan.models import to_uint8

MOST_SAMPLES, MOST_FRAMES, STEPS, SHOWN_EVERY = 64, 240, 300, 10
QUICK: dict[str, Any] = {"concurrency_limit": 4, "show_progress": "hidden"}
# Nothing is shared: gradio's button for that uploads.
STILL: dict[str, Any] = {"interactive": False, "format": "png", "buttons": ["download", "fullscreen"]}
SHELF: dict[str, Any] = {
    **{"columns": 8, "height": "auto", "allow_preview": False, "fit_columns": False, "format": "png"},
    **{"object_fit": "contain", "buttons": ["download"]},
}


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose refusals are shown on the page and end nothing."""

    @functools.wraps(function)  # gradio reads the types of its arguments
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (UserError, UnreadableImage, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    return call


def told_often(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """As `told`, for a function that gives one thing after the other, and ends when it is cancelled."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Iterator[Any]:
        try:
            yield from function(*arguments)
        except (UserError, UnreadableImage, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    return call


def samples_tab(shelf: Shelf, run: gr.Dropdown, kept: gr.State) -> None:
    """Samples by seed, count, truncation and class; a click keeps one."""
    with gr.Row():
        seed = gr.Number(0, label="First seed", precision=0, minimum=0)
        count = gr.Slider(1, MOST_SAMPLES, 16, step=1, label="Count")
        truncation = gr.Slider(0, 1, 1, step=0.05, label="Truncation")
        label = gr.Number(0, label="Class (of a generator with classes)", precision=0, minimum=0)
    draw = gr.Button("Draw", variant="primary", elem_id="draw")
    shown = gr.Gallery(label="Click one to keep it", elem_id="samples", **SHELF)
    keeps = gr.Gallery(label="Kept", elem_id="kept", **SHELF)
    clear = gr.Button("Forget all kept", size="sm")
    inputs = [run, seed, count, truncation, label]

    def sample(name: str, seed: int, count: int, truncation: float, label: int) -> Any:
        generator = generator_of(shelf, name)
        seeds = range(int(seed), int(seed) + int(count))
        return pictures(torch.cat([_one(generator, s, truncation, label) for s in seeds]))

    def keep(event: gr.SelectData, name: str, seed: int, label: int, truncation: float, kept: list) -> Any:
        chosen = {"run": name, "seed": int(seed) + int(event.index), "class": int(label), "t": truncation}
        kept = [*(one for one in kept if one["run"] == name), chosen]
        generator = generator_of(shelf, name)
        return kept, pictures(torch.cat([_one(generator, k["seed"], k["t"], k["class"]) for k in kept]))

    draw.click(told(sample), inputs, shown, **QUICK)
    run.change(told(sample), inputs, shown, **QUICK)
    shown.select(told(keep), [run, seed, label, truncation, kept], [kept, keeps], **QUICK)
    clear.click(lambda: ([], []), None, [kept, keeps], **QUICK)


def _one(generator, seed: int, truncation: float, label: int) -> Tensor:
    """uint8 (1, C, R, R)."""
    labels = label_of(generator, label) if generator.classes else None
    return generator.sample(1, seed=seed, truncation=truncation, labels=labels)


def walk_tab(shelf: Shelf, run: gr.Dropdown, kept: gr.State) -> None:
    """Between kept samples, as a film strip, a GIF and a film."""
    gr.Markdown("Keep two samples or more on the first tab; the walk goes from one to the next.")
    frames = gr.Slider(4, MOST_FRAMES, 48, step=1, label="Frames")
    go = gr.Button("Walk", variant="primary", elem_id="walk")
    strip = gr.Image(label="Film strip", elem_id="strip", **STILL)
    files = gr.File(label="To download", file_count="multiple", elem_id="files", interactive=False)

    def make(name: str, frames: int, kept: list) -> Any:
        own = [one for one in kept if one["run"] == name]
        generator = generator_of(shelf, name)
        label = own[0]["class"] if own and generator.classes else None
        images = walk(generator, [one["seed"] for one in own], int(frames), label=label)
        place = Path(tempfile.mkdtemp(prefix="vitgan-explore-"))
        written = []
        for suffix in (".png", ".gif", ".mp4"):
            path = place / f"walk{suffix}"
            if suffix == ".mp4" and not _has_films():
                continue
            save_frames(path, images)
            written.append(str(path))
        return written[0], written

    go.click(told(make), [run, frames, kept], [strip, files])


def _has_films() -> bool:
    try:
        check_path(Path("walk.mp4"))
    except UserError:
        return False
    return True


def directions_tab(shelf: Shelf, run: gr.Dropdown, found: gr.State) -> None:
    """Sliders along principal components and factorised directions move an image live."""
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        label = gr.Number(0, label="Class", precision=0, minimum=0)
        own = gr.Checkbox(label="Begin from the projected picture")
    with gr.Row():
        image = gr.Image(label="Image", elem_id="moved", height=420, **STILL)
        sliders: list[gr.Slider] = []
        for kind in ("pca", "sefa"):
            with gr.Column():
                for name in (f"{kind} {k + 1}" for k in range(DIRECTIONS)):
                    place = name.replace(" ", "-")
                    sliders.append(gr.Slider(-4, 4, 0, step=0.1, label=name, elem_id=place))
    zero = gr.Button("All to 0", size="sm")
    names = [str(slider.label) for slider in sliders]
    inputs = [run, seed, label, own, found, *sliders]

    def move(name: str, seed: int, label: int, own: bool, found: Any, *amounts: float) -> Any:
        model = shelf.model(name)
        generator = model.generator
        if own and found is not None and found[0] == name:
            w = found[1]
        else:
            w = latent_of(generator, int(seed), int(label) if generator.classes else None)
        moved = {n: a for n, a in zip(names, amounts, strict=True) if a and n in model.directions}
        with torch.no_grad():
            return picture(to_uint8(generator.synthesise(edited(w, moved, model.directions)))[0])

    for part in (seed, label, own, *sliders):
        (part.input if isinstance(part, gr.Slider) else part.change)(
            told(move), inputs, image, trigger_mode="always_last", **QUICK
        )
    run.change(told(move), inputs, image, **QUICK)
    zero.click(lambda: [0.0] * len(sliders), None, sliders, **QUICK).then(told(move), inputs, image, **QUICK)


def picture_tab(shelf: Shelf, run: gr.Dropdown, found: gr.State) -> None:
    """A picture of one's own, brought to the generator's form and searched for in its latent space."""
    gr.Markdown(
        f"A picture of at most {MOST_BYTES // 2**20} MiB and 64 megapixels; its centre square is used."
    )
    file = gr.File(label="Picture", type="binary", elem_id="upload")
    steps = gr.Slider(20, 2000, STEPS, step=20, label="Steps of the search")
    with gr.Row():
        go, stop = gr.Button("Project", variant="primary", elem_id="project"), gr.Button("Cancel")
    with gr.Row():
        original = gr.Image(label="Original", elem_id="original", **STILL)
        nearest = gr.Image(label="Nearest", elem_id="nearest", **STILL)
    said = gr.Textbox(label="Difference", interactive=False, elem_id="difference")

    def crop(name: str, data: bytes | None) -> Any:
        return None if data is None else picture(picture_of(data, generator_of(shelf, name)))

    def search(name: str, data: bytes | None, steps: int) -> Iterator[Any]:
        if data is None:
            raise UserError("Choose a picture first.")
        generator = generator_of(shelf, name)
        label = label_of(generator, 0) if generator.classes else None
        for now in searching(generator, picture_of(data, generator), steps=int(steps), label=label):
            done = len(now.losses)
            if done % SHOWN_EVERY == 0 or done in (1, int(steps)):
                text = f"{done} of {int(steps)}: {now.losses[0]:.4f} at the start, {now.difference:.4f} now"
                yield picture(to_uint8(now.image)[0]), text, (name, now.w)

    file.change(told(crop), [run, file], original, **QUICK)
    going = go.click(told_often(search), [run, file, steps], [nearest, said, found], concurrency_limit=2)
    stop.click(None, cancels=[going])
