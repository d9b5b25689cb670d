"""A recipe's settings from the command line, `--PART.FIELD VALUE`, by tyro."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

from vitgan.adversarial import BCR, R1, Hinge, Logistic, Wasserstein
from vitgan.engine.recipe import Recipe
from vitgan.errors import UserError

LOSSES = {"logistic": Logistic, "hinge": Hinge, "wasserstein": Wasserstein}
# A term that a recipe lacks stands here with weight 0, so that a flag can bring it in.
TERMS = {"bcr": BCR(real=0.0, fake=0.0), "r1": R1(gamma=0.0)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossOptions:
    """The adversarial loss."""

    name: Literal["logistic", "hinge", "wasserstein"]
    """Non-saturating logistic, hinge or Wasserstein."""


def override(recipe: Recipe, arguments: Sequence[str], *, show: bool = False) -> Recipe:
    """`recipe` with the settings that `arguments` name; `show` prints all of them and leaves with 0.

    Terms go by name, `--terms.r1.gamma 0.1`; one of weight 0 is left out. Raises UserError, in one line, for
    an unknown setting or a value of another type.
    """
    import tyro

    settings = _settings(recipe)
    words = ["--help"] if show else list(arguments)
    config = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)
    said = io.StringIO()
    try:
        with contextlib.nullcontext() if show else contextlib.redirect_stderr(said):
            chosen = tyro.cli(
                type(settings), args=words, default=settings, prog="vitgan train", config=config
            )
    except SystemExit as error:
        if error.code == 0:
            raise
        _refuse(said.getvalue())
    return _recipe(recipe, chosen)


def _settings(recipe: Recipe) -> Any:
    """A dataclass instance of the recipe's parts, each of its own class."""
    parts = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if f.name != "name"}
    loss = next(name for name, cls in LOSSES.items() if type(recipe.loss) is cls)
    parts["loss"] = LossOptions(name=loss)  # type: ignore[arg-type]
    terms = TERMS | {type(term).__name__.lower(): term for term in recipe.terms}
    parts["terms"] = _structure("Terms", terms)
    return _structure("Settings", parts)


def _structure(name: str, values: dict[str, Any]) -> Any:
    fields = [(field, type(value)) for field, value in values.items()]
    return dataclasses.make_dataclass(name, fields, frozen=True, kw_only=True)(**values)


def _recipe(recipe: Recipe, chosen: Any) -> Recipe:
    parts = {field.name: getattr(chosen, field.name) for field in dataclasses.fields(chosen)}
    parts["loss"] = LOSSES[chosen.loss.name]()
    terms = [getattr(chosen.terms, field.name) for field in dataclasses.fields(chosen.terms)]
    parts["terms"] = tuple(term for term in terms if term.active)
    return dataclasses.replace(recipe, **parts)


def _refuse(said: str) -> NoReturn:
    """Tyro's framed message as one line: what is wrong, and the nearest setting if it names one."""
    lines = [re.sub(r"[│╭╮╰╯]|─{2,}", "", line).strip() for line in said.splitlines()]
    wrong = " ".join(lines[1 : next((i for i, line in enumerate(lines) if i > 0 and not line), len(lines))])
    near = next((line.split()[0] for line in lines if line.startswith("--")), None)
    hint = f" Did you mean {near}?" if near is not None and near not in wrong else ""
    raise UserError(f"{wrong.rstrip('.')}.{hint} `vitgan train RECIPE --settings` lists every setting.")
