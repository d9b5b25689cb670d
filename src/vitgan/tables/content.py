"""All that a table says, as one JSON-ready object, from which its files are written."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitgan.errors import UserError
from vitgan.metrics import headline
from vitgan.tables.plan import Plan
from vitgan.tables.record import Record

if TYPE_CHECKING:
    from vitgan.tables.rows import Row

FALLBACK = "cifar10"  # whose printed figures stand beside a set that has none


def content(plan: Plan, records: Mapping[str, Record]) -> dict[str, Any]:
    """The table of the rows in `records`. Raises UserError where they were measured by several protocols."""
    from vitgan.tables.rows import PRINTED_PROTOCOL, TABLES

    printed = printed_set(plan.request.data, plan.rows)
    rows = [_row(row, records[row.name], printed) for row in plan.rows if row.name in records]
    return {
        "table": plan.request.table,
        "title": TABLES[plan.request.table],
        "command": plan.request.command(),
        "settings": plan.settings,
        "images": len(plan.images),
        "protocol": _protocol(records),
        "hardware": _hardware(records),
        "memory_measure": next((r.memory_measure for r in records.values() if r.memory_measure), ""),
        "printed_data": printed,
        "printed_protocol": PRINTED_PROTOCOL.get(printed or "", ""),
        "printed_is_of_these_images": printed == printed_name(plan.request.data, plan.rows),
        "missing": [row.name for row in plan.rows if row.name not in records],
        "rows": rows,
    }


def leading(metrics: Mapping[str, float | None]) -> str:
    """Name and value of the Frechet distance, else of the first number."""
    numbers = {name: value for name, value in metrics.items() if value is not None}
    if not numbers:
        return "no finite number"
    try:
        name, value = headline(numbers)
    except UserError:
        name, value = next(iter(numbers.items()))
    return f"{name.replace('_', ' ')} {value:.4g}"


def printed_name(source: str, rows: "tuple[Row, ...]") -> str | None:
    """The data set of the deck that `source` is by its name: cifar10 of `../data/cifar10_train.zip`."""
    words = set(re.split(r"[^a-z0-9]+", Path(source).stem.lower()))
    names = dict.fromkeys(name for row in rows for name in row.printed)
    return next((name for name in names if words >= set(name.split("-"))), None)


def printed_set(source: str, rows: "tuple[Row, ...]") -> str | None:
    """The data set whose printed figures are shown: this one, else CIFAR-10; None if no row has any."""
    fallback = FALLBACK if any(FALLBACK in row.printed for row in rows) else None
    return printed_name(source, rows) or fallback


def _row(row: "Row", found: Record, printed: str | None) -> dict[str, Any]:
    fid, score = row.printed.get(printed or "", (None, None))
    return {
        "row": row.name,
        "label": row.label,
        "note": row.note,
        "status": found.status,
        "reason": found.reason,
        "diverged_at": found.diverged_at,
        "metrics": {} if found.evaluation is None else found.evaluation["metrics"],
        "scored_at": found.scored_at,
        "images_seen": found.images_seen,
        "minutes": found.seconds / 60,
        "images_per_second": found.images_seen / found.seconds if found.seconds else None,
        "parameters_generator": found.parameters_generator,
        "parameters_discriminator": found.parameters_discriminator,
        "flops_per_image": found.flops_per_image,
        "peak_memory": found.peak_memory,
        "threads": found.environment.get("threads"),
        "printed_fid": fid,
        "printed_is": score,
    }


def _protocol(records: Mapping[str, Record]) -> dict[str, Any]:
    """The one protocol of all rows; empty where none is measured."""
    found = [record.evaluation["protocol"] for record in records.values() if record.evaluation]
    keys = list(dict.fromkeys(protocol["key"] for protocol in found))
    if len(keys) > 1:
        raise UserError(
            f"The rows were measured by different protocols ({', '.join(keys)}): numbers of two protocols "
            "never stand in one column, so give another folder with --out."
        )
    return found[0] if found else {}


def _hardware(records: Mapping[str, Record]) -> list[str]:
    """One line for every environment in which rows were trained; the threads are each row's own."""
    environments = [record.environment for record in records.values() if record.environment]
    lines = ["; ".join(f"{k} {v}" for k, v in facts.items() if k != "threads") for facts in environments]
    return list(dict.fromkeys(lines))
