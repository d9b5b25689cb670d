"""Train the rows of a table, measure them alike, write the table. Resumable row by row."""

import gc
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vitgan.engine.checkpoint import checkpoints
from vitgan.engine.folder import load_generator
from vitgan.engine.interrupt import Interrupt, stop_on_signals
from vitgan.tables import record
from vitgan.tables.content import content, leading
from vitgan.tables.cost import cost
from vitgan.tables.figure import write_figures
from vitgan.tables.plan import Plan, Request, prepare, write_settings
from vitgan.tables.processes import Order, train_together
from vitgan.tables.record import Record
from vitgan.tables.write import write_tables
from vitgan.terminal import counted


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """How a call of `reproduce` ended."""

    folder: Path
    table: dict[str, Any]
    """The content of `table.json`; empty when no row is finished."""
    failed: tuple[str, ...]
    """Rows that ended in an error other than divergence."""
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
    """Wave after wave of rows; nothing is measured while something trains."""
    _measure_all(plan, interrupt)
    left = [row.name for row in plan.rows if not _is_finished(plan, row.name)]
    jobs, total = plan.request.jobs, len(plan.rows)
    for start in range(0, len(left), jobs):
        wave = left[start : start + jobs]
        if interrupt:
            return
        done = total - len(left) + start
        _say(
            plan,
            f"Training {', '.join(wave)} ({done} of {counted(total, 'row')} done) in {plan.out / 'rows'}.",
        )
        train_together([_order(plan, name) for name in wave], interrupt)
        _measure_all(plan, interrupt)


def _is_finished(plan: Plan, row: str) -> bool:
    found = plan.record(row)
    return found is not None and found.finished


def _order(plan: Plan, row: str) -> Order:
    return Order(recipe=plan.recipes[row], folder=plan.folder(row), device=plan.device.type)


def _measure_all(plan: Plan, interrupt: Interrupt) -> None:
    for row in plan.rows:
        found = plan.record(row.name)
        if interrupt or found is None or not found.finished or plan.is_measured(found):
            continue
        try:
            found = _measured(plan, row.name, found)
        except (ArithmeticError, RuntimeError, ValueError) as error:
            reason = f"it cannot be measured: {' '.join(str(error).split())}"
            found = replace(found, status="failed", reason=reason)
        record.save(plan.folder(row.name), found)
        if found.finished:
            _say(plan, _line(row.label, found))


def _measured(plan: Plan, row: str, found: Record) -> Record:
    """Its cost counted; its last checkpoint, if it has one, measured."""
    counted = asdict(cost(plan.recipes[row], plan.images, plan.device))
    metrics = list(plan.evaluator.metrics)
    found = replace(found, **counted, metrics=metrics, evaluation=None, scored_at=None)
    saved = checkpoints(plan.folder(row))
    if saved:
        evaluation = plan.evaluator.score(load_generator(plan.folder(row)).to(plan.device))
        found = replace(found, evaluation=evaluation.to_dict(), scored_at=int(saved[-1].name))
    gc.collect()
    if plan.device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def _line(label: str, found: Record) -> str:
    if found.status == "failed":
        return f"{label}: failed, {found.reason}"
    diverged = f", diverged at image {found.diverged_at:,}" if found.status == "diverged" else ""
    end = f"{label}: {found.images_seen:,} images in {found.seconds / 60:.1f} minutes{diverged}"
    if found.evaluation is None:
        return f"{end}, no checkpoint to measure."
    return f"{end}, {leading(found.evaluation['metrics'])}."


def _written(plan: Plan, interrupt: Interrupt) -> Reproduction:
    records = {row.name: found for row in plan.rows if (found := plan.record(row.name)) is not None}
    failed = tuple(name for name, found in records.items() if found.status == "failed")
    for name in failed:
        _say(plan, _line(name, records[name]))
    shown = {n: f for n, f in records.items() if n in failed or (f.finished and plan.is_measured(f))}
    table = content(plan, shown) if shown else {}
    if shown:
        write_tables(plan.out, table)
        write_figures(plan, table)
        verb = "is" if len(shown) == 1 else "are"
        _say(plan, f"{len(shown)} of {counted(len(plan.rows), 'row')} {verb} in {plan.out / 'table.md'}.")
    if interrupt:
        _say(plan, f"Stopped by {interrupt.signal_name}, saved. The same command goes on.")
    return Reproduction(folder=plan.out, table=table, failed=failed, interrupted=bool(interrupt))


def _say(plan: Plan, line: str) -> None:
    if not plan.request.quiet:
        print(line, flush=True)
