"""One row, trained in a process of its own so that its memory is its own."""

import ctypes
import json
import math
import platform
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vitgan.engine.environment import environment, resident
from vitgan.engine.gan import Recipe
from vitgan.engine.loggers import read_log
from vitgan.engine.records import Diverged
from vitgan.engine.train import threads, train
from vitgan.errors import UserError
from vitgan.tables.plan import Record, load_record, save_record

PR_SET_PDEATHSIG = 1  # linux/prctl.h
RESIDENT = "resident memory at its highest, less that of the process before it opened the data"
ALLOCATED = "GPU memory allocated by torch at its highest"


def main() -> None:
    """Train the row that one line of JSON on standard input describes."""
    if platform.system() == "Linux":  # a parent that is killed ends its rows, which save first
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    order = json.loads(sys.stdin.buffer.readline())
    train_row(Recipe.from_dict(order["recipe"]), Path(order["folder"]), torch.device(order["device"]))


def train_row(recipe: Recipe, folder: Path, device: torch.device) -> None:
    """Train or go on training `recipe` in `folder`, and write its record there, whatever comes of it."""
    before = resident()
    earlier = load_record(folder)
    found = _outcome(recipe, folder, device)
    peak, measure = _peak_memory(device, before)
    if earlier is not None and earlier.peak_memory is not None:
        peak = max(peak or 0, earlier.peak_memory)
    with threads(recipe.training.threads):  # which the environment names
        facts = environment(device)
    save_record(folder, replace(found, peak_memory=peak, memory_measure=measure, environment=facts))


def _outcome(recipe: Recipe, folder: Path, device: torch.device) -> Record:
    facts: dict[str, Any] = {"recipe": recipe.to_dict()}
    try:
        outcome = train(recipe, folder, device=device, quiet=True)
    except UserError as error:
        if isinstance(error.__cause__, Diverged):
            return _diverged(folder, str(error.__cause__), facts)
        return Record(**facts, **progress(folder), status="failed", reason=str(error))
    return Record(**facts, status=outcome.ended, images_seen=outcome.images_seen, seconds=outcome.seconds)


def _diverged(folder: Path, reason: str, facts: dict[str, Any]) -> Record:
    image = re.search(r"at image (\d+)", reason)
    assert image is not None, reason
    return Record(**facts, **progress(folder), status="diverged", reason=reason, diverged_at=int(image[1]))


def progress(folder: Path) -> dict[str, Any]:
    """Images seen and seconds by the last line of the log: of a row that did not end well."""
    lines = [line for line in read_log(folder) if math.isfinite(line.get("seconds", math.nan))]
    return {"images_seen": int(lines[-1]["images"]), "seconds": lines[-1]["seconds"]} if lines else {}


def _peak_memory(device: torch.device, before: int | None) -> tuple[int | None, str]:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), ALLOCATED
    highest = resident(highest=True)
    if highest is None or before is None:
        return None, ""
    return highest - before, RESIDENT
