"""Train the rows of a table, some at the same time, measure them alike, write the table. Resumable by row."""

import ctypes
import gc
import json
import math
import platform
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vitgan.bench.flops import cost
from vitgan.engine.checkpoint import checkpoints
from vitgan.engine.environment import environment, resident
from vitgan.engine.gan import Recipe
from vitgan.engine.loggers import read_log
from vitgan.engine.loop import Interrupt, stop_on_signals
from vitgan.engine.records import Diverged
from vitgan.engine.run_folder import load_generator, read_generator
from vitgan.engine.train import threads, train
from vitgan.errors import UserError
from vitgan.tables.figure import write_figures
from vitgan.tables.plan import Plan, Record, Request, load_record, prepare, save_record, write_settings
from vitgan.tables.results import content, leading, write_tables
from vitgan.terminal import counted

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


OUTPUT = "output.txt"
CURVE_COUNT = 2000  # generated images of a point of a curve, at most
POLL = 0.1  # seconds
CODE = "from vitgan.tables.run import main; main()"


@dataclass(frozen=True, kw_only=True)
class Order:
    """A row that a process is to train: its recipe, its run folder, its device."""

    recipe: Recipe
    folder: Path
    device: str


def train_together(orders: list[Order], interrupt: Interrupt) -> None:
    """Train the rows at the same time; each writes its record, and its output to `output.txt`.

    A process that ends otherwise is recorded as failed. On an interrupt they are told to save and stop.
    """
    running = [(order, _start(order)) for order in orders]
    try:
        while any(process.poll() is None for _, process in running) and not interrupt:
            time.sleep(POLL)
    finally:
        for _, process in running:
            _stop(process)
    for order, process in running:
        if process.returncode and not interrupt:
            _note_failure(order, process.returncode)


def _start(order: Order) -> "subprocess.Popen[bytes]":
    """Start a row's process in a session of its own: a Ctrl-C at the terminal reaches this process alone."""
    order.folder.mkdir(parents=True, exist_ok=True)
    with (order.folder / OUTPUT).open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", CODE],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    line = {"recipe": order.recipe.to_dict(), "folder": str(order.folder), "device": order.device}
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(json.dumps(line).encode() + b"\n")
    return process


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
    process.wait()


def _note_failure(order: Order, code: int) -> None:
    lines = (order.folder / OUTPUT).read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    reason = f"{ended}: {said[-1]}" if said and code > 0 else ended
    earlier = load_record(order.folder)
    images = 0 if earlier is None else earlier.images_seen
    save_record(
        order.folder,
        Record(recipe=order.recipe.to_dict(), status="failed", reason=reason, images_seen=images),
    )


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """How a call of `reproduce` ended."""

    folder: Path
    table: dict[str, Any]
    """The content of `table.json`; empty when no row is finished."""
    failed: tuple[str, ...]
    """Trainings that ended in an error other than divergence: a row's name, and a later seed's behind it."""
    interrupted: bool


def reproduce(table: str, **settings: Any) -> Reproduction:
    """Make a table: `settings` are the fields of `Request`, all optional.

    Every row is trained on the same images for the same minutes or images, from the same seed, in a process
    of its own, and measured by one protocol. Raises UserError on a user's mistake, before training.
    SIGINT and SIGTERM end it with all rows saved; the same call goes on.
    """
    plan = prepare(Request(table=table, **settings))
    write_settings(plan)
    with stop_on_signals() as interrupt:
        _train(plan, interrupt)
    return _written(plan, interrupt)


def _train(plan: Plan, interrupt: Interrupt) -> None:
    """Train the rows in waves of `jobs` at a time; nothing is measured while something trains."""
    _measure_all(plan, interrupt)
    left = [trial.name for trial in plan.trials if not _is_finished(plan, trial.name)]
    jobs, total = plan.request.jobs, len(plan.trials)
    for start in range(0, len(left), jobs):
        wave = left[start : start + jobs]
        if interrupt:
            return
        done = total - len(left) + start
        _say(
            plan,
            f"Training {', '.join(wave)} ({done} of {counted(total, 'training')} done), {plan.out / 'rows'}.",
        )
        train_together([_order(plan, name) for name in wave], interrupt)
        _measure_all(plan, interrupt)


