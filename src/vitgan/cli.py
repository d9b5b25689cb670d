"""The command line. Each command is a module of `vitgan.commands`.

Exit code 0; 2 with one line for a user's mistake; 130 after an interrupt. Heavy modules are imported by the
command that needs them.
"""

import argparse
import io
import itertools
import logging
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from vitgan import __version__
from vitgan.errors import Elsewhere, UserError

COMMANDS = (
    *("train", "sample", "explore", "interpolate", "directions", "project", "runs", "evaluate", "reproduce"),
    *("inspect", "bench", "data", "export", "push", "list", "completion"),
)
EXAMPLES = """examples:
  vitgan train                                        real handwritten digits, in minutes
  vitgan train cifar10 --data IMAGES.zip --minutes 60
  vitgan sample runs/digits --count 64 --out grid.png
  vitgan evaluate runs/digits --features classifier
  vitgan reproduce generator --minutes 2
  vitgan inspect runs/digits
  vitgan bench --recipe digits
  vitgan data info IMAGES.zip
  vitgan export runs/digits --format onnx --out digits.onnx
"""


class Parser(argparse.ArgumentParser):
    """Says a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        raise UserError(f"{message[:1].upper()}{message[1:]} (see `{self.prog} --help`).")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    logging.basicConfig(format="vitgan: %(message)s", level=logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the name of a file may be no text
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        return _say(str(error), 2) if _is_own(error) else 2
    except KeyboardInterrupt:
        return _say("Interrupted.", 130)
    except BrokenPipeError:  # `vitgan list | head`: what is left in the buffer must go nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _say(f"{error.filename or 'A file'} cannot be read or written ({error.strerror or error}).", 2)
    except (MemoryError, RuntimeError) as error:
        if not _lacks_memory(error):
            raise
        return _say("There is not enough memory for it: ask for fewer or smaller images, or networks.", 2)


def _lacks_memory(error: Exception) -> bool:
    """Of torch's own exceptions only the text tells."""
    said = re.search("allocate memory|not enough memory|out of memory|size calculation overflow", str(error))
    return isinstance(error, MemoryError) or said is not None


def _is_own(error: UserError) -> bool:
    """Whether this process has to say it: of several, the one that raised it, or the first."""
    others_say = error.rank is None and int(os.environ.get("RANK", "0")) > 0
    return not isinstance(error, Elsewhere) and not others_say


def _say(text: str, code: int) -> int:
    print(f"vitgan: {' '.join(text.split())}", file=sys.stderr)
    return code


def _run(arguments: list[str]) -> int:
    overrides: list[str] = []
    if arguments[:1] == ["train"]:
        arguments, overrides = _split(arguments)
    options = build_parser().parse_args(arguments, argparse.Namespace(overrides=overrides))
    if arguments[0] != "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"`vitgan {arguments[0]}` runs in one process: start it without torchrun.")
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
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vitgan {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for name in COMMANDS:
        command = import_module(f"vitgan.commands.{name}")
        text = command.SUMMARY[0].upper() + command.SUMMARY[1:] + "."
        one = commands.add_parser(
            name,
            help=command.SUMMARY,
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add(one)
        notes = textwrap.fill(one.epilog, 79) + "\n\n" if one.epilog else ""
        one.epilog = notes + command.EXAMPLES
        one.set_defaults(execute=command.run)
    return parser
