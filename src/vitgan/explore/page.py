"""What the tabs have in common: shared components, the choice of a run, fields, and errors on the page."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.blocks import BlockContext
from gradio.components import Component
from torch import Tensor

from vitgan.data.transforms import UnreadableImage
from vitgan.errors import UserError
from vitgan.explore.models import Model, ModelCache
from vitgan.terminal import printable

LARGEST = 2**53 - 1  # the largest whole number that JavaScript represents exactly
# Arguments of gradio's event listeners: QUICK of any short event, LIVE of sliders, of whose changes the last
# one counts.
QUICK: dict[str, Any] = {"concurrency_limit": 4, "show_progress": "hidden"}
LIVE: dict[str, Any] = {**QUICK, "trigger_mode": "always_last"}


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The components that several tabs use. The values of the states belong to one visitor each."""

    page: gr.Blocks
    models: ModelCache
    run: gr.Dropdown
    """The choice of a run, by its name in `models`."""
    kept: gr.State
    """The samples that the visitor kept for a walk: a list of dicts of run, seed, label and truncation."""
    found: gr.State
    """The latent that was found for the visitor's picture: the name of the run and w (1, ...), or None."""
    tabs: gr.Tabs


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A function of the page, the components that give its arguments, and those that show what it returns."""

    function: Callable[..., Any]
    inputs: Sequence[Component]
    outputs: Sequence[Component]


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """What a tab does when a run is chosen.

    Its `components` are changed by the `updates` of the chosen model, one each; then its `draws` are called.
    """

    components: Sequence[Component | BlockContext] = ()
    updates: Callable[[Model], list[Any]] = field(default=lambda _: [])
    draws: Sequence[Draw] = ()


def errors_shown(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function of the page, so that an error that a user can correct is shown there as a message."""

    @functools.wraps(function)  # gradio reads the types of its arguments
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (UserError, UnreadableImage, OSError) as error:
            raise shown_error(error) from error

    return call


def streaming_errors_shown(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Wrap a generator function of the page as `errors_shown` wraps a function."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Iterator[Any]:
        try:
            yield from function(*arguments)
        except (UserError, UnreadableImage, OSError) as error:
            raise shown_error(error) from error

    return call


def shown_error(error: Exception) -> gr.Error:
    """An error in the form that gradio shows on the page without a traceback in the log."""
    if isinstance(error, UnreadableImage):
        return gr.Error(f"The picture cannot be used: {error}.", print_exception=False)
    return gr.Error(printable(str(error)), print_exception=False)


def whole_number(value: Any, name: str, low: int = 0, high: int = LARGEST) -> int:
    """The number in a field as an int. Raises UserError where the field is empty or not from `low` to `high`.

    `name` begins the sentence of the error.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{name} is a whole number from {low} to {high:,}.")
    return int(value)


def found_latent(found: Any, name: str) -> Tensor:
    """The latent w (1, ...) of the visitor's picture, from the value of `Shared.found`.

    `name` is the chosen run. Raises UserError where no picture has been projected with that run.
    """
    if found is None or found[0] != name:
        raise UserError(f"No picture is projected with {name} yet: do so on the tab of your picture.")
    return found[1]


def seed_field(label: str, elem_id: str) -> gr.Number:
    """A number field for a seed, at least 0."""
    return gr.Number(0, label=label, precision=0, minimum=0, elem_id=elem_id)


def class_field(elem_id: str) -> gr.Number:
    """A number field for a class, hidden until `class_update` shows it for a generator with classes."""
    return gr.Number(0, label="Class", precision=0, minimum=0, visible=False, elem_id=elem_id)


def class_update(model: Model) -> gr.Number:
    """The update of a class field for a model: its range of classes; hidden where the generator has none."""
    classes = model.generator.classes
    return gr.Number(value=0, label=f"Class, 0 to {classes - 1}", visible=classes > 0)
