"""What a command says: a text for a person, one JSON document for a script, or nothing at all.

Colour there is none, so NO_COLOR has nothing to switch off.
"""

import argparse
import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

STDOUT = Path("-")
_silence = {"asked": False}


def add_output(parser: argparse.ArgumentParser, *, file: str | None = None, quiet: bool = True) -> None:
    """Declare --json and --quiet; `file` says what a PATH after --json is for, where it takes one."""
    if file is None:
        parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    else:
        parser.add_argument("--json", nargs="?", type=Path, const=STDOUT, metavar="PATH", help=file)
    if quiet:
        parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def answer(options: argparse.Namespace, facts: Any, text: str) -> None:
    """Print `facts` where JSON is asked for on stdout, nothing with --quiet, else `text`."""
    if options.json is True or options.json == STDOUT:
        print(json_of(facts))
    elif not options.quiet:
        print(text)


def json_of(value: Any) -> str:
    """Strict JSON: a number that is not finite is null, and a path its text."""
    return json.dumps(_strict(value), indent=1, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def aligned(lines: Mapping[str, str]) -> str:
    """One line a name, the values one below the other."""
    width = max(map(len, lines))
    return "\n".join(f"{name:{width}}  {value}".rstrip() for name, value in lines.items())


def counted(count: int, noun: str) -> str:
    """1 image, 2 images."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def can_draw(stream: TextIO | None) -> bool:
    """Whether a bar may be drawn there: on a terminal that can go back in its line, and without --quiet."""
    if _silence["asked"] or stream is None or not stream.isatty() or os.environ.get("TERM") == "dumb":
        return False
    # A pseudo-terminal that says it has no rows, as some containers give, shows no bar at all.
    return all(os.get_terminal_size(stream.fileno()))


class _Lines(logging.StreamHandler):
    """The package's warnings, a line each on stderr; those of the libraries are for their developers."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(logging.Filter("vitgan"))


def log_from(level: int) -> None:
    """What is logged from `level` on is printed, unless a program that calls this one sees to its log."""
    root = logging.getLogger()
    if not root.handlers:
        logging.basicConfig(format="vitgan: %(message)s", level=logging.WARNING, handlers=[_Lines()])
    for handler in root.handlers:
        if isinstance(handler, _Lines):
            handler.setLevel(level)


def calm_libraries() -> None:
    """What libraries warn of is for their developers; `python -W default` and the variables show it."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for name in ("HF_HUB_VERBOSITY", "DATASETS_VERBOSITY"):
        os.environ.setdefault(name, "error")


def hush(quiet: bool) -> None:
    """With `quiet` neither warnings nor bars, of whatever library, from here on."""
    _silence["asked"] = quiet
    log_from(logging.ERROR if quiet else logging.WARNING)


def flush() -> None:
    """Write what is printed now, while an error can still be said: raises it, and forgets the rest."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
