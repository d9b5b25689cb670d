"""The command line. Each command is a module of `vitgan.commands`.

Exit code 0; 2 with one line for a user's mistake; 130 after an interrupt. Heavy modules are imported by the
command that needs them.
"""

import argparse
import io
import itertools
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module

from vitgan import __version__, registry, terminal
from vitgan.errors import OtherRankError, UserError
from vitgan.parser import Parser

COMMANDS = (
    *("train", "sample", "explore", "interpolate", "directions", "project", "runs", "evaluate", "reproduce"),
    *("inspect", "bench", "data", "export", "push", "list", "completion"),
)
WITHOUT_PARTS = ("completion", "data", "list", "runs")
EXAMPLES = """examples:
  vitgan train                              real handwritten digits, in minutes
  vitgan train cifar10 --data IMAGES.zip --minutes 60
  vitgan sample runs/digits --count 64 --out grid.png
  vitgan evaluate runs/digits --features classifier
  vitgan reproduce generator --minutes 2
  vitgan inspect runs/digits
  vitgan bench --recipe digits
  vitgan data info IMAGES.zip
  vitgan export runs/digits --format onnx --out digits.onnx
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    terminal.hush(False)
    if arguments is None:
        terminal.calm_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the name of a file may be no text
    try:
        return _flushed(list(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        return _say(str(error), 2) if _is_own(error) else 2
    except KeyboardInterrupt:
        return _say("Interrupted.", 130)
    except BrokenPipeError:  # `vitgan list | head`
        return 0
    except OSError as error:
        return _say(_of_files(error), 2)
    except (MemoryError, RuntimeError) as error:
        if not _lacks_memory(error):
            raise
        return _say("There is not enough memory for it: ask for fewer or smaller images, or networks.", 2)


def _flushed(words: list[str]) -> int:
    """The command, and what it printed written: Python's own last write would fail with a traceback."""
    try:
        return _run(words)
    finally:
        terminal.flush()
        terminal.hush(False)  # whatever this process does next is asked anew


def _of_files(error: OSError) -> str:
    """In one sentence; a file that is written beside the one it replaces has that one's name."""
    name = re.sub(r"\.([^/]+)\.\d+\.tmp$", r"\1", str(error.filename or "A file or the output"))
    reason = error.strerror or error
    return f"{name} cannot be read or written ({reason}): see to it, or name another."


def _lacks_memory(error: Exception) -> bool:
    """Of torch's own exceptions only the text tells."""
    said = re.search("allocate memory|not enough memory|out of memory|size calculation overflow", str(error))
    return isinstance(error, MemoryError) or said is not None


def _is_own(error: UserError) -> bool:
    """Whether this process has to say it: of several, the one that raised it, or the first."""
    others_say = error.rank is None and int(os.environ.get("RANK", "0")) > 0
    return not isinstance(error, OtherRankError) and not others_say


def _say(text: str, code: int) -> int:
    print(f"vitgan: {' '.join(text.split())}", file=sys.stderr)
    return code


def _run(arguments: list[str]) -> int:
    overrides: list[str] = []
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    if arguments[:1] == ["train"]:
        arguments, overrides = _split(arguments)
    explain = arguments[:1] == ["train"] and len(arguments) > 2 and bool({"-h", "--help"} & set(arguments))
    if explain:  # with the settings of the recipe and the parts that are named
        arguments = [word for word in arguments if word not in ("-h", "--help")]
    given = argparse.Namespace(overrides=overrides, explain=explain)
    options = build_parser().parse_args(arguments, given)
    for word in getattr(options, "use", None) or ():
        registry.use(word)
    if arguments[0] != "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"`vitgan {arguments[0]}` runs in one process: start it without torchrun.")
    terminal.hush(getattr(options, "quiet", False))
    return options.execute(options)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--PART.FIELD VALUE`, and those: argparse would take VALUE for the recipe."""
    plain: list[str] = []
    settings: list[str] = []
    words = iter(arguments)
    for word in words:
        if re.match(r"--[^=.]+\.", word) is None:
            plain.append(word)
        else:
            settings += [word] if "=" in word else [word, *itertools.islice(words, 1)]
    return plain, settings


def build_parser() -> Parser:
    """The parser of every command."""
    parser = Parser(
        prog="vitgan",
        description="ViTGAN: a GAN whose generator and discriminator are Vision Transformers.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "--version", action="version", version=f"vitgan {__version__}", help="print the version"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for name in COMMANDS:
        command = import_module(f"vitgan.commands.{name}")
        text = command.SUMMARY[0].upper() + command.SUMMARY[1:] + "."
        one = commands.add_parser(name, help=command.SUMMARY, description=textwrap.fill(text, 79))
        command.add(one)
        if name not in WITHOUT_PARTS:
            one.add_argument(
                "--use",
                action="append",
                metavar="FILE|MODULE",
                help="a file or module with parts of your own (@vitgan.register); repeatable",
            )
        notes = textwrap.fill(one.epilog, 79) + "\n\n" if one.epilog else ""
        one.epilog = notes + command.EXAMPLES
        one.set_defaults(execute=command.run)
    return parser
