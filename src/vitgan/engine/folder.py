"""A run's folder: which recipe it belongs to, and reading a trained generator back."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from vitgan.engine.checkpoint import DamagedCheckpoint, checkpoints, load_checkpoint, load_newest
from vitgan.engine.log import replacing
from vitgan.engine.recipe import Recipe
from vitgan.errors import UserError
from vitgan.models import Generator

RECIPE = "recipe.json"


def claim(folder: Path, recipe: Recipe) -> None:
    """Make `folder` the run folder of `recipe`, or check that it is.

    Raises UserError, naming the first difference, when it holds a run of another recipe.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another folder with --out.")
    path = folder / RECIPE
    if path.exists():
        conflicts = _read_recipe(path).conflicts(recipe)
        if conflicts:
            more = f" (and {len(conflicts) - 1} more)" if len(conflicts) > 1 else ""
            raise UserError(
                f"{folder} holds a run of another recipe: {conflicts[0]}{more}; "
                "choose another folder with --out, or give the settings it was begun with."
            )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(recipe.to_dict(), indent=1) + "\n", encoding="utf-8")


def _read_recipe(path: Path) -> Recipe:
    try:
        return Recipe.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a recipe ({error}): choose another folder with --out.") from error


def load_generator(run: str | Path) -> Generator:
    """The averaged generator of a run folder or of one checkpoint's folder, on the CPU, in eval mode.

    Raises UserError when there is none.
    """
    tensors, description = _read(Path(run))
    recipe = Recipe.from_dict(description["recipe"])
    generator = recipe.generator.build(
        resolution=recipe.data.resolution, channels=recipe.data.channels, classes=description["classes"]
    )
    weights = {n.removeprefix("average."): t for n, t in tensors.items() if n.startswith("average.")}
    try:
        generator.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"The weights in {run} do not fit its recipe: {_first_line(error)}") from error
    return generator.eval().requires_grad_(False)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if (path / "checkpoint.json").exists():
        try:
            return load_checkpoint(path)
        except DamagedCheckpoint as damage:
            raise UserError(f"The checkpoint {path} is damaged: {damage}.") from damage
    if not path.is_dir():
        raise UserError(f"{path} is not a run folder: train one with `vitgan train --out {path}`.")
    if not checkpoints(path):
        raise UserError(f"{path} has no checkpoint yet: train it first, `vitgan train --out {path}`.")
    found = load_newest(path, _warn)
    assert found is not None
    return found


def _warn(line: str) -> None:
    import logging

    logging.getLogger("vitgan").warning(line)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0]
