"""Argparse's parser, whose errors are a line with the name that was perhaps meant, and whose help fits."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from vitgan.errors import UserError, did_you_mean


class Format(argparse.RawDescriptionHelpFormatter):
    """Names of up to 20 letters stand beside their text; the lines are at most 100 long."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=24)
        self._width = min(self._width, 100)

    def add_argument(self, action: argparse.Action) -> None:
        """Commands stand further in than argparse reckons with."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment


class Parser(argparse.ArgumentParser):
    """Says a mistake in one line."""

    def __init__(self, **settings: Any) -> None:
        self._takes_next = False
        super().__init__(**{"formatter_class": Format, "allow_abbrev": False, **settings})
        self.color = False  # from Python 3.14 on help has colours

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Refuses what it does not know: argparse would do so later, without knowing the command."""
        if args is not None:
            self._check_flags(args)
            self._takes_next = "--json" in args
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def _check_flags(self, words: Sequence[str]) -> None:
        """An unknown flag is said before what is missing for want of it."""
        known = self._option_string_actions
        for word in words:
            flag = word.partition("=")[0]
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                return
            if word.startswith("--") and flag not in known:
                self.error(f"There is no option {flag}", did_you_mean(flag, known))

    def _print_message(self, message: str, file: Any = None) -> None:
        """A help that cannot be written is an error as any other output; argparse says nothing."""
        stream = file or sys.stderr
        if message and stream is not None:
            stream.write(message)

    def error(self, message: str, guess: str = "") -> NoReturn:
        """Raise UserError."""
        message = message.removeprefix("argument ")
        if choice := re.match(r"(\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)$", message, re.S):
            place, word, known = choice[1], choice[2], re.findall(r"[\w-]+", choice[3])
            guess = did_you_mean(word, known)
            if place == "COMMAND":
                raise UserError(f"There is no command {word!r}: `{self.prog} --help` lists them.{guess}")
            raise UserError(f"{place}: invalid choice: {word!r}, choose {_either(known)}.{guess}")
        if missing := re.match(r"the following arguments are required: (.*)", message):
            message = f"{missing[1]} is missing"
            json = self._option_string_actions.get("--json")
            if self._takes_next and json is not None and json.nargs == "?":
                message += " (--json takes the next word for its file, so it comes last)"
        raise UserError(f"{message[:1].upper()}{message[1:]}: see `{self.prog} --help`.{guess}")


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
