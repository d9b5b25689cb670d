"""What a command prints: a text for a person, one JSON document for a script, or nothing at all.

Nothing is coloured, so the variable NO_COLOR has nothing to switch off.
"""

import argparse
import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

STDOUT = Path("-")
_silence = {"asked": False}


def add_output(parser: argparse.ArgumentParser, *, file: str | None = None, quiet: bool = True) -> None:
    """Add the options --json and, with `quiet`, --quiet to a command.

    With `file`, the help's text, --json takes a path to write the document to and means stdout without one.
    """
    if file is None:
        parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    else:
        parser.add_argument("--json", nargs="?", type=Path, const=STDOUT, metavar="PATH", help=file)
    if quiet:
        parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def answer(options: argparse.Namespace, facts: Any, text: str) -> None:
    """Print what a command has found: `facts` as JSON with --json, nothing with --quiet, else `text`."""
    if options.json is True or options.json == STDOUT:
        print(json_of(facts))
    elif not options.quiet:
        print(text)


def json_of(value: Any) -> str:
    """A value as strict JSON, indented. NaN and infinity become null, which JSON lacks; a path its text."""
    return json.dumps(_strict(value), indent=1, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def printable(text: str) -> str:
    """`text` as UTF-8 can hold it: of a file's name that is not UTF-8 the bytes stand as escapes.

    Python reads such a byte, 0xE9 for instance, as half of a surrogate pair, which becomes "\\udce9".
    """
    return text.encode(errors="backslashreplace").decode()


def _printable_record(record: logging.LogRecord) -> bool:
    """A filter that lets every record of the log pass, its text as `printable` has it."""
    record.msg, record.args = printable(record.getMessage()), None
    return True


logging.getLogger("vitgan").addFilter(_printable_record)


def aligned(lines: Mapping[str, object]) -> str:
    """A line for each name, with its value behind it; the values stand one below the other."""
    return text_table([(name, str(value)) for name, value in lines.items()])


def text_table(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    """Rows of cells as lines of text, the columns two spaces apart and as wide as their widest cell.

    All cells are flush left, those of `numbers` flush right except in the first column. A row may lack cells
    at its end.
    """
    columns = max(map(len, rows))
    full = [[*row, *[""] * (columns - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    pads = [str.ljust, *[str.rjust if numbers else str.ljust] * (columns - 1)]
    return "\n".join(
        "  ".join(pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True)).rstrip()
        for row in full
    )


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """A table in Markdown; with `numbers` all columns but the first are flush right."""
    marks = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, marks, *rows))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def counted(count: int, noun: str) -> str:
    """A count with its noun, in the plural unless there is one: "1 image", "2,000 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def class_list(names: Sequence[str], most: int = 10) -> str:
    """The numbers of classes with their names, "0 (cat), 1 (dog)"; "0 to 9" where each is named as numbered.

    Of more than `most` classes the rest are counted.
    """
    if all(name == str(number) for number, name in enumerate(names)):
        return "0" if len(names) == 1 else f"0 to {len(names) - 1}"
    shown = [f"{number} ({in_line(name)})" for number, name in enumerate(names[:most])]
    more = [f"and {len(names) - most:,} more"] if len(names) > most else []
    return ", ".join([*shown, *more])


def in_line(name: str) -> str:
    """A name within a line of text: its control characters are escaped, and what is beyond 60 is cut."""
    shown = name if name.isprintable() else repr(name)[1:-1]
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def can_draw(stream: TextIO | None) -> bool:
    """Whether a progress bar may be drawn on `stream`.

    It may on a terminal that can go back in its line, unless --quiet was given.
    """
    if _silence["asked"] or stream is None or not stream.isatty() or os.environ.get("TERM") == "dumb":
        return False
    # A pseudo-terminal that says it has no rows, as some containers give, shows no bar at all.
    return all(os.get_terminal_size(stream.fileno()))


class _Lines(logging.StreamHandler):
    """Prints the package's own log records on stderr, a line each; those of libraries are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(logging.Filter("vitgan"))


def log_from(level: int) -> None:
    """Print log records of the package from `level` on.

    Nothing changes in a program that has set up logging of its own before it called this package.
    """
    root = logging.getLogger()
    if not root.handlers:
        logging.basicConfig(format="vitgan: %(message)s", level=logging.WARNING, handlers=[_Lines()])
    for handler in root.handlers:
        if isinstance(handler, _Lines):
            handler.setLevel(level)


def calm_libraries() -> None:
    """Silence the warnings of libraries, which are meant for their developers.

    `python -W default` shows Python's warnings again, the variables HF_HUB_VERBOSITY and DATASETS_VERBOSITY
    those of the Hugging Face libraries. A notebook's MPLBACKEND, inherited by a shell in it, does not hold.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for name in ("HF_HUB_VERBOSITY", "DATASETS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    if os.environ.get("MPLBACKEND", "").startswith("module://"):
        os.environ["MPLBACKEND"] = "agg"


def hush(quiet: bool) -> None:
    """Set for the rest of the process whether warnings and progress bars are left out, as --quiet asks."""
    _silence["asked"] = quiet
    log_from(logging.ERROR if quiet else logging.WARNING)


def flush() -> None:
    """Write out what has been printed, and raise the OSError with which that fails.

    Python itself would write the rest as it ends, where a failure is a traceback. After an error the rest is
    dropped.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
