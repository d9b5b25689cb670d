"""A recipe's settings from words: parts by name, `--PART.FIELD VALUE`, and a TOML file with all of them."""

import ast
import functools
import inspect
import itertools
import math
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_type_hints

from vitgan import registry
from vitgan.config import defaults, flag, from_dict, leaves, parse, with_word
from vitgan.engine.recipe import RunRecipe
from vitgan.errors import UserError, nearest
from vitgan.registry import Kind

SingleRecipe = TypeVar("SingleRecipe", bound=RunRecipe)
NONE, GENERATOR_TERMS = "none", "generator_terms"
HINT = "(`vitgan train RECIPE --settings` lists every setting)"


# --- Parts by name


def with_parts(recipe: SingleRecipe, chosen: Mapping[str, str | None]) -> SingleRecipe:
    """`recipe` with the parts that are named, by the recipe's field: `{"loss": "hinge", "terms": "r1,bcr"}`.

    None leaves a field as it is. A part that the recipe has already keeps its options, any other has its
    class's defaults. `terms` goes to both players' terms and, as `loggers` does, takes a list with commas, or
    `none`. Raises UserError for an unknown name, or a field that this kind of recipe lacks.
    """
    own = {field.name: field for field in fields(recipe)}
    for name, words in chosen.items():
        if words is None:
            continue
        if name not in own:
            raise UserError(f"{flag(name)} belongs to a GAN: leave it out for {recipe.name}.")
        kind = own[name].metadata["part"]
        if isinstance(getattr(recipe, name), tuple):
            recipe = _with_list(recipe, name, kind, words)
        else:
            cls = registry.get(kind, words)
            if type(getattr(recipe, name)) is not cls:
                recipe = replace(recipe, **{name: defaults(cls)})  # type: ignore[arg-type]
    return recipe


def _with_list(recipe: SingleRecipe, name: str, kind: Kind, words: str) -> SingleRecipe:
    present = [*getattr(recipe, name), *(getattr(recipe, GENERATOR_TERMS) if name == "terms" else ())]
    have = {type(part): part for part in present}
    names = [word.strip() for word in words.split(",") if word.strip() and word.strip().lower() != NONE]
    made = [have.get(cls) or defaults(cls) for cls in (registry.get(kind, word) for word in names)]
    if name != "terms":
        return replace(recipe, **{name: tuple(made)})  # type: ignore[arg-type]
    return replace(recipe, **_by_player(made))  # type: ignore[arg-type]


def _by_player(terms: Sequence[Any]) -> dict[str, tuple[Any, ...]]:
    of = {"discriminator": "terms", "generator": "generator_terms"}
    return {
        field: tuple(term for term in terms if getattr(term, "player", "discriminator") == player)
        for player, field in of.items()
    }


# --- Single settings


def override(recipe: SingleRecipe, arguments: Sequence[str]) -> SingleRecipe:
    """`recipe` with the settings that `arguments` name, `--PART.FIELD VALUE` or `--PART.FIELD=VALUE` each.

    Terms go by name, `--terms.r1.gamma 0.1`, which brings in one that the recipe lacks; one of weight 0 is
    left out. Raises UserError, in one line, for an unknown setting or a value of another type.
    """
    words = list(reversed(arguments))
    while words:
        word = words.pop()
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            raise UserError(f"There is no setting {word} {HINT}.")
        if not equals:
            if not words or words[-1].startswith("--"):
                raise _lacks_value(recipe, name)
            value = words.pop()
        recipe = _with_setting(recipe, name, value)
    recipe.evaluation.chosen()
    return _without_inactive(recipe)


def _lacks_value(recipe: RunRecipe, name: str) -> UserError:
    """The error of a flag without a value; of one that is unknown, or is True or False, it says so."""
    for value in ("True", "None"):
        try:
            _with_setting(recipe, name, value)
        except UserError as error:
            if "There is no" in str(error):
                return error
        else:
            return UserError(f"{name} needs a value, as {name} {value} {HINT}.")
    return UserError(f"{name} needs a value {HINT}.")


