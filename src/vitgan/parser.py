"""The command line's parser: argparse's, with errors of one line that guess what was meant."""

import re
import shutil
from collections.abc import Sequence
from typing import Any, NoReturn

from vitgan.compat import CommandsFormatter, PrintingParser, commands_of, options_of
from vitgan.errors import UserError, did_you_mean


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
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