def _is_finished(plan: Plan, trial: str) -> bool:
    found = plan.record(trial)
    return found is not None and found.finished


def _order(plan: Plan, trial: str) -> Order:
    return Order(recipe=plan.recipes[trial], folder=plan.folder(trial), device=plan.device.type)


def _measure_all(plan: Plan, interrupt: Interrupt) -> None:
    for trial in plan.trials:
        found = plan.record(trial.name)
        if interrupt or found is None or not found.finished or plan.is_measured(found):
            continue
        try:
            found = _measured(plan, trial.name, found)
        except (ArithmeticError, RuntimeError, ValueError) as error:
            reason = f"it cannot be measured: {' '.join(str(error).split())}"
            found = replace(found, status="failed", reason=reason)
        save_record(plan.folder(trial.name), found)
        if found.finished:
            _say(plan, _line(trial.label, found))


def _measured(plan: Plan, trial: str, found: Record) -> Record:
    """The trial's record with its cost counted and its checkpoints, if it has any, measured."""
    counted = asdict(cost(plan.recipes[trial], plan.images, plan.device))
    metrics = list(plan.evaluator.metrics)
    found = replace(found, **counted, metrics=metrics, evaluation=None, scored_at=None, curve=[])
    saved = checkpoints(plan.folder(trial))
    if saved:
        evaluation = plan.evaluator.score(load_generator(plan.folder(trial)).to(plan.device))
        found = replace(found, evaluation=evaluation.to_dict(), scored_at=int(saved[-1].name))
        found = replace(found, curve=[_point(plan, checkpoint) for checkpoint in saved])
    gc.collect()
    if plan.device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def _point(plan: Plan, checkpoint: Path) -> dict[str, Any]:
    """A point of a trial's curve: the metrics of one checkpoint, of at most `CURVE_COUNT` images."""
    generator, facts = read_generator(checkpoint)
    evaluation = plan.evaluator.score(generator.to(plan.device), min(CURVE_COUNT, plan.evaluator.count))
    return {
        "images": facts["images"],
        "seconds": facts["seconds"],
        "metrics": evaluation.to_dict()["metrics"],
    }


def _line(label: str, found: Record) -> str:
    if found.status == "failed":
        return f"{label}: failed, {found.reason}"
    diverged = f", diverged at image {found.diverged_at:,}" if found.status == "diverged" else ""
    end = f"{label}: {found.images_seen:,} images in {found.seconds / 60:.1f} minutes{diverged}"
    if found.evaluation is None:
        return f"{end}, no checkpoint to measure."
    return f"{end}, {leading(found.evaluation['metrics'])}."


def _written(plan: Plan, interrupt: Interrupt) -> Reproduction:
    records = {t.name: found for t in plan.trials if (found := plan.record(t.name)) is not None}
    failed = tuple(name for name, found in records.items() if found.status == "failed")
    for name in failed:
        _say(plan, _line(name, records[name]))
    shown = {n: f for n, f in records.items() if n in failed or (f.finished and plan.is_measured(f))}
    table = content(plan, shown) if shown else {}
    if shown:
        write_tables(plan.out, table)
        write_figures(plan, table)
        verb = "is" if len(shown) == 1 else "are"
        whole = counted(len(plan.trials), "training")
        _say(plan, f"{len(shown)} of {whole} {verb} in {plan.out / 'table.md'}.")
    if interrupt:
        _say(plan, f"Stopped by {interrupt.signal_name}, saved. The same command goes on.")
    return Reproduction(folder=plan.out, table=table, failed=failed, interrupted=bool(interrupt))


def _say(plan: Plan, line: str) -> None:
    if not plan.request.quiet:
        print(line, flush=True)
