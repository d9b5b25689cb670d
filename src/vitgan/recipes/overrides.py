"""A recipe's settings from the command line, `--PART.FIELD VALUE`, by tyro."""

import contextlib
import dataclasses
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NoReturn, TypeVar

from vitgan.adversarial import (
    BCR,
    R1,
    Contrastive,
    CutMix,
    Drift,
    GradientPenalty,
    Hinge,
    Logistic,
    PathLength,
    Wasserstein,
)
from vitgan.config import brief, out_of_range
from vitgan.engine.recipe import Recipe, RunRecipe
from vitgan.errors import UserError

LOSSES = {"logistic": Logistic, "hinge": Hinge, "wasserstein": Wasserstein}
# A term that a recipe lacks stands here with weight 0, so that a flag can bring it in.
TERMS = {
    "bcr": BCR(real=0.0, fake=0.0),
    "r1": R1(gamma=0.0),
    "gradient_penalty": GradientPenalty(weight=0.0),
    "drift": Drift(weight=0.0),
    "contrastive": Contrastive(real=0.0, fake=0.0),
    "cutmix": CutMix(image=0.0, pixels=0.0, consistency=0.0),
}
GENERATOR_TERMS = {"path_length": PathLength(weight=0.0)}
KINDS = {"None": "None", "INT": "a whole number", "FLOAT": "a number"}

Kind = TypeVar("Kind", bound=RunRecipe)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossOptions:
    """The adversarial loss."""

    name: Literal["logistic", "hinge", "wasserstein"]
    """Non-saturating logistic, hinge or Wasserstein."""


def override(recipe: Kind, arguments: Sequence[str], *, show: bool = False) -> Kind:
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
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            chosen = tyro.cli(
                type(settings), args=words, default=settings, prog="vitgan train", config=config
            )
    except SystemExit as error:
        if error.code == 0:
            print(_listing(said.getvalue()))
            raise
        _refuse(said.getvalue())
    for place, value in _leaves(chosen, "-"):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            _check_range(place, value)
    return _recipe(recipe, chosen)


def flags(recipe: RunRecipe) -> list[str]:
    """Every setting's, --generator.width."""
    return [flag for flag, _ in _leaves(_settings(recipe), "-")]


def _leaves(options: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every setting's flag with its value."""
    for field in dataclasses.fields(options):
        value, place = getattr(options, field.name), f"{where}.{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, place)
        else:
            yield place.replace("-.", "--", 1), value


def _check_range(flag: str, number: int | float) -> None:
    name = flag.rpartition(".")[2].replace("-", "_")
    if wrong := out_of_range(name, number):
        raise UserError(f"{flag} must be {wrong}, not {brief(number)}.")


def _settings(recipe: RunRecipe) -> Any:
    """A dataclass instance of the recipe's parts, each of its own class."""
    parts = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if f.name != "name"}
    if isinstance(recipe, Recipe):
        parts |= _game(recipe)
    return _structure("Settings", parts)


def _game(recipe: Recipe) -> dict[str, Any]:
    """The loss by its name, and the terms by theirs."""
    loss = next(name for name, cls in LOSSES.items() if type(recipe.loss) is cls)
    return {
        "loss": LossOptions(name=loss),  # type: ignore[arg-type]
        "terms": _structure("Terms", _by_name(TERMS, recipe.terms)),
        "generator_terms": _structure("GeneratorTerms", _by_name(GENERATOR_TERMS, recipe.generator_terms)),
    }


def _by_name(known: dict[str, Any], terms: tuple[Any, ...]) -> dict[str, Any]:
    """`known`, each replaced by the recipe's own of its class."""
    own = {type(term): term for term in terms}
    return {name: own.get(type(term), term) for name, term in known.items()}


def _structure(name: str, values: dict[str, Any]) -> Any:
    fields = [(field, type(value)) for field, value in values.items()]
    return dataclasses.make_dataclass(name, fields, frozen=True, kw_only=True)(**values)


def _recipe(recipe: Kind, chosen: Any) -> Kind:
    parts = {field.name: getattr(chosen, field.name) for field in dataclasses.fields(chosen)}
    if not isinstance(recipe, Recipe):
        return dataclasses.replace(recipe, **parts)
    parts["loss"] = LOSSES[chosen.loss.name]()
    for group in ("terms", "generator_terms"):
        options = parts[group]
        terms = [getattr(options, field.name) for field in dataclasses.fields(options)]
        parts[group] = tuple(term for term in terms if term.active)
    return dataclasses.replace(recipe, **parts)


def _listing(said: str) -> str:
    """Tyro's framed help as plain paragraphs: the part, its settings, below each its text."""
    lines: list[str] = []
    for line in said.splitlines()[1:]:
        bare = re.sub(r"[│╭╮╰╯]|[─-]{3,}", " ", line).rstrip()
        if title := re.match(r" *(\S+) options$", bare):
            lines += ["", title[1]]
        elif bare:
            lines.append(bare)
    shown = "\n".join(lines).partition("show this help message and exit")[2]
    return shown.strip()


def _refuse(said: str) -> NoReturn:
    """Tyro's framed message as one sentence: what is wrong, and the nearest setting if it names one."""
    # A title, then paragraphs between rules; where the terminal has no box characters, rules are of hyphens.
    lines = [re.sub(r"[│╭╮╰╯]|[─-]{3,}", "", line).strip() for line in said.strip().splitlines()]
    paragraphs = itertools.groupby(lines[1:], key=bool)
    wrong = next((" ".join(paragraph) for full, paragraph in paragraphs if full), said)
    flags = [line for line in lines if line.startswith("--")]
    raise UserError(f"{_sentence(wrong, flags)} (`vitgan train RECIPE --settings` lists every setting).")


def _sentence(wrong: str, flags: list[str]) -> str:
    """`flags` are the settings that tyro shows, each with its type. Wording it does not know stays tyro's."""
    if match := re.match(r"Unrecognized options: (\S+?)(,|$)", wrong):
        hint = f": did you mean {flags[0].split()[0]}?" if flags else ""
        return f"There is no setting {match[1]}{hint}"
    if match := re.match(r"Error parsing (--\S+): .*'([^']*)'\]?\.?$", wrong):
        kind = re.sub(
            r"{?(None|INT|FLOAT)}?", lambda name: KINDS[name[1]], flags[0].split()[-1] if flags else ""
        )
        return f"{match[1]} must be {kind.replace('|', ' or ')}, not {match[2]!r}"
    if match := re.match(r"invalid choice '(.*)' for argument '(.*)'. Expected one of \((.*)\)", wrong):
        return f"{match[2]} must be one of {match[3].replace(chr(39), '').rstrip(',')}, not {match[1]!r}"
    if match := re.match(r"Missing value for argument '(.*?)'", wrong):
        return f"{match[1]} needs a value"
    return re.sub(r"^Error parsing [\w.]+: ", "", wrong).rstrip(".")