def _with_setting(recipe: SingleRecipe, name: str, word: str) -> SingleRecipe:
    """`recipe` with one setting, `name` being its flag."""
    path = name.removeprefix("--").replace("-", "_").split(".")
    if path == ["loss", "name"]:
        return with_parts(recipe, {"loss": word})
    try:
        if path[0] in ("terms", "generator_terms", "loggers") and len(path) > 2:
            return _with_item(recipe, path, word)
        if path[0] == "name":
            raise KeyError(name)
        return with_word(recipe, path, word, ".".join(path))
    except KeyError:
        _refuse(recipe, name)


def _with_item(recipe: SingleRecipe, path: Sequence[str], word: str) -> SingleRecipe:
    """`recipe` with one field of a term or a logger, which is brought in where the recipe lacks it."""
    group, name, *rest = path
    kind: Kind = "logger" if group == "loggers" else "term"
    if not hasattr(recipe, group):
        raise KeyError(name)
    try:
        cls = registry.get(kind, name)
    except UserError as error:
        raise KeyError(name) from error
    if kind == "term":
        group = next(iter(field for field, found in _by_player([cls]).items() if found))
    parts = list(getattr(recipe, group))
    at = next((number for number, part in enumerate(parts) if type(part) is cls), None)
    part = defaults(cls) if at is None else parts[at]
    changed = with_word(part, rest, word, ".".join(path))
    parts = [*parts, changed] if at is None else [*parts[:at], changed, *parts[at + 1 :]]
    return replace(recipe, **{group: tuple(parts)})  # type: ignore[arg-type]


def _without_inactive(recipe: SingleRecipe) -> SingleRecipe:
    """`recipe` without the terms whose weights are 0."""
    groups = [name for name in ("terms", "generator_terms") if hasattr(recipe, name)]
    return replace(recipe, **{g: tuple(t for t in getattr(recipe, g) if t.active) for g in groups})  # type: ignore[arg-type]


def _refuse(recipe: RunRecipe, name: str) -> NoReturn:
    near = nearest(name, flags(recipe))
    guess = f": did you mean {near}?" if near else ""
    raise UserError(f"There is no setting {name}{guess} {HINT}.")


def flags(recipe: RunRecipe) -> list[str]:
    """The flag of every setting, `--generator.width`, those of terms that the recipe lacks too."""
    found = [place for place, *_ in _settings(recipe)]
    if hasattr(recipe, "terms"):
        for part in registry.parts("term"):
            found += [f"terms.{part.name}.{field.name}" for field in fields(part.cls)]
    return list(dict.fromkeys(f"--{place.replace('_', '-')}" for place in found))


def _settings(recipe: RunRecipe) -> Iterator[tuple[str, Any, Any, Any]]:
    """Every setting of the recipe: its dotted path, value, annotation and field; terms go by name."""
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if field.name == "name":
            continue
        for name, part in _named(field.name, value):
            yield from leaves(part, name)


def _named(group: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The dataclasses that a field of the recipe holds, each with its path."""
    if is_dataclass(value):
        yield group, value
    for part in value if isinstance(value, tuple) else ():
        known = registry.of(type(part))
        yield f"{group}.{known.name if known else type(part).__name__}", part


# --- A file of all settings


def listing(recipe: RunRecipe) -> str:
    """All settings as TOML that `read_settings` reads, each below what it is for."""
    parts = [f"# Every setting of the recipe {recipe.name}; `vitgan train --config FILE` reads this."]
    parts.append(f"recipe = {_toml(recipe.name)}")
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if isinstance(value, tuple):
            parts += [_table(f"[[{field.name}]]", item, field.name) for item in value] or [
                f"{field.name} = []"
            ]
        elif is_dataclass(value):
            parts.append(_table(f"[{field.name}]", value, field.name))
    lists = [part for part in parts[2:] if part.endswith("= []")]  # before the first table
    tables = [part for part in parts[2:] if not part.endswith("= []")]
    return "\n\n".join([parts[0], "\n".join([parts[1], *lists]), *tables])


def _table(head: str, options: Any, path: str) -> str:
    known = registry.of(type(options))
    lines = [head] if known is None else [head, *_note(known.summary), f"type = {_toml(known.name)}"]
    notes, nested = documented(type(options)), []
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            nested.append(_table(f"[{path}.{field.name}]", value, f"{path}.{field.name}"))
            continue
        lines += _note(notes.get(field.name, ""))
        lines.append(f"{field.name} = {_toml(value)}")
    return "\n".join(lines) + "".join(f"\n\n{table}" for table in nested)


def _note(text: str) -> list[str]:
    return textwrap.wrap(text, 78, initial_indent="# ", subsequent_indent="# ")


def _toml(value: Any) -> str:
    if value is None:
        return f'"{NONE}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        quoted = value.encode("utf-8", "backslashreplace").decode().replace("\\", "\\\\").replace('"', '\\"')
        return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", quoted) + '"'
    return repr(value)


@functools.cache
def documented(cls: type) -> dict[str, str]:
    """What is written below each field of a dataclass, by its name; empty where there is no source code."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError):
            continue
        statements = getattr(body, "body", [])
        for field, note in itertools.pairwise(statements):
            named = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if named and isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant):
                found[field.target.id] = " ".join(str(note.value.value).split())  # type: ignore[union-attr]
    return found


