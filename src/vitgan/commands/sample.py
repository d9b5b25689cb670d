"""`vitgan sample`: draw images from a trained run."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from vitgan.errors import UserError
from vitgan.terminal import add_output, answer, counted, in_line

if TYPE_CHECKING:
    from torch import Tensor

    from vitgan.models import Generator

SUMMARY = "draw images from a trained run"
OTHER_PICTURES = (".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".npy", ".zip")
EXAMPLES = """examples:
  vitgan sample digits --out grid.png            the package's own, no training
  vitgan sample mnist --class 7 --out sevens.png
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
    parser.add_argument(
        "--class",
        dest="label",
        metavar="K",
        help="a class, by name or number; all: in turn (random ones)",
    )
    parser.add_argument("--class-folders", action="store_true", help="in a folder, one folder a class")
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
    labels = _labels(generator, options)
    if options.class_folders and (labels is None or options.out.suffix.lower() in (".png", ".npz")):
        raise UserError("--class-folders needs a generator with classes, and --out to be a folder.")
    images = generator.sample(
        options.count,
        seed=options.seed,
        truncation=options.truncation,
        scale=options.scale,
        labels=labels,
    )
    names = class_folders(generator) if options.class_folders else None
    save_images(options.out, images, labels, names)
    facts = {name: getattr(options, name) for name in ("run", "out", "count", "seed", "truncation", "scale")}
    said = f"Wrote {options.out}: {counted(options.count, 'image')}"
    if options.label is not None and labels is not None and (one := labels.unique()).numel() == 1:
        facts["class"] = int(one)
        name = generator.class_names[int(one)] if generator.class_names else str(int(one))
        said += f" of class {int(one)}" + (f" ({in_line(name)})" if name != str(int(one)) else "")
    answer(options, facts, f"{said}.")
    return 0


def _labels(generator: "Generator", options: argparse.Namespace) -> "Tensor | None":
    """The classes (N,) of the images: one, all in turn, or drawn from the seed. Raises UserError."""
    import torch

    if options.label == "all" and generator.classes and "all" not in generator.class_names:
        trained = generator.trained_classes()
        return trained[torch.arange(options.count) % len(trained)]
    return generator.labels_of(options.label, options.count, options.seed)


def class_folders(generator: "Generator") -> tuple[str, ...]:
    """A name of a folder for each class: its own name, or numbers where one of these is no folder's name."""
    names = generator.class_names
    plain = all(re.fullmatch(r"\w([\w .+()-]{0,98}[\w)])?", name) for name in names)
    if names and plain and len({name.casefold() for name in names}) == len(names):
        return names
    return tuple(str(number) for number in range(generator.classes))
