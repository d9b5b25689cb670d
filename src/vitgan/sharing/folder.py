"""A run's generator as a folder that stands on its own: weights, configuration, card and samples."""

import json
import re
from pathlib import Path, PureWindowsPath
from typing import Any

from vitgan.engine.description import OPTIONAL
from vitgan.engine.evaluation import EVALUATIONS
from vitgan.engine.exported import CONFIG, WEIGHTS, write_exported
from vitgan.engine.folder import load_generator, read_run
from vitgan.engine.images import grid, save_png
from vitgan.engine.recipe import Recipe
from vitgan.engine.supervised_recipes import read_recipe
from vitgan.errors import UserError
from vitgan.json_text import read_json
from vitgan.replacing import replacing
from vitgan.sharing.card import model_card
from vitgan.sharing.names import find

SAMPLES, CARD = "samples.png", "README.md"
COUNT = 64  # of the samples


def export_folder(
    run: str | Path,
    out: Path,
    *,
    license_id: str | None = None,
    evaluation: Path | None = None,
    place: str | None = None,
    hide_folders: bool = False,
) -> None:
    """Write the averaged generator of `run` to the folder `out`: `vitgan.load(out)` gives the same images.

    `license_id` is the weights', by default that with which `run` was exported before, or "other".
    `evaluation` is a file of `vitgan evaluate --json`; without it the run's own last one of this checkpoint
    is taken. `place` is what the card tells to load, `out` by default. With `hide_folders` the path of the
    images is written without the folders that lead there. Raises UserError where `run` has no generator,
    `out` is something else already, or the file or the licence is not what it should be.
    """
    folder = find(run)
    generator = load_generator(folder)
    tensors, description = read_run(folder)
    check_out(out)
    license_id = check_license(description.get("license", "other") if license_id is None else license_id)
    description = description | {"license": license_id}
    measured = _own_evaluation(folder, description) if evaluation is None else read_evaluation(evaluation)
    if measured is not None:
        description = description | {"evaluation": measured}
    if hide_folders:
        description = _without_folders(description)
    out.mkdir(parents=True, exist_ok=True)
    write_exported(out, tensors, description)
    save_png(out / SAMPLES, grid(generator.sample(COUNT, seed=0)))
    recipe = read_recipe(description["recipe"])
    assert isinstance(recipe, Recipe), "only a game has a generator"
    text = model_card(recipe, description, generator, license_id=license_id, place=place or str(out))
    with replacing(out / CARD) as temporary:
        temporary.write_text(text, "utf-8")


def check_license(license_id: str) -> str:
    """In the letters of the Hub's ids. Raises UserError where it is none: it goes into the card's header."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", license_id) is None:
        raise UserError(f"{license_id!r} is no id of a licence: write one as cc-by-4.0 with --license.")
    return license_id.lower()


def check_out(out: Path) -> None:
    """Raise UserError where `out` is not free: a file, or a folder that holds anything but an export."""
    if out.is_file():
        raise UserError(f"{out} is a file: give another folder with --out.")
    known = {CONFIG, WEIGHTS, SAMPLES, CARD}
    if out.is_dir() and {path.name for path in out.iterdir()} - known:
        raise UserError(f"{out} holds other files: give another folder with --out.")


def read_evaluation(path: Path) -> dict[str, Any]:
    """Protocol and metrics, as `vitgan evaluate --json` writes them. Raises UserError for anything else."""
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: pass a file of `vitgan evaluate --json`.") from error
    if not OPTIONAL["evaluation"](found):
        raise UserError(f"{path} holds no protocol and metrics: pass a file of `vitgan evaluate --json`.")
    return {"protocol": found["protocol"], "metrics": found["metrics"]}


def _without_folders(description: dict[str, Any]) -> dict[str, Any]:
    """The description, its images named by the last part of their path alone."""
    recipe = description["recipe"]
    data = recipe["data"] | {"source": _last_part(recipe["data"]["source"])}
    changed = description | {"recipe": recipe | {"data": data}}
    if (evaluation := description.get("evaluation")) is not None:
        protocol = evaluation["protocol"]
        real = {"real": _last_part(protocol["real"])} if isinstance(protocol.get("real"), str) else {}
        changed["evaluation"] = evaluation | {"protocol": protocol | real}
    return changed


def _last_part(source: str) -> str:
    """The name of a file or folder given by its whole path or from the home; any other source as it is."""
    scheme = "wds:" if source.startswith("wds:") else ""
    path = source.removeprefix(scheme)
    if not (path.startswith(("/", "~")) or PureWindowsPath(path).is_absolute()):
        return source
    return scheme + re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _own_evaluation(folder: Path, description: dict[str, Any]) -> dict[str, Any] | None:
    """What the checkpoint says of its scores, or the run's log of them does for its image count."""
    if "evaluation" in description:
        return description["evaluation"]
    try:
        lines = [json.loads(line) for line in (folder / EVALUATIONS).read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        return None
    own = [line for line in lines if isinstance(line, dict) and line.get("images") == description["images"]]
    if not own or not OPTIONAL["evaluation"](own[-1]):
        return None
    return {"protocol": own[-1]["protocol"], "metrics": own[-1]["metrics"]}
