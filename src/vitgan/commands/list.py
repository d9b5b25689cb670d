"""`vitgan list`: the recipes, and the rows of the tables."""

import argparse

from vitgan import recipes

SUMMARY = "list the recipes"
EXAMPLES = """examples:
  vitgan list
"""


def add(parser: argparse.ArgumentParser) -> None:
    """It has no arguments."""


def run(options: argparse.Namespace) -> int:  # noqa: ARG001
    """Print one line a recipe, one a row; returns the exit code."""
    width = max(map(len, recipes.names()))
    for name in recipes.names():
        print(f"{name:{width}}  {recipes.summary(name)}")
    print(f"\nRows of the tables, recipes by BASE-ROW; BASE is {', '.join(recipes.BASES)}:")
    for table, rows in recipes.ROWS.items():
        print(f"\nvitgan reproduce {table}")
        for row, text in rows.items():
            print(f"  {row:{width}}  {text}")
    return 0
