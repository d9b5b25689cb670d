"""Rows that train at the same time, each in a process of its own."""

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vitgan.engine.interrupt import Interrupt
from vitgan.engine.recipe import Recipe
from vitgan.tables import record
from vitgan.tables.record import Record

OUTPUT = "output.txt"
POLL = 0.1  # seconds
CODE = "from vitgan.tables.row import main; main()"


@dataclass(frozen=True, kw_only=True)
class Order:
    """A row to train."""

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
    """A process in a session of its own: a Ctrl-C at the terminal reaches this process alone."""
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
    earlier = record.load(order.folder)
    images = 0 if earlier is None else earlier.images_seen
    record.save(
        order.folder,
        Record(recipe=order.recipe.to_dict(), status="failed", reason=reason, images_seen=images),
    )
