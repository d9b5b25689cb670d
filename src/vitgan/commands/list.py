"""`vitgan list`: list the recipes, the rows of the tables, and the parts that recipes are made of."""

import argparse

from vitgan import recipes, registry
from vitgan.terminal import add_output, json_of

SUMMARY = "list the recipes, and the rows of the tables"
EXAMPLES = """examples:
  vitgan list
  vitgan list --parts
  vitgan list --json
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_output(parser, quiet=False)
    parser.add_argument(
        "--parts",
        action="store_true",
        help="list the parts that a recipe can be made of: losses, terms, networks, metrics and others",
    )
    parser.add_argument("--use", action="append", metavar="FILE|MODULE", help="count in parts of your own")


def run(options: argparse.Namespace) -> int:
    """Print a line for each recipe and each row of a table; returns the exit code 0."""
    if options.parts:
        return _parts(options)
    if options.json:
        summaries = {name: recipes.summary(name) for name in recipes.names()}
        print(json_of({"recipes": summaries, "bases": recipes.BASES, "tables": recipes.ROWS}))
        return 0
    width = max(map(len, recipes.names()))
    for name in recipes.names():
        print(f"{name:{width}}  {recipes.summary(name)}")
    print(f"\nRows of the tables, recipes by BASE-ROW; BASE is {', '.join(recipes.BASES)}:")
    for table, rows in recipes.ROWS.items():
        print(f"\nvitgan reproduce {table}")
        for row, text in rows.items():
            print(f"  {row:{width}}  {text}")
    return 0


def _parts(options: argparse.Namespace) -> int:
    """Print the parts by kind; returns the exit code."""
    found = {
        kind: {part.name: part.summary for part in registry.parts(kind, installed=True)}
        for kind in registry.KINDS
    }
    if options.json:
        print(json_of(found))
        return 0
    width = max(len(name) for names in found.values() for name in names)
    for kind, names in found.items():
        print(f"{kind}:")
        for name, text in names.items():
            print(f"  {name:{width}}  {text}")
    return 0
