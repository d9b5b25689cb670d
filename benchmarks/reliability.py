"""Faults injected into real runs, each many times, and what became of the runs.

    python benchmarks/reliability.py --json reliability.json [--docs docs/reliability.md] [--only NAME ...]

Tiny runs (96 images in steps of 4) stand for long ones: everything that has a clock is on. Moments, bytes and
bits are drawn anew each time; the seed is printed, and `--seed` repeats it. With `--docs` the table of that
document is written. The exit code is 1 where a row fails. `--quick` tries each fault a few times, and without
`--ranks` those of one process alone.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a process that forks may have no threads

import torch
from fault_injection import kills, memory, numbers, ranks, sets, storage
from fault_injection.trial import Failed, Trial

from vitgan.engine import report as page
from vitgan.engine.environment import environment
from vitgan.terminal import markdown_table

Test = Callable[[Trial], tuple[int, str]]
START, END = "<!-- faults -->", "<!-- end of faults -->"


@dataclass(frozen=True)
class Fault:
    """A row of the table: what goes wrong, how it is brought about, and the test."""

    name: str
    how: str
    test: Test
    slow: bool = False


DIES, HANGS = r"Rank {} \(process \d+ on \S+\) died", r"Rank {} \(process \d+ on \S+\) has not answered"
DAMAGED, NEWER = "is damaged (", "was written by a newer vitgan (format 7)"
FAULTS = (
    Fault(
        "killed at any moment",
        "SIGKILL at a random moment of a run, then the same command",
        kills.at_any_moment,
    ),
    Fault("killed again and again", "SIGKILL to every start of one run", kills.again_and_again),
    Fault(
        "killed within a checkpoint's write",
        "SIGKILL before each of its file operations",
        kills.within_a_checkpoint,
    ),
    Fault(
        "killed with half a file written",
        "SIGKILL, its tensors cut anywhere",
        kills.in_the_bytes_of_a_checkpoint,
    ),
    Fault("asked to stop", "SIGINT, SIGTERM at a random moment", kills.asked_to_stop),
    Fault("two processes, one folder", "the same command twice", kills.two_processes),
    Fault(
        "checkpoint truncated",
        "either file cut at a random byte",
        storage.damaged(storage.truncate, DAMAGED, 20),
    ),
    Fault(
        "checkpoint bit-flipped", "a random bit of either file", storage.damaged(storage.flip, DAMAGED, 20)
    ),
    Fault("checkpoint empty", "either file has 0 bytes", storage.damaged(storage.empty, DAMAGED, 2)),
    Fault("checkpoint incomplete", "either file is deleted", storage.damaged(storage.remove, DAMAGED, 2)),
    Fault(
        "checkpoint of the future",
        "format 7, its checksum right",
        storage.damaged(storage.of_the_future, NEWER, 2),
    ),
    Fault("disk full: checkpoint", "a 4 MiB disk, filled before the write", storage.full("_save", 24)),
    Fault("disk full: samples", "the same", storage.full("_sample", 24)),
    Fault("disk full: log", "the same", storage.full("_write_log", 24)),
    Fault("disk full: report", "the same, at the end of the run", storage.full("_end", 96)),
    Fault("set of images changed", "an image more, less, edited, renamed; labels", sets.changed),
    Fault("bad images", "14 kinds among good ones, alone and together", sets.bad),
    Fault("unreadable folder", "a class's folder without permissions", sets.unreadable_folder),
    Fault("name that is not UTF-8", "of the set, a class, an image and the run", sets.undecodable),
    Fault("set goes away for a while", "its folder is moved away and back", sets.goes_away),
    Fault("set stays away", "its folder is moved away", sets.stays_away),
    Fault("data worker killed", "SIGKILL to a process that reads ahead", sets.killed_reader),
    Fault(
        "small shared memory",
        "`/dev/shm` is too small, or is filled by others",
        sets.small_shared_memory,
    ),
    Fault("NaN, infinite or exploding loss", "a term's loss times NaN, inf, 1e12", numbers.stops),
    Fault("the same, `--on-nan rollback`", "a term's loss times NaN, once and twice", numbers.rolls_back),
    Fault("the same, every time", "a term's loss times NaN, always", numbers.gives_up),
    Fault("learning rate too high", "1e30", numbers.learning_rate),
    Fault("memory of a long run", "no fault: measured", memory.flat),
    Fault("a step beyond the memory", "`ulimit -v`, by `--dry-run` and a run", memory.too_large),
    Fault("a rank dies", "SIGKILL to rank 0, to rank 1 of 2", ranks.lost(signal.SIGKILL, DIES), slow=True),
    Fault("a rank hangs", "SIGSTOP to rank 0, to rank 1 of 2", ranks.lost(signal.SIGSTOP, HANGS), slow=True),
    Fault("torchrun restarts", "SIGKILL to rank 1, `--max-restarts`", ranks.restarted, slow=True),
)


def main() -> int:
    """Try them; print, and write what was asked for."""
    parser = argparse.ArgumentParser(description="Faults injected into real runs.")
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--docs", type=Path, metavar="PATH")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows whose names hold one of these")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ranks", action="store_true", help="with --quick: those of several processes too")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    chosen = [
        fault for fault in FAULTS if not options.only or any(part in fault.name for part in options.only)
    ]
    if options.quick:
        page.panels = lambda lines: []  # noqa: ARG005 - curves take longer to draw than a tiny run to train
    if options.quick and not options.ranks:
        chosen = [fault for fault in chosen if not fault.slow]
    rows = [tried(fault, options.quick, options.seed) for fault in chosen]
    report = {
        "environment": environment(torch.device("cpu")),
        "command": " ".join(sys.argv),
        "seed": options.seed,
        "rows": rows,
    }
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.docs is not None:
        write_table(options.docs, rows)
    return 0 if all(row["passed"] for row in rows) else 1


def tried(fault: Fault, quick: bool, seed: int) -> dict[str, Any]:
    """Try one fault, in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="vitgan-fault-"))
    began = time.monotonic()
    try:
        times, outcome = fault.test(Trial(folder, quick, random.Random(f"{seed} {fault.name}")))
        passed = True
    except Failed as error:
        times, outcome, passed = 0, str(error), False
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = round(time.monotonic() - began, 1)
    print(f"{'passed' if passed else 'FAILED'}  {fault.name}, {times}: {outcome} ({seconds} s)", flush=True)
    row = {"name": fault.name, "how": fault.how, "times": times, "passed": passed, "outcome": outcome}
    return row | {"seconds": seconds}


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Put the table between its marks."""
    before, _, rest = path.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    lines = []
    for row in rows:
        outcome = row["outcome"] if row["passed"] else f"**fails**: {row['outcome']}"
        lines.append((row["name"], row["how"], f"{row['times']:,}", outcome))
    table = markdown_table(("fault", "injected how", "times", "outcome"), lines)
    path.write_text(f"{before}{START}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
