"""`vitgan completion`: what a shell needs to complete commands and options."""

import argparse

SUMMARY = "print what bash, zsh or fish needs to complete commands"
EXAMPLES = """examples:
  vitgan completion bash > ~/.local/share/bash-completion/completions/vitgan
  vitgan completion zsh > ~/.zfunc/_vitgan             (with fpath+=~/.zfunc before compinit)
  vitgan completion fish > ~/.config/fish/completions/vitgan.fish
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")


def run(options: argparse.Namespace) -> int:
    """Does it; returns the exit code."""
    import shtab

    from vitgan.cli import build_parser

    print(shtab.complete(build_parser(), options.shell))
    return 0
