"""`vitgan completion`: what a shell needs to complete commands, options, their choices, recipes and files."""

import argparse
from collections.abc import Iterator

from vitgan import recipes

SUMMARY = "print what bash, zsh or fish needs to complete commands"
EXAMPLES = """examples:
  source <(vitgan completion bash)                  for this shell alone
  vitgan completion bash > ~/.local/share/bash-completion/completions/vitgan
  vitgan completion zsh > ~/.zfunc/_vitgan          (fpath+=~/.zfunc, compinit)
  vitgan completion fish > ~/.config/fish/completions/vitgan.fish
"""
FILES = ("RUN", "SOURCE", "PATH", "IMAGE", "JSON", "OUT")  # arguments by their names in the help
FOLDERS = ("DIR",)


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")


def run(options: argparse.Namespace) -> int:
    """Does it; returns the exit code."""
    import shtab

    from vitgan.cli import build_parser

    parser = build_parser()
    _add_settings(parser)
    for action in _actions(parser):
        if action.metavar in FILES:
            action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
        elif action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY  # pyright: ignore[reportAttributeAccessIssue]
        elif action.metavar in ("RECIPE", "R") and action.type is not int:
            action.choices = recipes.names()
        elif action.metavar == "TABLE":
            action.choices = list(recipes.ROWS)
    print(shtab.complete(parser, options.shell))
    return 0


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """To `vitgan train`: --PART.FIELD of the default recipe, which the parser itself passes on."""
    from vitgan.recipes.overrides import flags

    commands = next(one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    for flag in flags(recipes.get("digits")):
        commands.choices["train"].add_argument(flag)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Of the parser and of its commands'."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
