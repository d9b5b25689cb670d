"""`vitgan completion`: what a shell needs to complete commands, options, their choices, recipes and files."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitgan import compat, recipes, registry

SUMMARY = "print what bash, zsh or fish needs to complete commands"
EXAMPLES = """examples:
  source <(vitgan completion bash)                  for this shell alone
  vitgan completion bash > ~/.local/share/bash-completion/completions/vitgan
  vitgan completion zsh > ~/.zfunc/_vitgan          (fpath+=~/.zfunc, compinit)
  vitgan completion fish > ~/.config/fish/completions/vitgan.fish
"""
FILES = ("SOURCE", "PATH", "IMAGE", "JSON", "OUT")  # arguments by their names in the help
FOLDERS = ("DIR",)
PARTS: dict[str, registry.Kind] = {
    "generator": "generator",
    "discriminator": "discriminator",
    "loss": "loss",
    "augment": "augment",
    "terms": "term",
    "loggers": "logger",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")


def run(options: argparse.Namespace) -> int:
    """Does it; returns the exit code."""
    import shtab

    from vitgan.cli import build_parser

    runs = _runs()
    parser = build_parser()
    _add_settings(parser)
    for action in _actions(parser):
        of_files_alone = action.metavar == "RUN" and action.type is Path  # as of `vitgan inspect`
        if action.metavar in FILES or of_files_alone:
            action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
        elif action.metavar == "RUN":
            action.complete = runs  # pyright: ignore[reportAttributeAccessIssue]
        elif action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY  # pyright: ignore[reportAttributeAccessIssue]
        elif action.metavar in ("RECIPE", "R") and action.type is not int:
            action.choices = [*recipes.names(), *recipes.row_names()]
        elif action.metavar == "TABLE":
            action.choices = list(recipes.ROWS)
    print(shtab.complete(parser, options.shell))
    return 0


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """To `vitgan train`: --PART.FIELD of the default recipe, which the parser itself passes on."""
    from vitgan.recipes.settings import flags

    train = compat.commands_of(parser)["train"]
    for flag in flags(recipes.get("digits")):
        train.add_argument(flag)
    for action in compat.actions_of(train):
        if action.dest in PARTS:
            kind: registry.Kind = PARTS[action.dest]
            action.choices = registry.names(kind)


def _runs() -> dict[str, Any]:
    """What shtab completes RUN by: the package's generators, and files."""
    from vitgan.sharing.hub import PACKAGED

    own = " ".join(PACKAGED)
    function = "_vitgan_runs_or_files() {{\n{}\n}}"
    bash = f'compgen -W "{own}" -- "$1"\ncompgen -f -- "$1"'
    zsh = f"_alternative 'generators:generator:({own})' 'files:file:_files'"
    return {
        "bash": "_vitgan_runs_or_files",
        "zsh": "_vitgan_runs_or_files",
        "fish": f"{own} (__fish_complete_path (commandline -ct))",
        "preamble": {"bash": function.format(bash), "zsh": function.format(zsh)},
    }


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of the parser and of its commands."""
    for action in compat.actions_of(parser):
        yield action
        for command in compat.commands_of(action).values():
            yield from _actions(command)
