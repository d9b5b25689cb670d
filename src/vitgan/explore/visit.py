"""What the tabs share: a visit, what a tab does when a run is chosen, and refusals that end nothing."""

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
from vitgan.explore.shelf import Model, Shelf

LARGEST = 2**53 - 1  # the largest whole number that a browser keeps exact
QUICK: dict[str, Any] = {"concurrency_limit": 4, "show_progress": "hidden"}
LIVE: dict[str, Any] = {**QUICK, "trigger_mode": "always_last"}


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One visitor's page."""

    page: gr.Blocks
    shelf: Shelf
    run: gr.Dropdown
    kept: gr.State
    """A list of samples that were kept, each a dict of run, seed, label and truncation."""
    found: gr.State
    """The name of a run and the w (1, ...) of a picture in it, or None."""
    tabs: gr.Tabs


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A function, what it is asked with, and where its answer is shown."""

    function: Callable[..., Any]
    inputs: Sequence[Component]
    outputs: Sequence[Component]


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """What a tab does when a run is chosen: its `parts` take the `form` of the model, then it draws."""

    parts: Sequence[Component | BlockContext] = ()
    form: Callable[[Model], list[Any]] = field(default=lambda _: [])
    draws: Sequence[Draw] = ()


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose refusals are shown on the page and end nothing."""

    @functools.wraps(function)  # gradio reads the types of its arguments
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (UserError, UnreadableImage, OSError) as error:
            raise shown_error(error) from error

    return call


def told_often(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """As `told`, for a function that gives one thing after the other, and ends when it is cancelled."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Iterator[Any]:
        try:
            yield from function(*arguments)
        except (UserError, UnreadableImage, OSError) as error:
            raise shown_error(error) from error

    return call


def shown_error(error: Exception) -> gr.Error:
    """A refusal as the page shows it."""
    if isinstance(error, UnreadableImage):
        return gr.Error(f"The picture cannot be used: {error}.", print_exception=False)
    return gr.Error(str(error), print_exception=False)


def whole(value: Any, name: str, low: int = 0, high: int = LARGEST) -> int:
    """A visitor's number. Raises UserError where it is none, as an empty field's, or out of bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{name} is a whole number from {low} to {high:,}.")
    return int(value)


def found_latent(found: Any, name: str) -> Tensor:
    """The w of the visitor's picture. Raises UserError where none has been projected in this run."""
    if found is None or found[0] != name:
        raise UserError(f"No picture is projected with {name} yet: do so on the tab of your picture.")
    return found[1]


def seed_field(label: str, elem_id: str) -> gr.Number:
    """A field for a seed."""
    return gr.Number(0, label=label, precision=0, minimum=0, elem_id=elem_id)


def class_field(elem_id: str) -> gr.Number:
    """A field for a class, there where the generator draws classes."""
    return gr.Number(0, label="Class", precision=0, minimum=0, visible=False, elem_id=elem_id)


def class_form(model: Model) -> gr.Number:
    """The field's form for a model."""
    classes = model.generator.classes
    return gr.Number(value=0, label=f"Class, 0 to {classes - 1}", visible=classes > 0)
