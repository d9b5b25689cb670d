"""The tab that crops a picture of the visitor's own and searches for its latent (projection, inversion)."""

import threading
from collections.abc import Iterator
from typing import Any

import gradio as gr
from PIL import Image
from torch import Tensor

from vitgan.errors import UserError
from vitgan.explore.generator import DIRECTIONS_TAB
from vitgan.explore.images import image_html, progress_html, with_frame
from vitgan.explore.models import Model
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
    streaming_errors_shown,
    whole_number,
)
from vitgan.latent.interpolation import label_of
from vitgan.latent.projection import MOST_BYTES, cropped, open_picture, searching, square_box
from vitgan.models import to_uint8


class Search:
    """Flags of a search in another thread: `ended` asks it to stop, `wanted` to show its result then."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.wanted = True


class Searches:
    """The searches that run now, at most one for each visitor.

    A second search, another picture, or leaving the page ends a visitor's search.

    gradio's own `cancels` is not used: an event that it has cancelled sends nothing more, and may block the
    next one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[str | None, Search] = {}

    def begin(self, visitor: str | None) -> Search:
        """Start a search of the visitor's, a session of gradio's, and end the one that runs."""
        self.end(visitor, wanted=False)
        with self._lock:
            return self._under_way.setdefault(visitor, Search())

    def end(self, visitor: str | None, *, wanted: bool) -> None:
        """Ask the search of a visitor, if there is one, to stop; with `wanted` it still shows its result."""
        with self._lock:
            search = self._under_way.pop(visitor, None)
        if search is not None:
            search.wanted = wanted
            search.ended.set()


STEPS, MOST_STEPS, SHOWN_EVERY = 300, 2000, 10  # of a search
MOST_SEARCHES = 8  # at a time, of all visitors
CENTRE = (100, 50, 50)  # per cent: the side of the square, from left to right, from top to bottom


def projection_tab(shared: Shared, own: gr.Checkbox) -> Refresh:
    """The tab "Your picture": an upload is cropped to a square, whose nearest image is then searched for.

    `own` is the checkbox of the tab "Directions" that makes the picture the one that is moved.
    """
    gr.Markdown(
        f"A picture of at most {MOST_BYTES // 2**20} MiB and 64 megapixels. It stays on this machine."
    )
    opened = gr.State(None, time_to_live=3600)
    with gr.Row():
        file = gr.File(label="Picture", type="binary", elem_id="upload", height=160)
        with gr.Column():
            share = gr.Slider(10, 100, 100, step=1, label="Side of the square, %", elem_id="crop-side")
            across = gr.Slider(0, 100, 50, step=1, label="From left to right, %", elem_id="crop-across")
            down = gr.Slider(0, 100, 50, step=1, label="From top to bottom, %", elem_id="crop-down")
        with gr.Column():
            label = class_field("picture-class")
            steps = gr.Slider(20, MOST_STEPS, STEPS, step=20, label="Steps of the search", elem_id="steps")
    with gr.Row():
        go = gr.Button("Project", variant="primary", elem_id="project")
        stop = gr.Button("Cancel", elem_id="cancel")
        edit = gr.Button("Edit it by sliders", elem_id="edit")
    said = gr.HTML(elem_id="difference")
    with gr.Row():
        parts = []
        for name, place in (("Picture", "frame"), ("Original", "original"), ("Nearest", "nearest")):
            with gr.Column():
                gr.Markdown(f"**{name}**")
                parts.append(gr.HTML(elem_id=place, min_height=100))
    frame, original, nearest = parts
    square = [share, across, down]

    searches = Searches()

    def take(name: str, data: bytes | None, request: gr.Request) -> tuple[Any, ...]:
        drop(request)
        image = None if data is None else open_picture(data)
        return image, *crop(name, image, *CENTRE), *CENTRE, "", "", None

    def crop(name: str, image: Image.Image | None, *place: float) -> tuple[str, str]:
        if image is None:
            return "", ""
        box, generator = box_of(image, *place), shared.models.get(name).generator
        square = cropped(image, box, generator)
        return image_html(with_frame(image, box), "your picture"), image_html(
            square, "the square, as the generator draws"
        )

    def search(
        request: gr.Request, name: str, image: Image.Image | None, *values: Any
    ) -> Iterator[tuple[str, str, Any]]:
        if image is None:
            raise UserError("Choose a picture first.")
        model, (*place, label, steps) = shared.models.get(name), values
        steps, label = (
            whole_number(steps, "The number of steps", 1, MOST_STEPS),
            whole_number(label, "The class"),
        )
        target = cropped(image, box_of(image, *place), model.generator)
        mine = searches.begin(request.session_hash)
        yield "", progress_html(0, steps, "from the best of random images …"), None
        for nearest, w, text, done in _steps(model, target, label, steps, mine):
            yield image_html(nearest, "the nearest image"), progress_html(done, steps, text), (name, w)

    def end(request: gr.Request) -> None:
        searches.end(request.session_hash, wanted=True)

    def drop(request: gr.Request) -> None:
        searches.end(request.session_hash, wanted=False)

    def leave(request: gr.Request) -> tuple[str, str]:
        drop(request)
        return "", ""

    def edit_found(name: str, found: Any) -> tuple[Any, bool]:
        found_latent(found, name)
        return gr.Tabs(selected=DIRECTIONS_TAB), True

    pictured = [shared.run, opened, *square]
    file.change(
        errors_shown(take),
        [shared.run, file],
        [opened, frame, original, *square, nearest, said, shared.found],
        **QUICK,
    )
    for slider in square:
        slider.input(errors_shown(crop), pictured, [frame, original], **LIVE)
    go.click(
        streaming_errors_shown(search),
        [*pictured, label, steps],
        [nearest, said, shared.found],
        concurrency_limit=MOST_SEARCHES,
        show_progress="hidden",
        trigger_mode="multiple",
    )
    stop.click(end, api_visibility="private", **QUICK)
    edit.click(
        errors_shown(edit_found), [shared.run, shared.found], [shared.tabs, own], api_visibility="private"
    )
    shared.run.change(leave, None, [nearest, said], api_visibility="private", **QUICK)
    shared.page.unload(drop)
    return Refresh(
        components=[label],
        updates=lambda model: [class_update(model)],
        draws=[Draw(function=crop, inputs=pictured, outputs=[frame, original])],
    )


def box_of(image: Image.Image, share: float, across: float, down: float) -> tuple[int, int, int, int]:
    """A square in a picture, in pixels, as `square_box` gives it, from percentages in place of shares."""
    return square_box(image, share / 100, across / 100, down / 100)


def _steps(
    model: Model, target: Tensor, label: int, steps: int, search: Search
) -> Iterator[tuple[Tensor, Tensor, str, int]]:
    """The nearest image so far, at the first step, every tenth, and the last one of a search.

    Each is the image uint8 (C, R, R), its w (1, ...), a line that says how near it is, and the steps done.
    """
    kind = label_of(model.generator, model.label(label))
    for now in searching(model.generator, target, steps=steps, label=kind):
        done, ended = len(now.losses), search.ended.is_set()
        if ended and not search.wanted:
            return
        if ended or done % SHOWN_EVERY == 0 or done in (1, steps):
            text = f"{done} of {steps}: {now.losses[0]:.4f} at the start, {now.difference:.4f} now"
            yield to_uint8(now.image)[0], now.w, text + " (cancelled)" * ended, done
        if ended:
            return
