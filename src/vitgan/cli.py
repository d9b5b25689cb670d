"""The command line: `vitgan train`, `sample`, `list`.

Exit code 0; 2 with one line for a user's mistake; 130 after an interrupt. Heavy modules are imported by the
command that needs them.
"""

import argparse
import logging
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
"""


class Parser(argparse.ArgumentParser):
    """Says a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]} (see `{self.prog} --help`).")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    logging.basicConfig(format="vitgan: %(message)s", level=logging.WARNING)
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        print(f"vitgan: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `vitgan list | head`
        sys.stderr.close()
        return 0


def _run(arguments: list[str]) -> int:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command is not _train:
        parser.error(f"unrecognised argument {rest[0]}")
    return options.command(options, rest)


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


def _train(options: argparse.Namespace, rest: list[str]) -> int:
    recipe = recipes.get(options.recipe)  # an unknown name is said before torch is imported
    from vitgan.recipes.overrides import override

    given = {
        "--data.source": options.data,
        "--training.minutes": options.minutes,
        "--training.images": options.images,
        "--training.seed": options.seed,
        "--training.precision": options.precision,
    }
    flags = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    recipe = override(recipe, [*flags, *rest], show=options.settings)
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


def _sample(options: argparse.Namespace, rest: list[str]) -> int:  # noqa: ARG001
    if options.count < 1:
        raise UserError(f"--count must be at least 1, not {options.count}.")
    from vitgan import load
    from vitgan.engine.images import save_images

    images = load(options.run).sample(options.count, seed=options.seed, truncation=options.truncation)
    save_images(options.out, images)
    return 0


def _list(options: argparse.Namespace, rest: list[str]) -> int:  # noqa: ARG001
    width = max(map(len, recipes.names()))
    for name in recipes.names():
        print(f"{name:{width}}  {recipes.summary(name)}")
    return 0
