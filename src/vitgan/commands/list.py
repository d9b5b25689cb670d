"""`vitgan list`: the recipes, and the rows of the tables."""

import argparse

from vitgan import recipes
from vitgan.terminal import add_output, json_of

SUMMARY = "list the recipes, and the rows of the tables"
EXAMPLES = """examples:
  vitgan list
  vitgan list --json
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_output(parser, quiet=False)


def run(options: argparse.Namespace) -> int:
    """Print one line a recipe, one a row; returns the exit code."""
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
