"""The command line: `vitgan train`, `sample`, `data`, `list`.

Exit code 0; 2 with one line for a user's mistake; 130 after an interrupt. Heavy modules are imported by the
command that needs them.
"""

import argparse
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from vitgan import __version__, recipes
from vitgan.errors import UserError

EXAMPLES = """examples:
  vitgan train                                        real handwritten digits, in minutes
  vitgan train cifar10 --data IMAGES.zip --minutes 60
  vitgan sample runs/digits --count 64 --out grid.png
  vitgan data info IMAGES.zip
"""


class Parser(argparse.ArgumentParser):
    """Says a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        raise UserError(f"{message[:1].upper()}{message[1:]} (see `{self.prog} --help`).")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    logging.basicConfig(format="vitgan: %(message)s", level=logging.WARNING)
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        return _say(str(error), 2)
    except KeyboardInterrupt:
        return _say("Interrupted.", 130)
    except BrokenPipeError:  # `vitgan list | head`: what is left in the buffer must go nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _say(f"{error.filename or 'A file'} cannot be read or written ({error.strerror or error}).", 2)


def _say(text: str, code: int) -> int:
    print(f"vitgan: {' '.join(text.split())}", file=sys.stderr)
    return code


def _run(arguments: list[str]) -> int:
    settings: list[str] = []
    if arguments[:1] == ["train"]:
        arguments, settings = _split(arguments)
    options = _parser().parse_args(arguments)
    return options.command(options, settings)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--PART.FIELD VALUE`, and those: argparse would take VALUE for the recipe."""
    plain: list[str] = []
    settings: list[str] = []
    words = iter(arguments)
    for word in words:
        if re.match(r"--[^=.]+\.", word) is None:
            plain.append(word)
        else:
            settings += [word] if "=" in word else [word, *itertools.islice(words, 1)]
    return plain, settings


def _parser() -> Parser:
    parser = Parser(
        prog="vitgan",
        description="ViTGAN: a GAN whose generator and discriminator are Vision Transformers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vitgan {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    _add_train(_command(commands, "train", _train, "train a recipe, or go on training it"))
    _add_sample(_command(commands, "sample", _sample, "draw images from a trained run"))
    _add_data(_command(commands, "data", _data_info, "say what is in a source of images"))
    _command(commands, "list", _list, "list the recipes")
    return parser


def _command(
    commands: "argparse._SubParsersAction[Parser]", name: str, run: Callable[..., int], text: str
) -> Parser:
    parser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
    )
    parser.set_defaults(command=run)
    return parser


def _add_train(parser: Parser) -> None:
    parser.add_argument(
        "recipe", nargs="?", default="digits", metavar="RECIPE", help="see `vitgan list` (digits)"
    )
    parser.add_argument(
        "--data", metavar="SOURCE", help="digits, cifar10, a folder or .zip of images, .npy, .npz"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (runs/RECIPE)")
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes of training in all")
    parser.add_argument("--images", type=int, metavar="N", help="stop after N images seen in all")
    parser.add_argument("--seed", type=int, metavar="S", help="seed of everything random (0)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default a CUDA GPU where there is one")
    parser.add_argument("--precision", choices=("fp32", "bf16", "auto"), help="of the activations")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument(
        "--settings", action="store_true", help="list every setting --PART.FIELD of the recipe with its value"
    )
    parser.epilog = "Every other setting of the recipe: --PART.FIELD VALUE, as --generator.width 192."


def _train(options: argparse.Namespace, settings: list[str]) -> int:
    recipe = recipes.get(options.recipe)  # an unknown name is said before torch is imported
    from vitgan.recipes.overrides import override

    given = {
        "--data.source": options.data,
        "--training.minutes": options.minutes,
        "--training.images": options.images,
        "--training.seed": options.seed,
        "--training.precision": options.precision,
    }
    if options.images is not None and options.minutes is None:
        given["--training.minutes"] = "None"  # the recipe's own end would come in between
    if options.minutes is not None and options.images is None:
        given["--training.images"] = "None"
    flags = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    recipe = override(recipe, [*flags, *settings], show=options.settings)
    from vitgan import train

    outcome = train(recipe, out=options.out, device=options.device, quiet=options.quiet)
    return 0 if outcome.ended == "complete" else 130


def _add_sample(parser: Parser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder or a checkpoint")
    parser.add_argument("--count", type=int, default=64, metavar="N", help="images to draw (64)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the latents (0)")
    parser.add_argument(
        "--truncation", type=float, default=1.0, metavar="T", help="pull toward the mean, 0 to 1 (1)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="PATH",
        help=".png: a grid; .npz: an array; else a folder of PNGs",
    )


def _sample(options: argparse.Namespace, settings: list[str]) -> int:  # noqa: ARG001
    if options.count < 1:
        raise UserError(f"--count must be at least 1, not {options.count}.")
    if not 0 <= options.truncation <= 1:
        raise UserError(f"--truncation must be from 0 to 1, not {options.truncation}.")
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed must be at least 0, and less than 2^63, not {options.seed}.")
    from vitgan import load
    from vitgan.engine.images import save_images

    images = load(options.run).sample(options.count, seed=options.seed, truncation=options.truncation)
    save_images(options.out, images)
    return 0


def _add_data(parser: Parser) -> None:
    parser.add_argument("what", choices=("info",), help="info: its images, classes and unreadable files")
    parser.add_argument("source", metavar="SOURCE", help="as for `vitgan train --data`")


def _data_info(options: argparse.Namespace, settings: list[str]) -> int:  # noqa: ARG001
    from vitgan.data import DataOptions, describe, open_source

    facts = describe(DataOptions(source=options.source).build())
    width, height = open_source(options.source).picture(0).size
    counts = facts["classes"]
    lines = {
        "source": facts["source"],
        "images": f"{facts['count']:,}",
        "first image": f"{width} x {height} pixels",
        "classes": f"{len(counts)}" if counts else "none",
        **{f"  {name}": f"{count:,}" for name, count in counts.items()},
        "unreadable": f"{len(facts['skipped'])}",
        **{f"  {item['name']}": item["reason"] for item in facts["skipped"]},
    }
    longest = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:{longest}}  {value}")
    return 0


def _list(options: argparse.Namespace, settings: list[str]) -> int:  # noqa: ARG001
    width = max(map(len, recipes.names()))
    for name in recipes.names():
        print(f"{name:{width}}  {recipes.summary(name)}")
    return 0
