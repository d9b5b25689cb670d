"""`vitgan resume`: go on training a run by the recipe that it keeps."""

import argparse
import os
from dataclasses import asdict, replace
from pathlib import Path

from vitgan.errors import UserError
from vitgan.terminal import add_output, json_of

SUMMARY = "go on training a run, without giving its settings again"
EXAMPLES = """examples:
  vitgan resume runs/digits                      after an interrupt
  vitgan resume runs/digits --minutes 60         to an hour in all
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("--data", metavar="SOURCE", help="where the same images are now")
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes of training in all")
    parser.add_argument("--images", type=int, metavar="N", help="stop after N images seen in all")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default a CUDA GPU where there is one")
    add_output(parser)


def run(options: argparse.Namespace) -> int:
    """Go on with the run; returns the exit code, 130 after an interrupt.

    Raises UserError where there is no run, or it has had the minutes and images that it was to have.
    """
    from vitgan import train
    from vitgan.engine.run_folder import standing

    recipe, images, seconds = standing(options.run)
    limits = {name: getattr(options, name) for name in ("minutes", "images")}
    if any(value is not None for value in limits.values()):
        recipe = replace(recipe, training=replace(recipe.training, **limits))
    most, minutes = recipe.training.images, recipe.training.minutes
    if (most is not None and images >= most) or (minutes is not None and seconds >= 60 * minutes):
        raise UserError(
            f"{options.run} has seen {images:,} images in {seconds / 60:.3g} minutes, as many as it was to: "
            f"give more in all, --minutes {max(1, round(seconds / 30))} or --images {2 * images}."
        )
    if options.data is not None:
        recipe = replace(recipe, data=replace(recipe.data, source=options.data))
    outcome = train(recipe, out=options.run, device=options.device, quiet=options.quiet or options.json)
    if options.json and os.environ.get("RANK", "0") == "0":
        print(json_of(asdict(outcome)))
    return 0 if outcome.ended == "complete" else 130
