"""`vitgan runs`: what has been trained, and what is being trained."""

import argparse
from pathlib import Path

from vitgan.terminal import add_output, json_of, text_table

SUMMARY = "list the runs of a folder: recipe, images seen, score, last sample, state"
EXAMPLES = """examples:
  vitgan runs
  vitgan runs runs/faces --json
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
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
    """Does it; returns the exit code."""
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
    """On one line, whatever characters a recipe or a folder's name has."""
    if value is None:
        return "-"
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return "".join(one if one.isprintable() else "?" for one in text)
