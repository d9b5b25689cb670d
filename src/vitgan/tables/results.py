"""The table's content as one JSON-ready object, and its files: markdown to read, CSV to compute with."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitgan.errors import UserError
from vitgan.metrics import headline
from vitgan.metrics.protocol import better
from vitgan.tables.plan import STARRED, Plan, Record

if TYPE_CHECKING:
    from vitgan.tables.plan import Row
import csv
import io
import json
from collections.abc import Callable, Iterator

from vitgan.io import write_text
from vitgan.terminal import markdown_table

FALLBACK = "cifar10"  # whose printed figures stand beside a set that has none


def content(plan: Plan, records: Mapping[str, Record]) -> dict[str, Any]:
    """The table of the rows in `records`. Raises UserError where they were measured by several protocols."""
    from vitgan.tables.plan import PRINTED_PROTOCOL, TABLES

    printed = printed_set(plan.request.data, plan.rows)
    equal = _equal_images(records)
    trials = [
        {"seed": trial.seed, **_row(trial.row, records[trial.name], printed, equal)}
        for trial in plan.trials
        if trial.name in records
    ]
    own = {row.name: [trial for trial in trials if trial["row"] == row.name] for row in plan.rows}
    rows = [_together(found) for found in own.values() if found]
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
        "equal_images": equal,
        "missing": [trial.name for trial in plan.trials if trial.name not in records],
        "rows": rows,
        "trials": trials,
    }


def _equal_images(records: Mapping[str, Record]) -> int | None:
    """Images that every training saw that came to its end: where all of them are compared beside the end."""
    seen = [found.images_seen for found in records.values() if found.status == "complete" and found.curve]
    return min(seen, default=None)


def at_images(curve: list[dict[str, Any]], images: int) -> float | None:
    """The leading number of a curve after so many images, linear in their logarithm between two points.

    None before the first point and after the last, and where a point has no finite number.
    """
    points = [(point["images"], leading_number(point["metrics"])) for point in curve]
    for (a, low), (b, high) in pairwise(points):
        if a <= images <= b and low is not None and high is not None:
            share = math.log(images / a) / math.log(b / a)
            return low[1] + share * (high[1] - low[1])
    return None


def _together(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """A row from its trainings: the mean of what was measured, and its standard deviation between seeds."""
    worst = min(trials, key=lambda trial: WORST.index(trial["status"]))
    names = dict.fromkeys(name for trial in trials for name in trial["metrics"])
    metrics = {name: [trial["metrics"].get(name) for trial in trials] for name in names}
    cost = {name: _mean([trial[name] for trial in trials]) for name in COST}
    return {
        **worst,
        **cost,
        "images_seen": round(cost["images_seen"] or 0),
        "seed": [trial["seed"] for trial in trials],
        "metrics": {name: _mean(values) for name, values in metrics.items()},
        "deviation": {name: _deviation(values) for name, values in metrics.items()},
        "at_equal_images": _mean([trial["at_equal_images"] for trial in trials]),
        "at_equal_images_deviation": _deviation([trial["at_equal_images"] for trial in trials]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None where a value is missing, which no mean of the others stands for."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _deviation(values: Sequence[float | None]) -> float | None:
    """The standard deviation of a sample; None of fewer than two values."""
    known = [value for value in values if value is not None]
    return statistics.stdev(known) if len(known) > 1 and len(known) == len(values) else None


def leading(metrics: Mapping[str, float | None]) -> str:
    """Name and value of the Frechet distance, else of the first number."""
    found = leading_number(metrics)
    return "no finite number" if found is None else f"{found[0].replace('_', ' ')} {found[1]:.4g}"


def leading_number(metrics: Mapping[str, float | None]) -> tuple[str, float] | None:
    """The Frechet distance, else the first number, and its name; None where no number is finite."""
    numbers = {name: value for name, value in metrics.items() if value is not None}
    try:
        return headline(numbers)
    except UserError:
        return next(iter(numbers.items()), None)


def printed_name(source: str, rows: "tuple[Row, ...]") -> str | None:
    """The data set of the seminar deck that `source` is by its name: cifar10 of
    `../data/cifar10_train.zip`."""
    words = set(re.split(r"[^a-z0-9]+", Path(source).stem.lower()))
    names = dict.fromkeys(name for row in rows for name in row.printed)
    return next((name for name in names if words >= set(name.split("-"))), None)


def printed_set(source: str, rows: "tuple[Row, ...]") -> str | None:
    """The data set whose printed figures are shown: this one, else CIFAR-10; None if no row has any."""
    fallback = FALLBACK if any(FALLBACK in row.printed for row in rows) else None
    return printed_name(source, rows) or fallback


def _row(row: "Row", found: Record, printed: str | None, equal: int | None) -> dict[str, Any]:
    fid, score = row.printed.get(printed or "", (None, None))
    return {
        "row": row.name,
        "label": row.label,
        "note": "; ".join(filter(None, (STARRED.get((row.name, printed or "")), row.note))),
        "status": found.status,
        "reason": found.reason,
        "diverged_at": found.diverged_at,
        "metrics": {} if found.evaluation is None else found.evaluation["metrics"],
        "scored_at": found.scored_at,
        "curve": found.curve,
        "at_equal_images": None if equal is None else at_images(found.curve, equal),
        "images_seen": found.images_seen,
        "minutes": found.seconds / 60,
        "images_per_second": found.images_seen / found.seconds if found.seconds else None,
        "parameters_generator": found.parameters_generator,
        "parameters_discriminator": found.parameters_discriminator,
        "flops_per_image": found.flops_per_image,
        "peak_memory": found.peak_memory,
        "threads": found.environment.get("threads"),
        "printed_starred": (row.name, printed) in STARRED,
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


ARROWS = {"lower": "↓", "higher": "↑"}
TITLES = {"fid": "FID", "is": "IS", "kid": "KID"}
# Not columns for a reader: they stand in the head, beside their mean, or in the CSV alone.
WORST = ("failed", "diverged", "interrupted", "complete")
COST = ("images_seen", "minutes", "images_per_second", "peak_memory")
HIDDEN = re.compile(r"class_share_.*|.*_std|classifier_score_real")
Line = dict[str, Any]


def write_tables(out: Path, table: Line) -> None:
    """Write `table.md`, `table.csv` and `table.json` into `out`."""
    write_text(out / "table.json", json.dumps(table, indent=1) + "\n")
    write_text(out / "table.md", markdown(table))
    lines = [flat(row, table["protocol"].get("key", "")) for row in table["trials"]]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)))
    writer.writeheader()
    writer.writerows(lines)
    write_text(out / "table.csv", text.getvalue())


def flat(row: Line, protocol_key: str) -> Line:
    """A training with its metrics as columns of their own."""
    before = {name: row[name] for name in ("row", "label", "status", "reason", "diverged_at")}
    after = {name: value for name, value in row.items() if name not in (*before, "metrics", "note", "curve")}
    return {**before, "protocol": protocol_key, **row["metrics"], **after}


def markdown(table: Line) -> str:
    """The table as GitHub shows it: head, numbers beside the printed ones, cost, notes."""
    return "\n".join([*_head(table), "", *_quality(table), "", *_cost(table), *_notes(table)]) + "\n"


def _head(table: Line) -> Iterator[str]:
    settings = table["settings"]
    budget = f"{settings['minutes']:g} minutes" if settings["minutes"] else f"{settings['images']:,} images"
    side, colours = settings["resolution"], {1: "grey", 3: "RGB"}[settings["channels"]]
    title = table["title"][:1].upper() + table["title"][1:]
    yield f"# {title}\n\n```\n{table['command']}\n```\n"
    yield (
        f"**Alike for every row.** {table['images']:,} images of `{settings['data']}`, {side} x {side} "
        f"{colours}; {budget} of training; {_seeds(table)}; the row's recipe at the size "
        f"*{settings['size']}*; {_count(settings['jobs'], 'row')} at a time on {settings['device']}.\n"
    )
    yield f"**Measured here.** {_protocol_lines(table)}\n"
    if table["printed_data"]:
        yield f"**Printed in the deck.** {_printed(table)}\n"
    yield "**Hardware.** " + " / ".join(table["hardware"])


def _seeds(table: Line) -> str:
    seeds = list(dict.fromkeys(trial["seed"] for trial in table["trials"]))
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    return f"seeds {', '.join(map(str, seeds))}: mean and standard deviation between them"


def _protocol_lines(table: Line) -> str:
    facts = table["protocol"]
    if not facts:
        return "No row has a checkpoint to measure."
    settings = facts["settings"]
    text = (
        f"Features of `{facts['features']}` ({facts['features_sha']}), {facts['fakes']:,} generated images "
        f"against {facts['reals']:,} real ones, {facts['resize']}; seed {facts['seed']}; torch-fidelity "
        f"{facts['torch_fidelity']}; protocol {facts['key']}."
    )
    if "classifier_held_out_accuracy" in settings:
        accuracy, count = settings["classifier_held_out_accuracy"], settings["classifier_held_out_images"]
        text += (
            f" The classifier is a small CNN trained on the real labels, right on {accuracy:.1%} of "
            f"{count:,} held-out images: none of its numbers is an FID or an IS."
        )
    real = [row["metrics"].get("classifier_score_real") for row in table["rows"]]
    known = [value for value in real if value is not None]
    return text + (f" The real images' classifier score is {known[0]:.2f}." if known else "")


def _printed(table: Line) -> str:
    name, text = table["printed_data"], f"FID and IS on {table['printed_data']}. {table['printed_protocol']}"
    if not table["printed_is_of_these_images"]:
        text += (
            f" The deck has no figures for `{table['settings']['data']}`; those of {name} are of other "
            "images, and of other sizes and budgets: at most the order of the rows may be compared."
        )
    return text


def _quality(table: Line) -> Iterator[str]:
    metrics = dict.fromkeys(name for row in table["rows"] for name in row["metrics"])
    names = [name for name in metrics if HIDDEN.fullmatch(name) is None]
    columns: dict[str, Callable[[Line], str]] = {"row": lambda row: row["label"]}
    for name in names:
        columns[_title(name)] = lambda row, name=name: _value(row, name)
    if table["equal_images"]:
        columns[f"at {table['equal_images']:,} images"] = lambda row: _spread(
            row["at_equal_images"], row["at_equal_images_deviation"]
        )
    columns["diverged"] = _ending
    if table["printed_data"]:
        columns |= {f"deck, {table['printed_data']}: FID ↓": lambda row: _printed_number(row, "fid")}
        columns |= {f"deck, {table['printed_data']}: IS ↑": lambda row: _printed_number(row, "is")}
    return _table(columns, table["rows"])


def _cost(table: Line) -> Iterator[str]:
    columns: dict[str, Callable[[Line], str]] = {
        "row": lambda row: row["label"],
        "images seen": lambda row: f"{row['images_seen']:,}",
        "minutes": lambda row: f"{row['minutes']:.2f}",
        "images/s": lambda row: _number(row["images_per_second"]),
        "parameters G": lambda row: _number(row["parameters_generator"]),
        "parameters D": lambda row: _number(row["parameters_discriminator"]),
        "MFLOPs an image": lambda row: _number(row["flops_per_image"], 1e6),
        "peak memory, MiB": lambda row: _number(row["peak_memory"], 2**20),
    }
    return _table(columns, table["rows"])


def _notes(table: Line) -> Iterator[str]:
    yield "\nFLOPs are of one whole training step (both updates, every term at its interval) over its batch."
    if table["equal_images"]:
        yield (
            f"The column at {table['equal_images']:,} images is the first number again, of fewer generated "
            "images and between two checkpoints: compare it within the column alone."
        )
    if table["memory_measure"]:
        yield f"Peak memory is {table['memory_measure']}."
    for row in table["rows"]:
        scored = row["scored_at"] not in (None, row["images_seen"])
        facts = [row["note"], row["reason"]]
        facts += [f"measured at {row['scored_at']:,} images"] if scored else []
        if any(facts):
            yield f"\n- {row['label']}: {'; '.join(fact for fact in facts if fact)}"
    if table["missing"]:
        yield f"\nNot trained yet: {', '.join(table['missing'])}."


def _table(columns: dict[str, Callable[[Line], str]], rows: list[Line]) -> Iterator[str]:
    cells = ([cell(row) for cell in columns.values()] for row in rows)
    yield markdown_table(list(columns), cells, numbers=True)


def _title(metric: str) -> str:
    title = TITLES.get(metric, metric.replace("_", " ").replace("frechet", "Fréchet"))
    known = better(metric)
    return f"{title} {ARROWS[known]}" if known else title


def _value(row: Line, name: str) -> str:
    """A number with its deviation between seeds, or that within one measurement where there is one seed."""
    spread = row["deviation"].get(name)
    return _spread(row["metrics"].get(name), row["metrics"].get(f"{name}_std") if spread is None else spread)


def _spread(value: float | None, deviation: float | None) -> str:
    return _number(value) if deviation is None else f"{_number(value)} ± {deviation:.2g}"


def _printed_number(row: Line, kind: str) -> str:
    number = row[f"printed_{kind}"]
    return _number(number) + ("*" if row["printed_starred"] and number is not None else "")


def _ending(row: Line) -> str:
    if row["status"] == "diverged":
        return f"at image {row['diverged_at']:,}"
    return "no" if row["status"] == "complete" else row["status"]


def _number(value: float | None, unit: float = 1) -> str:
    """A number of at most four significant digits as text; a dash for None."""
    if value is None:
        return "-"
    value = value / unit
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
