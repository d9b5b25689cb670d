"""`vitgan reproduce`: train and measure every row of a table of the seminar deck alike."""

import argparse
import sys
from pathlib import Path

from vitgan.terminal import add_output, answer, json_of, text_table

SUMMARY = "train and measure every row of a table of the paper alike"
EXAMPLES = """examples:
  vitgan reproduce generator --minutes 2
  vitgan reproduce generator --seeds 3 --jobs 2
  vitgan reproduce generator --list
  vitgan reproduce architectures --data IMAGES.zip --rows vitgan,stylegan2
"""
EPILOG = (
    "Each row trains in DIR/rows/ROW, an ordinary run folder, and with a later seed in DIR/rows/ROW-seed-S. "
    "The same command goes on where it was stopped. "
    "Exit code 1: a row ended in an error, which table.md names; 130: stopped, and saved."
)


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("table", metavar="TABLE", help="architectures, generator or discriminator")
    parser.add_argument("--rows", metavar="ROW,…", help="some of the rows (all; see --list)")
    parser.add_argument("--data", default="digits", metavar="SOURCE", help="the images (digits)")
    parser.add_argument("--minutes", type=float, metavar="M", help="of training, each row (2 with small)")
    parser.add_argument("--images", type=int, metavar="N", help="seen by each row, instead of minutes")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the table's folder (runs/reproduce-TABLE)")
    parser.add_argument(
        "--size", choices=("small", "paper"), help="of the systems (small on a CPU, paper on CUDA)"
    )
    parser.add_argument("--resolution", type=int, metavar="R", help="of the images (by the first picture)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of training and measuring (0)")
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="trainings of each row, from seed S upwards (1)"
    )
    parser.add_argument(
        "--features",
        metavar="F",
        help="as for evaluate (classifier where the images have labels, else inception)",
    )
    parser.add_argument("--metrics", metavar="M,…", help="of fid,is,kid,prdc, or of your own (all)")
    parser.add_argument("--count", type=int, metavar="N", help="generated images measured (as many as real)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default a CUDA GPU where there is one")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="rows trained at a time (1)")
    parser.add_argument("--list", action="store_true", help="print the rows and their printed figures")
    add_output(parser)
    parser.epilog = EPILOG


def run(options: argparse.Namespace) -> int:
    """Make the table; returns the exit code.

    It is 1 where a row ended in an error and 130 after an interrupt. Raises UserError on a user's mistake.
    """
    if options.list:
        return _list(options)
    from vitgan.metrics.protocol import parse_metrics
    from vitgan.tables import reproduce

    names = ("data", "minutes", "images", "out", "size", "resolution", "seed", "seeds", "features", "count")
    settings = {name: getattr(options, name) for name in (*names, "device", "jobs")}
    settings["quiet"] = options.quiet or options.json
    if options.metrics is not None:
        settings["metrics"] = parse_metrics(options.metrics)
    done = reproduce(options.table, rows=_rows(options), **settings)
    if options.json:
        print(json_of(done.table))
    if done.interrupted:
        return 130
    if done.failed and settings["quiet"]:
        wrong = f"{', '.join(done.failed)} failed: {done.folder / 'table.md'} says why"
        print(f"vitgan: {wrong}. The same command tries again.", file=sys.stderr)
    return 1 if done.failed else 0


def _rows(options: argparse.Namespace) -> list[str] | None:
    if options.rows is None:
        return None
    return [word.strip() for word in options.rows.split(",") if word.strip()]


def _list(options: argparse.Namespace) -> int:
    from vitgan.tables.plan import check_table, select

    check_table(options.table)
    form = {"resolution": options.resolution or 32, "channels": 3}
    rows = select(options.table, _rows(options), size=options.size or "small", **form)
    lines = []
    for row in rows:
        figures = [f"{data} {_shown(fid)} / {_shown(score)}" for data, (fid, score) in row.printed.items()]
        lines.append((row.name, row.label, ", ".join(figures)))
    kinds = ("fid", "is")
    facts = {
        row.name: {
            "label": row.label,
            "printed": {k: dict(zip(kinds, v, strict=True)) for k, v in row.printed.items()},
        }
        for row in rows
    }
    answer(options, facts, "\n".join([text_table(lines), "", "Figures: FID / IS, as the deck prints them."]))
    return 0


def _shown(number: float | None) -> str:
    return "-" if number is None else f"{number:g}"
