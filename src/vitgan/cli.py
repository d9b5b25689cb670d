"""The command line and its parser. Each command is a module of `vitgan.commands`.

Exit code 0; 2 with one line for a user's mistake; 130 after an interrupt. Heavy modules are imported by the
command that needs them.
"""

import argparse
import getpass
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from vitgan import __version__, registry, terminal
from vitgan.compat import CommandsFormatter, PrintingParser, commands_of, options_of
from vitgan.errors import OtherRankError, UserError, did_you_mean, lacks_memory
from vitgan.io import home

COMMANDS = (
    *("train", "resume", "sample", "explore", "interpolate", "directions", "project", "runs", "evaluate"),
    *("reproduce", "inspect", "bench", "data", "export", "push", "list", "completion"),
)
# Commands that do not read parts of a user's own, so lack --use; `list` declares it with another help.
WITHOUT_PARTS = ("completion", "data", "list", "runs")
EXAMPLES = """examples:
  vitgan train                              real handwritten digits, in minutes
  vitgan train cifar10 --data IMAGES.zip --minutes 60
  vitgan resume runs/digits --minutes 20
  vitgan sample runs/digits --count 64 --out grid.png
  vitgan evaluate runs/digits --features classifier
  vitgan reproduce generator --minutes 2
  vitgan inspect runs/digits
  vitgan bench --recipe digits
  vitgan data info IMAGES.zip
  vitgan export runs/digits --format onnx --out digits.onnx
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of `vitgan` and return its exit code; `arguments` are those of the process for None."""
    terminal.hush(False)
    if arguments is None:
        terminal.calm_libraries()
        _settle_home()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be undecodable
    try:
        return _flushed(list(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        return _say(str(error), 2) if _is_own(error) else 2
    except KeyboardInterrupt:
        return _say("Interrupted.", 130)
    except BrokenPipeError:  # `vitgan list | head`
        return 0
    except OSError as error:
        return _say(_file_error(error), 2)
    except (MemoryError, RuntimeError) as error:
        if "home directory" in str(error):
            return _say("A path begins with ~, but there is no such user or home: write it in full.", 2)
        if not lacks_memory(error):
            raise
        return _say("There is not enough memory for it: ask for fewer or smaller images, or networks.", 2)


def _settle_home() -> None:
    """Give the process a home folder and a name of its user where the system knows none.

    Libraries ask for them, torch's compiler among others, and raise KeyError or make a folder called "~".
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(home())
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = f"user{os.getuid()}" if hasattr(os, "getuid") else "user"


def _flushed(words: list[str]) -> int:
    """Run a command and flush stdout: an error in Python's own flush at exit would be a traceback."""
    try:
        return _run(words)
    finally:
        terminal.flush()
        terminal.hush(False)  # --quiet holds for one command


def _file_error(error: OSError) -> str:
    """The sentence about an error of a file; an atomic write's temporary file goes by its target's name."""
    name = re.sub(r"\.([^/]+)\.\d+\.tmp$", r"\1", str(error.filename or "A file or the output"))
    reason = error.strerror or error
    return f"{name} cannot be read or written ({reason}): see to it, or name another."


def _is_own(error: UserError) -> bool:
    """Whether this process prints the error: of several, the one that raised it, else the first."""
    others_say = error.rank is None and int(os.environ.get("RANK", "0")) > 0
    return not isinstance(error, OtherRankError) and not others_say


def _say(text: str, code: int) -> int:
    """Print a message on stderr in one line and return the exit code."""
    print(f"vitgan: {' '.join(text.split())}", file=sys.stderr)
    return code


def _run(arguments: list[str]) -> int:
    """Parse the arguments, register parts of --use, and run the command; returns its exit code."""
    overrides: list[str] = []
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    if arguments[:1] == ["train"]:
        arguments, overrides = _split(arguments)
    explain = arguments[:1] == ["train"] and len(arguments) > 2 and bool({"-h", "--help"} & set(arguments))
    if explain:  # `train` prints it itself, with the settings of the named recipe and parts
        arguments = [word for word in arguments if word not in ("-h", "--help")]
    given = argparse.Namespace(overrides=overrides, explain=explain)
    options = build_parser().parse_args(arguments, given)
    for word in getattr(options, "use", None) or ():
        registry.use(word)
    if arguments[0] not in ("train", "resume") and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"`vitgan {arguments[0]}` runs in one process: start it without torchrun.")
    terminal.hush(getattr(options, "quiet", False))
    return options.execute(options)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--PART.FIELD VALUE`, then these: argparse would take VALUE for the recipe.

    A word that begins with two hyphens is no VALUE.
    """
    plain: list[str] = []
    settings: list[str] = []
    words = list(reversed(arguments))
    while words:
        word = words.pop()
        if re.match(r"--[^=.]+\.", word) is None:
            plain.append(word)
            continue
        settings.append(word)
        if "=" not in word and words and not words[-1].startswith("--"):
            settings.append(words.pop())
    return plain, settings


class Format(CommandsFormatter):
    """A help with lines of at most 100 characters; names of up to 20 letters stand beside their text."""

    def __init__(self, prog: str) -> None:
        width = shutil.get_terminal_size().columns - 2
        super().__init__(prog, max_help_position=24, width=min(width, 100))


class Parser(PrintingParser):
    """A parser that raises UserError for a mistake, and neither prints nor exits as argparse's own does."""

    def __init__(self, **settings: Any) -> None:
        self._takes_next = False
        super().__init__(**{"formatter_class": Format, "allow_abbrev": False, **settings})
        self.color = False  # from Python 3.14 on help has colours

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse `args`, and raise UserError for a word that the command does not know.

        argparse would refuse it later, when it no longer knows which command was given.
        """
        if args is not None:
            self._check_flags(args)
            self._takes_next = "--json" in args
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def _check_flags(self, words: Sequence[str]) -> None:
        """Raise UserError for a flag that does not exist, before argparse says what is missing."""
        known = options_of(self)
        for word in words:
            flag = word.partition("=")[0]
            if word == "--" or (commands_of(self) and not word.startswith("-")):
                return
            if word.startswith("--") and flag not in known:
                self.error(f"There is no option {flag}", did_you_mean(flag, known))

    def error(self, message: str, guess: str = "") -> NoReturn:
        """Raise UserError in place of argparse's `message`, with `guess`, a sentence about what was meant."""
        message = message.removeprefix("argument ")
        if choice := re.match(r"(\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)$", message, re.S):
            place, word, known = choice[1], choice[2], re.findall(r"[\w-]+", choice[3])
            guess = did_you_mean(word, known)
            if place == "COMMAND":
                raise UserError(f"There is no command {word!r}: `{self.prog} --help` lists them.{guess}")
            raise UserError(f"{place}: invalid choice: {word!r}, choose {_either(known)}.{guess}")
        if missing := re.match(r"the following arguments are required: (.*)", message):
            message = f"{missing[1]} is missing"
            json = options_of(self).get("--json")
            if self._takes_next and json is not None and json.nargs == "?":
                message += " (--json takes the next word for its file, so it comes last)"
        raise UserError(f"{message[:1].upper()}{message[1:]}: see `{self.prog} --help`.{guess}")


def _either(words: Sequence[str]) -> str:
    """Words as an enumeration: "a, b or c"."""
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def build_parser() -> Parser:
    """The parser of `vitgan` with all its commands."""
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
