"""`vitgan runs`: list the runs of a folder with their state."""

import argparse
from pathlib import Path

from vitgan.terminal import add_output, json_of, printable, text_table

SUMMARY = "list the runs of a folder: recipe, images seen, score, last sample, state"
EXAMPLES = """examples:
  vitgan runs
  vitgan runs runs/faces --json
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "folder",
        metavar="DIR",
        nargs="?",
        type=Path,
        default=Path("runs"),
        help="a folder of runs, or one run (runs)",
    )
    add_output(parser, quiet=False)


def run(options: argparse.Namespace) -> int:
    """Print the table of runs; returns the exit code 0."""
    from vitgan.engine.run_folder import overview

    found = overview(options.folder)
    if options.json:
        print(json_of(found))
        return 0
    if not found:
        print(f"There are no runs in {options.folder}: start one with `vitgan train`.")
        return 0
    names = ("run", "recipe", "data", "images", "score", "last sample", "state")
    print(text_table([names, *(tuple(_text(one[name]) for name in names) for one in found)]))
    return 0


def _text(value: object) -> str:
    """A cell of the table; characters that cannot be printed, such as line feeds, become question marks."""
    if value is None:
        return "-"
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return "".join(one if one.isprintable() else "?" for one in printable(text))
