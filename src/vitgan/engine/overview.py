"""The runs in a folder, each in a few facts."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from vitgan.engine.checkpoint import checkpoints
from vitgan.engine.description import whole_number
from vitgan.engine.evaluation import best_evaluation
from vitgan.engine.folder import RECIPE, is_run
from vitgan.engine.records import HEARTBEAT, SECONDS_BETWEEN_BEATS
from vitgan.errors import UserError
from vitgan.metrics.protocol import headline

AT_WORK = ("training", "evaluating", "saving")
SILENT = 12 * SECONDS_BETWEEN_BEATS  # without a beat a run at work is silent


def overview(folder: Path) -> list[dict[str, Any]]:
    """Of every run in `folder`, or of `folder` itself where it is one, by name; None where nothing is known.

    Keys: run, recipe, data, images, score, last sample, state. Files that cannot be read are passed over.
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
    """Of one run."""
    recipe, beat = _object(run / RECIPE), _object(run / HEARTBEAT)
    data = recipe.get("data")
    saved = [int(path.name) for path in checkpoints(run)]
    pictures = sorted((run / "samples").glob("[0-9]*.png"))
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
    """What the heartbeat says; of a run at work also that it has been silent for long."""
    state = _text(beat.get("state"))
    if state not in AT_WORK:
        return state
    try:
        silent = time.time() - datetime.fromisoformat(beat["time"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return state
    return state if silent < SILENT else f"gone, or silent for {silent / 60:,.0f} minutes"
