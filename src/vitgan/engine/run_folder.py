"""The folder of a run: its recipe, its lock, loading networks from it, and an overview of many runs."""

import errno
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from torch import Tensor

from vitgan.engine.checkpoint import (
    DESCRIPTION,
    DamagedCheckpoint,
    NewerCheckpoint,
    checkpoints,
    is_exported,
    load_checkpoint,
    load_description,
    load_newest,
    numbered,
    read_exported,
    recipe_of,
)
from vitgan.engine.gan import Recipe, average_name
from vitgan.engine.grid import sample_files
from vitgan.engine.recipe import FORMAT, RunRecipe, read_recipe, whole_number
from vitgan.engine.records import HEARTBEAT, SECONDS_BETWEEN_BEATS, best_evaluation
from vitgan.errors import UserError, did_you_mean
from vitgan.io import read_json, replacing, try_lock
from vitgan.metrics.protocol import headline
from vitgan.models import Discriminator, Generator
from vitgan.models.base import load_network

RECIPE, LOCK = "recipe.json", ".lock"
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


def check(folder: Path, recipe: RunRecipe) -> None:
    """Raise UserError, naming the first difference, where `folder` has a run that `recipe` cannot resume."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another folder with --out.")
    known = _known_recipe(folder)
    conflicts = known.conflicts(recipe) if known is not None else []
    if conflicts:
        more = f" (and {len(conflicts) - 1} more)" if len(conflicts) > 1 else ""
        raise UserError(
            f"{folder} holds a run of another recipe, {conflicts[0]}{more}: "
            "give the settings it was begun with, or begin another run with its weights, "
            f"--out ANOTHER --init-from {folder}."
        )


@contextmanager
def claimed(folder: Path, recipe: RunRecipe) -> Iterator[None]:
    """A context within which `folder` is the run folder of `recipe`, locked by this process.

    Raises UserError where another process trains there, OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as lock:
        _lock(lock, folder)
        _sweep(folder)
        with replacing(folder / RECIPE) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **recipe.to_dict()}, indent=1) + "\n", "utf-8")
        yield


def unwritable(folder: Path, error: OSError) -> UserError:
    """The UserError that explains a system's `error` while a run reads or writes `folder`."""
    saved = checkpoints(folder)
    state = (
        f"The last checkpoint, at image {int(saved[-1].name):,}, is kept"
        if saved
        else "No checkpoint is there yet"
    )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"The disk of {folder} is full: delete what you do not need there and give the same command "
            f"again. {state}."
        )
    place = error.filename or folder
    return UserError(
        f"{place} cannot be read or written ({error.strerror or error}): see to it, or choose another --out. "
        f"{state}."
    )


def standing(folder: Path) -> tuple[RunRecipe, int, float]:
    """The recipe of the run in `folder`, and the images and seconds of its newest sound checkpoint.

    Raises UserError where there is no run that can be read.
    """
    recipe = _known_recipe(folder)
    if recipe is None:
        read_run(folder)  # says why
        raise UserError(f"{folder} is an exported generator, and no run that could go on.")
    recipe.require_parts()
    for checkpoint in reversed(checkpoints(folder)):
        with suppress(DamagedCheckpoint, NewerCheckpoint):
            found = load_description(checkpoint)
            return recipe, found["images"], found["seconds"]
    return recipe, 0, 0.0


def _known_recipe(folder: Path) -> RunRecipe | None:
    """The recipe in `recipe.json` of the run in `folder`, or else in its newest sound checkpoint."""
    with suppress(OSError, ValueError):
        return _read_recipe_file(folder / RECIPE)
    for checkpoint in reversed(checkpoints(folder)):
        with suppress(DamagedCheckpoint, NewerCheckpoint):
            return recipe_of(load_description(checkpoint))
    return None