def read_settings(path: Path) -> dict[str, Any]:
    """What a file of `listing` says. Raises UserError where it is not there or is no TOML."""
    try:
        return _undecodable(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): name another with --config."
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is no TOML ({' '.join(str(error).split())}): see --settings.") from error


def _undecodable(value: Any) -> Any:
    """`value` with the bytes of names that are not UTF-8, which TOML lacks, as `listing` escapes them."""
    if isinstance(value, dict):
        return {key: _undecodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_undecodable(item) for item in value]
    escape = r"\\u(dc[89a-f][0-9a-f])"
    return re.sub(escape, lambda m: chr(int(m[1], 16)), value) if isinstance(value, str) else value


def with_file(recipe: SingleRecipe, settings: Mapping[str, Any]) -> SingleRecipe:
    """`recipe` with what a file of settings says; what the file leaves out stays as it is.

    Raises UserError, naming the place, for an unknown setting or a value that it does not take.
    """
    own = {field.name: field for field in fields(recipe)}
    hints = get_type_hints(type(recipe))
    for name, value in settings.items():
        if name in ("recipe", "name"):
            continue
        if name not in own:
            raise UserError(f"There is no setting {name!r} in the recipe {recipe.name} {HINT}.")
        present, kind = getattr(recipe, name), own[name].metadata.get("part")
        if isinstance(present, tuple):
            items = value if isinstance(value, list) else [value]
            made: Any = tuple(_filled(None, item, f"{name}[{n}]", kind) for n, item in enumerate(items))
        elif is_dataclass(present):
            made = _filled(present, value, name, kind)
        else:
            made = from_dict(value, hints[name], name, own[name])
        recipe = replace(recipe, **{name: made})  # type: ignore[arg-type]
    return _without_inactive(recipe)


def _filled(present: Any, given: Any, where: str, kind: Kind | None) -> Any:
    """`present` options, or the defaults of the part that `given` names, with the fields that it gives."""
    if not isinstance(given, dict):
        raise UserError(f"{where} is {given!r}, but must be a table of settings {HINT}.")
    given = dict(given)
    if kind is not None and "type" in given:
        cls = registry.get(kind, str(given.pop("type")))
        present = present if type(present) is cls else defaults(cls)
    if present is None:
        raise UserError(f"{where} names no part: give its type {HINT}.")
    for name, value in given.items():
        field = next((field for field in fields(present) if field.name == name), None)
        if field is None:
            raise UserError(f"There is no setting {name!r} in {where} {HINT}.")
        hint, place = get_type_hints(type(present))[name], f"{where}.{name}"
        inner = getattr(present, name)
        if isinstance(value, dict):
            inner = inner if inner is not None else _optional(hint)
            made = _filled(inner, value, place, None)
        else:
            made = from_dict(_typed(value, hint, place), hint, place, field)
        present = replace(present, **{name: made})
    return present


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value`, where it is text as a command line would give it for the annotation."""
    return parse(value, hint, where) if isinstance(value, str) and hint is not str else value


def _optional(hint: Any) -> Any:
    """The defaults of the options that an annotation allows beside None."""
    return next(
        (cls() for cls in getattr(hint, "__args__", ()) if isinstance(cls, type) and is_dataclass(cls)), None
    )
