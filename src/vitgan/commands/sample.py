"""`vitgan sample`: draw images from a trained run."""

import argparse
from pathlib import Path

from vitgan.errors import UserError
from vitgan.terminal import add_output, answer, counted

SUMMARY = "draw images from a trained run"
OTHER_PICTURES = (".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".npy", ".zip")
EXAMPLES = """examples:
  vitgan sample digits --out grid.png            the package's own, no training
  vitgan sample runs/faces --count 1000 --out samples/
  vitgan sample runs/faces --truncation 0.7 --scale 4 --out large.png
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "run",
        metavar="RUN",
        help="a run, a checkpoint or an exported folder, `mnist`, `digits`, or an id of the Hub",
    )
    parser.add_argument("--count", type=int, default=64, metavar="N", help="images to draw (64)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the latents (0)")
    parser.add_argument(
        "--truncation", type=float, default=1.0, metavar="T", help="pull toward the mean, 0 to 1 (1)"
    )
    parser.add_argument(
        "--scale",
        type=int,
        choices=(1, 2, 4, 8),
        default=1,
        metavar="K",
        help="render at 2, 4 or 8 times the resolution (implicit outputs alone)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="PATH",
        help=".png: a grid; .npz: an array; else a folder of PNGs",
    )
    parser.add_argument("--average", type=float, metavar="L", help="one of the run's ema.lengths")
    add_output(parser)


def run(options: argparse.Namespace) -> int:
    """Draw the images and write them; returns the exit code 0. Raises UserError on a user's mistake."""
    if options.count < 1:
        raise UserError(f"--count must be at least 1, not {options.count}.")
    if not 0 <= options.truncation <= 1:
        raise UserError(f"--truncation must be from 0 to 1, not {options.truncation}.")
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed must be at least 0, and less than 2^63, not {options.seed}.")
    if options.out.suffix.lower() in OTHER_PICTURES:
        raise UserError(f"{options.out} cannot be written: end --out in .png or .npz, or name a folder.")
    from vitgan import load
    from vitgan.engine.grid import save_images

    generator = load(options.run, average=options.average)
    images = generator.sample(
        options.count, seed=options.seed, truncation=options.truncation, scale=options.scale
    )
    save_images(options.out, images)
    names = ("run", "out", "count", "seed", "truncation", "scale")
    facts = {name: getattr(options, name) for name in names}
    answer(options, facts, f"Wrote {options.out}: {counted(options.count, 'image')}.")
    return 0