def _read_recipe_file(path: Path) -> RunRecipe:
    """The recipe in the file that `claimed` wrote. Raises OSError, or ValueError where it is not a recipe."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    written = value.pop("format", 1)
    if not whole_number(1, FORMAT)(written):
        raise ValueError("it is of no format that this version knows")
    return read_recipe(value, written)


def _sweep(folder: Path) -> None:
    """Delete the temporary files that a killed process has left (`vitgan.io`)."""
    for left in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
        if _TEMPORARY.fullmatch(left.name) is not None:
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _lock(file: TextIO, folder: Path) -> None:
    if not try_lock(file):
        raise UserError(
            f"Another process is training in {folder}: stop it first, or choose another folder by --out."
        )


def load_generator(run: str | Path, average: float | None = None) -> Generator:
    """The averaged generator of a run folder or of one checkpoint's folder, on the CPU, in eval mode.

    `average` is one of the recipe's `ema.lengths`; None is the average that samples of a run come from.
    Raises UserError when there is none.
    """
    return read_generator(run, average)[0]


def read_generator(run: str | Path, average: float | None = None) -> tuple[Generator, dict[str, Any]]:
    """The generator as `load_generator` returns it, and the description of the checkpoint it comes from."""
    tensors, description = read_run(Path(run))
    return build_generator(tensors, description, run, average), description


def build_generator(
    tensors: dict[str, Tensor], description: dict[str, Any], run: str | Path, average: float | None = None
) -> Generator:
    """The averaged generator of what `read_run` read from `run`, on the CPU, frozen and in eval mode.

    `average` is one of the recipe's `ema.lengths`, or None. Raises UserError where `run` has no generator or
    no such average, or the tensors do not fit its recipe.
    """
    recipe = _game(description, run)
    lengths = [x for x in recipe.ema.lengths if any(n.startswith(f"{average_name(x)}.") for n in tensors)]
    if average is not None and average not in lengths:
        kept = ", ".join(f"{length:g}" for length in lengths) or "none beside the usual one"
        raise UserError(f"{run} has no average of length {average:g}; it keeps {kept} (--ema.lengths).")
    build = partial(recipe.generator.build, **_sizes(description, run))
    generator = load_network(build, tensors, average_name(average), run)
    generator.class_names = tuple(description.get("class_names", ()))
    generator.class_counts = tuple(description.get("class_counts", ()))
    return generator


def build_discriminator(
    tensors: dict[str, Tensor], description: dict[str, Any], run: str | Path
) -> Discriminator | None:
    """The discriminator, as `build_generator` builds the generator; None where `run` is an exported one."""
    if not any(name.startswith("discriminator.") for name in tensors):
        return None
    build = _game(description, run).discriminator.build
    return load_network(partial(build, **_sizes(description, run)), tensors, "discriminator", run)


# What only training asks for, which may be parts of the user's own that are not here, or not as they were.
OF_TRAINING = ("loss", "augment", "terms", "generator_terms", "loggers")


def drawing_recipe(description: dict[str, Any]) -> RunRecipe:
    """The recipe of a run with the defaults in place of the parts that its networks do without.

    Raises UserError as `recipe_of` does.
    """
    recipe = description["recipe"]
    if recipe.get("type") != Recipe.__name__:
        return recipe_of(description)
    needed = {name: value for name, value in recipe.items() if name not in OF_TRAINING}
    return recipe_of({**description, "recipe": needed})


def _game(description: dict[str, Any], run: str | Path) -> Recipe:
    recipe = drawing_recipe(description)
    if not isinstance(recipe, Recipe):
        raise UserError(f"{run} holds {recipe.draws_nothing}")
    return recipe


def _sizes(description: dict[str, Any], run: str | Path) -> dict[str, int]:
    """What the networks of `run` are built for."""
    data = _game(description, run).data
    return {"resolution": data.resolution, "channels": data.channels, "classes": description["classes"]}


def is_run(path: Path) -> bool:
    """Whether `path` is the folder of a run, be it without a checkpoint yet, of a checkpoint or an export."""
    marks = (DESCRIPTION, "checkpoints", RECIPE)
    return any((path / mark).exists() for mark in marks) or bool(_kept(path)) or is_exported(path)


def _kept(path: Path) -> list[Path]:
    """The checkpoints directly in `path`, as the best one of a run is in RUN/best."""
    return [folder for folder in numbered(path) if (folder / DESCRIPTION).exists()]


def _near(path: Path) -> list[str]:
    """Names to suggest instead of `path`: the runs beside it, and the generator of the package."""
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return ["digits", *(str(one) for one in beside if one.is_dir() and is_run(one))]


def read_run(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a run's newest sound checkpoint, of a single checkpoint, or of an export.

    Raises UserError where there is none.
    """
    single = load_checkpoint if (path / DESCRIPTION).exists() else None
    single = read_exported if single is None and is_exported(path) else single
    if single is not None:
        try:
            return single(path)
        except DamagedCheckpoint as damage:
            raise UserError(f"The checkpoint {path} is damaged: {damage}.") from damage
    if kept := _kept(path):
        return read_run(kept[-1])
    if path.is_file():
        raise UserError(
            f"{path} is a file and is not a run folder: train one with `vitgan train`, or pass its folder."
        )
    if not path.is_dir():
        raise UserError(
            f"{path} is not a run folder: train one with `vitgan train --out {path}`."
            f"{did_you_mean(str(path), _near(path))}"
        )
    if not checkpoints(path):
        raise UserError(f"{path} has no checkpoint yet: train it first, `vitgan train --out {path}`.")
    found = load_newest(path, _warn)
    assert found is not None
    return found


def _warn(line: str) -> None:
    import logging

    logging.getLogger("vitgan").warning(line)


AT_WORK = ("training", "evaluating", "saving")
SILENT = 12 * SECONDS_BETWEEN_BEATS  # without a beat a run at work is silent


def overview(folder: Path) -> list[dict[str, Any]]:
    """The `facts` of every run in `folder`, by name, or of `folder` itself where it is a run.

    Raises UserError where there is no such folder.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file: give a folder of runs, or a run's folder.")
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: start a run with `vitgan train --out {folder}/NAME`.")
    if is_run(folder):
        return [facts(folder)]
    return [facts(path) for path in sorted(folder.iterdir()) if path.is_dir() and is_run(path)]


def facts(run: Path) -> dict[str, Any]:
    """The state of one run: its run, recipe, data, images, score, last sample and state.

    A value is None where nothing is known; files that cannot be read are ignored.
    """
    recipe, beat = _object(run / RECIPE), _object(run / HEARTBEAT)
    data = recipe.get("data")
    saved = [int(path.name) for path in checkpoints(run)]
    pictures = sample_files(run)
    return {
        "run": run.name,
        "recipe": _text(recipe.get("name")),
        "data": _text(data.get("source")) if isinstance(data, dict) else None,
        "images": beat["images"] if whole_number(0)(beat.get("images")) else max(saved, default=None),
        "score": _score(run),
        "last sample": str(pictures[-1].relative_to(run)) if pictures else None,
        "state": _state(beat),
    }


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _score(run: Path) -> str | None:
    evaluation = best_evaluation(run)
    if evaluation is None:
        return None
    try:
        name, value = headline(evaluation["metrics"])
    except UserError:
        return None
    return f"{name} {value:.4g}"


def _state(beat: dict[str, Any]) -> str | None:
    """The state in a heartbeat; for a run at work whose heartbeat is old, that it is gone or silent."""
    state = _text(beat.get("state"))
    if state not in AT_WORK:
        return state
    try:
        silent = time.time() - datetime.fromisoformat(beat["time"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return state
    return state if silent < SILENT else f"gone, or silent for {silent / 60:,.0f} minutes"
